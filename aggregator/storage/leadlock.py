"""The lock of the one process that coordinates on a database."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

import sqlalchemy as sa

LEADER = 0x4D656457
"""PostgreSQL's advisory lock of the process that leads."""
LEADER_OPTIONS = (
    ("statement_timeout", "3s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "8s"),
)
"""So that the server notices soon when the machine of the process that leads has gone."""
OPENING, TOUCHED = "60s", "8s"
"""How long the session that holds the lead may be idle (from PostgreSQL 14 on): while everything is read at
the start, and then. A leader touches it each second; one that hangs does not, and loses the lead."""
_SET = sa.text("SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :option")
"""A server that does not know the option is not asked for it."""


class LeadLock:
    """Held by the one process that coordinates.

    The system lets it go when the process dies: the kernel for SQLite, the server for PostgreSQL, there at
    the latest 11 s after the process's machine has gone, and 8 s after it has stopped taking the lead again.
    """

    def __init__(self, engine: sa.Engine, *, idle: str = OPENING) -> None:
        self._engine, self._idle = engine, idle
        self._held: sa.Connection | int | None = None
        self._touched = False

    def take(self) -> bool:
        """Take or keep it; whether it is held now. Raises: DBAPIError."""
        if self._engine.dialect.name == "postgresql":
            return self._take_postgres()
        if self._held is None:
            handle = os.open(f"{self._engine.url.database}.lead", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            self._held = handle
        return True

    def _take_postgres(self) -> bool:
        if isinstance(self._held, sa.Connection):
            try:
                if not self._touched:
                    self._held.execute(_SET, {"option": "idle_session_timeout", "value": TOUCHED})
                self._touched = True
                self._held.execute(sa.text("SELECT 1"))
                return True
            except sa.exc.DBAPIError:
                self.drop()
        link = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        link.detach()  # of no use to anybody else
        for option, value in (*LEADER_OPTIONS, ("idle_session_timeout", self._idle)):
            link.execute(_SET, {"option": option, "value": value})
        if not link.execute(sa.select(sa.func.pg_try_advisory_lock(LEADER))).scalar_one():
            link.close()
            return False
        self._held, self._touched = link, False
        return True

    def drop(self) -> None:
        """Let it go."""
        if isinstance(self._held, sa.Connection):
            with suppress(sa.exc.DBAPIError):
                self._held.close()
        elif self._held is not None:
            os.close(self._held)
        self._held = None
