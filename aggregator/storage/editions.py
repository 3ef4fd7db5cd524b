"""Whether tables are still as they were read, told without asking the database: by SQLite's change counter.

A file in rollback mode counts every commit that changed it, at bytes 24 to 28 of its header (SQLite's file
format, 1.3.5). What follows from that, and is all that is used here:

* Whoever is inside a transaction, reading or writing, keeps every other writer from committing. A counter
  that is read there belongs to what the transaction reads. A crash in the middle of a commit may have left a
  later one in the file, but whoever enters next has undone that commit before anything is read.
* A write transaction of this process that found the counter at ``n``, inserted a row and ended well, has
  counted ``n + 1``, and nobody else has: it kept all others away until it ended, and their first one counts
  ``n + 2``. So a commit of our own that left some tables alone does not take away what is known of them,
  and a commit of anybody else is never taken for one of ours, however soon after ours it comes.
* A look at the counter outside a transaction is a look at the file as all processes of this machine see it.
  Before the first page of a commit is there, the commit has not happened; from then on the counter differs.
  While a commit of ours is on its way its number is not known yet: whether it will stand is not certain.

A commit of ours that failed, or may have failed, is never counted: what is in the file then is somebody's.

A file descriptor is needed for the look, and closing one gives up all locks that this process has on the
file (fcntl(2)), SQLite's too. So each file has one, closed with the last database that is open on it.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import sqlalchemy as sa

HEADER, ROLLBACK = slice(18, 28), b"\x01\x01"
"""Where the header says how the file is written, and by what it says that each commit is counted."""
T = TypeVar("T")
Edition = tuple[int, ...]
"""Names what some tables hold; only to be compared."""


@dataclass
class _Held:
    users: int = 0
    handle: int | None = None
    """Opened when somebody first looks."""


_held: dict[tuple[int, int], _Held] = {}
_holding = threading.Lock()


class ChangeCounter:
    """The change counter of a SQLite file; any thread may look. The file is there already."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with _holding:
            found = os.stat(file)
            self._key = found.st_dev, found.st_ino
            self._mine = _held.setdefault(self._key, _Held())
            self._mine.users += 1

    def look(self) -> int | None:
        """How often the file was changed, modulo 2^32; None if it does not tell."""
        try:
            handle = self._handle()
            told = b"" if handle is None else os.pread(handle, HEADER.stop - HEADER.start, HEADER.start)
        except OSError:  # out of reach: whoever reads the database will say so
            return None
        return int.from_bytes(told[6:], "big") if len(told) == 10 and told.startswith(ROLLBACK) else None

    def _handle(self) -> int | None:
        if self._mine.handle is None:
            with _holding:
                if self._mine.users and self._mine.handle is None:
                    self._mine.handle = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
        return self._mine.handle

    def close(self) -> None:
        """The database is closed, and its connections with it. Nobody looks any more."""
        with _holding:
            self._mine.users -= 1
            if not self._mine.users:
                del _held[self._key]
                handle, self._mine.handle = self._mine.handle, None
                if handle is not None:
                    os.close(handle)


class Remembered(Generic[T]):
    """What was read of some tables, by name, as long as their edition lasts.

    Args:
        edition: their present one; None where only a question tells.
    """

    def __init__(self, edition: Callable[[], Edition | None]) -> None:
        self._edition = edition
        self._found: dict[str, T] = {}
        self._of: Edition | None = None

    def get(self, name: str) -> T | None:
        """What was kept under this name, if the tables still say the same."""
        present = self._edition()
        return self._found.get(name) if present is not None and present == self._of else None

    def keep(self, name: str, found: T | None, edition: Edition | None) -> None:
        """Remember what an edition says; what has no name, and that there is nothing, is not remembered."""
        if edition is None or found is None:
            return
        if edition != self._of:
            self._found, self._of = {}, edition
        self._found[name] = found


class Editions:
    """What this process knows of who has written what.

    Args:
        look: the change counter; None where there is none, as on PostgreSQL.
    """

    def __init__(self, look: Callable[[], int | None]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._at: int | None = None
        """The last count whose changes are all accounted for below."""
        self._others = 0
        """Goes up with whatever may have changed any table."""
        self._own: Counter[str] = Counter()
        """Table → commits of this process that changed it."""

    def now(self, tables: Iterable[sa.Table]) -> Edition | None:
        """The present edition of these tables; None if a transaction must be asked. It waits for nobody."""
        count = self._look()
        with self._lock:
            return self._named(tables) if count is not None and count == self._at else None

    def inside(self, tables: Iterable[sa.Table]) -> Edition | None:
        """The edition that a transaction reads, which has read something and is still open.

        It has changed nothing itself.
        """
        count = self._look()
        with self._lock:
            if count != self._at:
                self._at, self._others = count, self._others + 1
            return None if count is None else self._named(tables)

    def count(self) -> int | None:
        """To be asked inside a write transaction, for :meth:`wrote`."""
        return self._look()

    def wrote(self, before: int | None, tables: Iterable[sa.Table]) -> None:
        """A commit of this process has ended well that inserted a row.

        Args:
            before: what :meth:`count` told inside it. tables: those that it may have changed.
        """
        with self._lock:
            if before is not None and before == self._at:
                self._at = (before + 1) % 2**32
                self._own.update(table.name for table in tables)

    def _named(self, tables: Iterable[sa.Table]) -> Edition:
        return (self._others, *(self._own[table.name] for table in tables))
