"""DCMTK's dcmqrscp as a second PACS: another program that speaks DIMSE, with a folder of instances."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from medveil_research.ports import free_port

INSTALL = "apt-get install dcmtk"
TITLE, OUR_TITLE = "STORAGE", "MEDVEIL"
CONFIGURED = """
NetworkTCPPort  = {port}
MaxPDUSize      = 16384
MaxAssociations = 4
UserName        = {user}
GroupName       = {group}
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{title} {folder} R (500, 1024mb) ANY
AETable END
"""


def installed() -> bool:
    """Whether its programs are here."""
    return shutil.which("dcmqrscp") is not None and shutil.which("dcmqridx") is not None


@contextlib.contextmanager
def running(folder: Path, files: Iterable[bytes]) -> Iterator[str]:
    """A PACS that only reads (``R``), with these instances; its address."""
    shelf = folder / "shelf"
    shelf.mkdir(parents=True)
    paths = []
    for number, data in enumerate(files):
        paths.append(shelf / f"{number:05}.dcm")
        paths[-1].write_bytes(data)
    subprocess.run(["dcmqridx", str(shelf), *map(str, paths)], check=True, capture_output=True)
    port = free_port()
    config = folder / "dcmqrscp.cfg"
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    told = {"port": port, "title": TITLE, "folder": shelf, "user": user, "group": group}
    config.write_text(CONFIGURED.format(**told))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["dcmqrscp", "-c", str(config), str(port)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"dimse://{TITLE}@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
