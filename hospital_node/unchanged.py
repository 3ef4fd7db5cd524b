"""What was read of a node's journal and is still so: a node asks the same before every request.

The operator's word, the admin's, and the newest head are looked at before anything leaves, so that a word of
another process counts at once. SQLite tells in a moment whether anybody has written to the file since.
Source: sqlite.org/pragma.html, data_version.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

import sqlalchemy as sa

T = TypeVar("T")


class Remember(Protocol):
    """:meth:`Unchanged.ask`."""

    def __call__(self, what: Hashable, read: Callable[[], T]) -> T: ...


class Unchanged:
    """Remembers what was read, until this process or another one has written to the file.

    Args:
        engine: of one SQLite file.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._link: sa.PoolProxiedConnection | None = None
        """A connection of its own, which never writes: so every write is somebody else's to it."""
        self._version: object = None
        self._found: dict[Hashable, Any] = {}

    def ask(self, what: Hashable, read: Callable[[], T]) -> T:
        """What ``read`` returns, now or since the last write; any thread may ask.

        Args:
            what: names the question; one that nobody else asks with another answer.
        Guarantees: as new as if it had been read at this moment.
        """
        with self._lock:
            version = self._seen()
            if version is None or version != self._version:
                self._found.clear()
                self._version = version
            if version is None:
                return read()
            if what not in self._found:
                self._found[what] = read()
            return cast(T, self._found[what])

    def _seen(self) -> object:
        """A number that changes with every write; None if it cannot be had: then nothing is remembered."""
        with suppress(Exception):  # a file out of reach: the reader says what is wrong with it
            if self._link is None:
                self._link = self._engine.raw_connection()
            cursor = self._link.cursor()
            try:
                return cursor.execute("PRAGMA data_version").fetchone()[0]
            finally:
                cursor.close()
        return None

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            if self._link is not None:
                self._link.close()
            self._link = None
