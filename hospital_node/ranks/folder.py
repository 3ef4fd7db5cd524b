"""The folder of one training job: everything that node and ranks say to each other.

Each file is written beside and renamed, sealed under the job's one-time key and under its own name: it can be
neither read nor replaced by another one. The key is never in the folder. Only signs of life are in the clear.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hospital_node.sealed import SealedFile
from medveil.identity import Secret

KEY_BYTES = 32
KEY = "MEDVEIL_JOB_KEY"
"""The variable by which a job's command hands the key on."""
ORDER, NODE = "order", "node"
MEETING = "meeting"
"""Where ranks find each other; it has addresses and nothing else."""
BEAT_S = 2.0
LEFT_S = 86_400.0
"""A folder whose node has shown no life for so long is of a process that has ended."""
SHORT_S, LONG_S = 0.001, 0.05
"""Between two looks for a file: at first, and after a while."""
Arrays = dict[str, NDArray[Any]]


class Damaged(Exception):
    """A file is there and was not sealed by this job."""


class JobFolder:
    """One job's folder, as the node and its ranks see it."""

    def __init__(self, path: Path, key: Secret) -> None:
        self.path, self._key = path, key

    @classmethod
    def make(cls, base: Path) -> JobFolder:
        """A new one with a new key; folders that a crash has left are removed. Raises: OSError."""
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in base.glob("job-*"):
            with suppress(OSError):
                if time.time() - max(one.stat().st_mtime for one in (old, *old.glob("alive-*"))) > LEFT_S:
                    shutil.rmtree(old)
        path = base / f"job-{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        return cls(path, Secret(secrets.token_bytes(KEY_BYTES)))

    @property
    def environment(self) -> dict[str, str]:
        """What a job's command hands on to its ranks."""
        return {KEY: self._key.reveal().hex()}

    def _file(self, name: str) -> SealedFile:
        return SealedFile(self.path / name, self._key, f"{self.path.name} {name}".encode())

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Words and numbers, for the others. Raises: OSError."""
        self._check_there()
        self._file(name).write(json.dumps(content).encode(), synced=False)

    def read(self, name: str) -> dict[str, Any] | None:
        """What :meth:`write` wrote; None if it is not there yet. Raises: Damaged."""
        if not (self.path / name).exists():
            return None
        content = self._file(name).read()
        if content is None:
            raise Damaged(name)
        found = json.loads(content)
        if not isinstance(found, dict):
            raise Damaged(name)
        return found

    def write_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Arrays, for the others. Raises: OSError."""
        self._check_there()
        self._file(name).write_arrays(arrays, synced=False)

    def read_arrays(self, name: str) -> Arrays | None:
        """What :meth:`write_arrays` wrote; None if it is not there yet. Raises: Damaged."""
        if not (self.path / name).exists():
            return None
        found = self._file(name).read_arrays()
        if not found:
            raise Damaged(name)
        return found

    def forget(self, *names: str) -> None:
        """Remove what everybody has read."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    @property
    def is_there(self) -> bool:
        """Whether the job goes on: the node removes its folder when it is over."""
        return self.path.is_dir()

    def _check_there(self) -> None:
        """A rank that is late must not make the folder of a job that is over again."""
        if not self.is_there:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def remove(self) -> None:
        """End the job for whoever looks; nobody who still writes finds it any more."""
        over = self.path.with_name(f"{self.path.name}.over")
        with suppress(OSError):
            os.replace(self.path, over)
        shutil.rmtree(over, ignore_errors=True)

    def beat(self, who: str, number: int) -> None:
        """Show a sign of life."""
        with suppress(OSError):
            scratch = self.path / f"alive-{who}.part"
            scratch.write_text(str(number))
            os.replace(scratch, self.path / f"alive-{who}")

    def sign(self, who: str) -> str:
        """The last sign of life; empty before the first."""
        try:
            return (self.path / f"alive-{who}").read_text()
        except OSError:
            return ""


class Beating:
    """A thread that shows signs of life for this process until it is closed.

    Args:
        also: asked at every sign as well.
    """

    def __init__(self, folder: JobFolder, who: str, also: Callable[[], None] = lambda: None) -> None:
        self._over = threading.Event()

        def beat() -> None:
            number = 0
            while True:
                folder.beat(who, number := number + 1)
                also()
                if self._over.wait(BEAT_S):
                    return

        self._thread = threading.Thread(target=beat, name="job's sign of life", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Show no more."""
        self._over.set()
        self._thread.join()


class Signs:
    """Watches others' signs of life. Clocks of machines differ, so it looks whether they change."""

    def __init__(
        self, folder: JobFolder, silent_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._silent_s, self._clock = folder, silent_s, clock
        self._seen: dict[str, tuple[str, float]] = {}

    def silent(self, who: str) -> bool:
        """Whether somebody has shown no new sign for too long."""
        now, sign = self._clock(), self._folder.sign(who)
        before, since = self._seen.get(who, ("", now))
        if sign != before or who not in self._seen:
            self._seen[who] = (sign, now)
            return False
        return now - since > self._silent_s


class Waiting:
    """The pauses between looks for a file: short at first, so that a fast step is not held up."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def pause(self) -> None:
        """Until the next look."""
        time.sleep(min(LONG_S, max(SHORT_S, self.seconds / 50)))
