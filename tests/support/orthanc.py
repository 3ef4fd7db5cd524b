"""A real Orthanc of our own in a temporary folder: loopback only, with a password, gone with the tests."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medveil_research.ports import free_port

INSTALL = "apt-get install orthanc orthanc-dicomweb"
PROGRAM = shutil.which("Orthanc") or next((p for p in ("/usr/sbin/Orthanc",) if Path(p).exists()), None)
PLUGINS = Path("/usr/share/orthanc/plugins")
USER, PASSWORD = "medveil", "long and secret"
TITLE, OUR_TITLE = "ORTHANC", "MEDVEIL"


def installed() -> bool:
    """Whether Orthanc and its DICOMweb plugin are here."""
    return PROGRAM is not None and (PLUGINS / "libOrthancDicomWeb.so").exists()


class Orthanc:
    """One server and its ports."""

    def __init__(self, folder: Path, **configured: object) -> None:
        self._more = configured
        self.folder, self.port, self.dicom_port = folder, free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"
        self.dimse = f"dimse://{TITLE}@127.0.0.1:{self.dicom_port}"
        sign = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        self._headers = {"Authorization": f"Basic {sign}"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        configured = {
            "Name": "medveil-tests",
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
            "HttpPort": self.port,
            "DicomPort": self.dicom_port,
            "DicomAet": TITLE,
            "DicomCheckCalledAet": True,
            "DicomCheckModalityHost": True,
            "DicomAlwaysAllowGet": False,
            "DicomAlwaysAllowStore": False,
            "DicomModalities": {"node": [OUR_TITLE, "127.0.0.1", 4242]},
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomWeb": {"Enable": True},
            "StableAge": 1,
            **self._more,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(configured))
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(PROGRAM), str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ask("GET", "/system")
                return
            except OSError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()  # nothing of it is needed again
            self._process.wait(20)

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """One call of its own interface, which the node never uses."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(line):
            line.request(method, path, body, self._headers)
            answer = line.getresponse()
            data = answer.read()
            assert answer.status == 200, (answer.status, data[:500])
            return json.loads(data or b"null")

    def put(self, files: Iterable[bytes]) -> None:
        """Load instances into it, as a scanner would."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(line):
            for data in list(files):  # made before: it ends a connection that rests for a second
                line.request("POST", "/instances", data, self._headers)
                answer = line.getresponse()
                told = answer.read()
                assert answer.status == 200, told[:500]

    def state(self) -> tuple[int, int]:
        """Instances it holds, and how often anything was stored, changed or removed. That a series has rested
        for a while, which Orthanc notes as well, is no change."""
        changes = self.ask("GET", "/changes?since=0&limit=1000000")["Changes"]
        return (
            int(self.ask("GET", "/statistics")["CountInstances"]),
            sum(not change["ChangeType"].startswith("Stable") for change in changes),
        )


@contextlib.contextmanager
def running(folder: Path, files: Iterable[bytes] = (), **configured: object) -> Iterator[Orthanc]:
    """A server with these instances; ``configured`` in words of its own configuration."""
    server = Orthanc(folder, **configured)
    server.start()
    try:
        server.put(files)
        yield server
    finally:
        server.stop()


def password_file(folder: Path, password: str = PASSWORD) -> Path:
    """A file of mode 0600 with the password."""
    path = folder / "pacs.password"
    path.write_text(password + "\n")
    os.chmod(path, 0o600)
    return path
