"""A real server process over a world's folder, and raw sockets to it: what no HTTP client would send."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from aggregator.settings import Limits, Settings
from medveil_research.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from aggregator.web.app import create_app
from aggregator.web.connections import run
from aggregator.settings import load
from medveil.log import set_up

set_up()
settings = load(Path(sys.argv[1]))
tls = settings.folder / "tls"
run(create_app(settings), settings, tls if tls.is_dir() else None)
"""


ESTABLISHED = "01"
"""The state of an open connection in /proc/net/tcp."""


class Served:
    """The process. It speaks plain HTTP unless the folder has ``tls/``."""

    def __init__(self, folder: Path, limits: Limits, *, port: int = 0, **settings: object) -> None:
        self._wanted = port
        for _ in range(3):  # another process may take the free port before this one does
            if self._starts(folder, limits, settings):
                return
        raise AssertionError(self.log.read_text())

    def _starts(self, folder: Path, limits: Limits, settings: Mapping[str, object]) -> bool:
        self.port = self._wanted or free_port()
        self.settings = Settings(folder, port=self.port, limits=limits, **settings)  # type: ignore[arg-type]
        self.settings.save()
        self.log = folder / "server.log"
        path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            time.sleep(0.05)
        self.stop()
        return False

    def connect(self) -> socket.socket:
        """A raw connection; nothing waits longer than two minutes."""
        return socket.create_connection(("127.0.0.1", self.port), 120)

    def answer(self, *pieces: bytes) -> tuple[int, bytes]:
        """Send pieces on one new connection; the status and everything that came back until it closed."""
        with self.connect() as line:
            with contextlib.suppress(OSError):  # it may refuse before it has everything
                for piece in pieces:
                    line.sendall(piece)
            return received(line)

    def holds(self, line: socket.socket) -> bool:
        """Whether the server still has its end of a connection open."""
        ends = [f"{end[1]:04X}" for end in (line.getpeername(), line.getsockname())]
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, state, *_ = row.split()
            if [local[-4:], remote[-4:]] == ends and state == ESTABLISHED:
                return True
        return False

    @property
    def resident(self) -> int:
        """Bytes of the process in memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> float:
        """SIGTERM; the seconds until it had ended."""
        started = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - started


@contextlib.contextmanager
def served(folder: Path, limits: Limits, **settings: object) -> Iterator[Served]:
    """A server that is gone at the end of the block."""
    server = Served(folder, limits, **settings)
    try:
        yield server
    finally:
        server.stop()


def received(line: socket.socket) -> tuple[int, bytes]:
    """Read until the other side closes; status 0 if it closed without an answer."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := line.recv(65_536):
            data += piece
    return (int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/1.1 ") else 0), data
