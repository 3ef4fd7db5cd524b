"""A real cluster's processes, started by their commands over one folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from aggregator.admin import set_up_cluster
from aggregator.settings import Settings, load
from aggregator.work.cluster import ClusterUnreachable
from aggregator.work.engine import Connected, security_of
from aggregator.work.open import FILES
from served import ROOT

PATIENCE_S = 120.0


class Processes:
    """A scheduler and workers of one folder, started by their commands."""

    def __init__(self, folder: Path, *, workers: int = 2, host: str = "127.0.0.1") -> None:
        self.folder, self._count = folder, 0
        Settings(folder).save()
        with socket.socket() as listener:
            listener.bind((host, 0))
            self.address = f"tls://{host}:{listener.getsockname()[1]}"
        set_up_cluster(load(folder), self.address)
        self.running: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()
        if workers:
            self.workers = self.start_workers(workers)

    def start_scheduler(self) -> None:
        """A first one, or one in the place of another that has ended."""
        self.scheduler = self._start("scheduler")

    def start_workers(self, count: int, *, within: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """So many more.

        Args:
            within: a command line that runs the one behind it.
        """
        self._count += count
        return self._start("worker", "--processes", str(count), within=within)

    def _start(self, verb: str, *options: str, within: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        command = [
            *within,
            sys.executable,
            "-m",
            "medveil",
            "aggregator",
            verb,
            "--folder",
            str(self.folder),
            *options,
        ]
        path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
        with open(self.folder / f"{verb}.log", "ab") as log:
            self.running.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": path},
                    start_new_session=True,
                )
            )
        return self.running[-1]

    def wait_until_joined(self) -> None:
        """Until all workers are there."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(ClusterUnreachable):
                connection = self.connect()
                try:
                    if connection.workers >= self._count:
                        return
                finally:
                    connection.close()
            time.sleep(0.1)
        raise AssertionError((self.folder / "worker.log").read_text())

    def connect(self) -> Connected:
        """A connection with the folder's certificate. Raises: ClusterUnreachable."""
        files = [str(self.folder / "cluster" / name) for name in FILES]
        return Connected(self.address, security_of(*files))

    def computing(self) -> list[int]:
        """The processes that compute, under the guard of the command."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = entry.read_text().rpartition(")")[2].split()
                command = entry.with_name("cmdline").read_bytes()
                if int(fields[1]) == self.workers.pid and b"spawn_main" in command:
                    found.append(int(entry.parent.name))
        return found

    def close(self) -> None:
        """End all, whatever became of them."""
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def processes(folder: Path, *, workers: int = 2) -> Iterator[Processes]:
    """A cluster that is gone at the end of the block; its workers have joined."""
    found = Processes(folder, workers=workers)
    try:
        found.wait_until_joined()
        yield found
    finally:
        found.close()
