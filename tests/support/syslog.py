"""A real rsyslog that takes syslog over TLS; what it was told is in a file."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.access.tls import make_certificates
from medveil_research.ports import free_port

RSYSLOG = shutil.which("rsyslogd") or next((p for p in ("/usr/sbin/rsyslogd",) if Path(p).exists()), None)
INSTALL = "rsyslog with TLS is not installed: apt-get install rsyslog rsyslog-gnutls"
LIMIT_S = 60.0
CONFIGURED = """
global(workDirectory="{here}" DefaultNetstreamDriver="gtls" DefaultNetstreamDriverCAFile="{here}/ca.pem"
       DefaultNetstreamDriverCertFile="{here}/server.pem" DefaultNetstreamDriverKeyFile="{here}/server.key")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="{asks}")
template(name="all" type="string"
         string="%pri%|%protocol-version%|%timestamp:::date-rfc3339%|%app-name%|%msgid%|%msg%\\n")
input(type="imtcp" port="{port}" address="127.0.0.1")
*.* action(type="omfile" file="{here}/taken" template="all")
"""


def missing() -> bool:
    """Whether there is no such rsyslog on this machine."""
    there = RSYSLOG is not None and any(Path("/usr/lib").glob("**/rsyslog/lmnsd_gtls.so"))
    assert there or not os.environ.get("MEDVEIL_SKIP_NOTHING"), INSTALL
    return not there


needs_rsyslog = pytest.mark.skipif(missing(), reason=INSTALL)


class Archive:
    """One rsyslog: started and stopped as often as a test wants, always on one port."""

    def __init__(self, here: Path, *, asks: str = "anon") -> None:
        self.here, self._process = here, None
        here.mkdir()
        make_certificates(here, ("127.0.0.1", "localhost"))
        self.port = free_port()
        told = CONFIGURED.format(here=here, port=self.port, asks=asks)
        (here / "rsyslog.conf").write_text(told)

    _process: subprocess.Popen[bytes] | None

    def start(self) -> None:
        """Returns when it listens."""
        command = [str(RSYSLOG), "-n", "-f", str(self.here / "rsyslog.conf"), "-i", str(self.here / "pid")]
        with open(self.here / "log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + LIMIT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, (self.here / "log").read_text()
            assert time.monotonic() < deadline, (self.here / "log").read_text()
            time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> None:
        """End it; it closes its connections."""
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait(30)
            self._process = None

    def lines(self) -> list[list[str]]:
        """What it has taken: priority, version, time, application, message id, message."""
        taken = self.here / "taken"
        text = taken.read_text("utf-8") if taken.exists() else ""
        return [line.split("|", 5) for line in text.splitlines()]


@contextlib.contextmanager
def archive(here: Path, *, asks: str = "anon") -> Iterator[Archive]:
    """An rsyslog that runs."""
    made = Archive(here, asks=asks)
    made.start()
    try:
        yield made
    finally:
        made.stop()
