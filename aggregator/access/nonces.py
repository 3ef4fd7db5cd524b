"""Used nonces of requests from fast clocks, on disk: the only ones that a restart does not make stale.

After a restart every request that was signed before it is refused. A clock that is ahead signs with a time
that is still to come, so such a request would be new again. These nonces, and no others, are written down.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from aggregator.storage.blobs import StorageFailed, write_durably
from aggregator.storage.crashpoints import step
from medveil.identity import RequestProof

Used = tuple[str, str]
"""Sender and nonce."""
MANY = 10_000
"""Lines after which those that have become stale are left out; later, twice as many as were left."""


class EarlyNonces:
    """One file, a line for each nonce: time, sender, nonce.

    Raises: StorageFailed if the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._many = path, threading.Lock(), MANY
        self.existed = path.exists()
        """Whether an aggregator has worked here before."""
        try:
            path.touch(mode=0o600)
            self._lines = list(_whole(path.read_text(encoding="ascii")))
        except (OSError, ValueError) as error:
            raise StorageFailed() from error

    def used(self, since: int) -> Iterator[Used]:
        """What was used and is not stale for a process that began at ``since``."""
        return ((sender, nonce) for time, sender, nonce in self._lines if time >= since)

    def keep(self, proof: RequestProof, *, now: float) -> None:
        """Write a nonce down, on stable storage; may be called on any thread. Raises: StorageFailed."""
        line = (proof.time, proof.sender, proof.nonce)
        text = _text(line).encode("ascii")  # before anything is remembered: RequestProof has one spelling
        with self._lock:
            if len(self._lines) >= self._many:
                kept = [old for old in self._lines if old[0] >= int(now)] + [line]
                write_durably(self._path, "".join(map(_text, kept)).encode("ascii"))
                self._lines, self._many = kept, max(MANY, 2 * len(kept))
                return
            try:
                handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                try:
                    with step("nonce.keep"):
                        os.write(handle, text)
                        os.fsync(handle)
                finally:
                    os.close(handle)
            except OSError as error:
                raise StorageFailed() from error
            self._lines.append(line)


def _text(line: tuple[int, str, str]) -> str:
    return "{} {} {}\n".format(*line)


def _whole(text: str) -> Iterator[tuple[int, str, str]]:
    """The lines that were written to their end."""
    for line in text.splitlines(keepends=True):
        words = line.split()
        if line.endswith("\n") and len(words) == 3 and words[0].isdecimal():
            yield int(words[0]), words[1], words[2]
