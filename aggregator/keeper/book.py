"""What a keeper remembers, in one SQLite file: hospitals, what was evaluated, the register, and a log.

The register holds a tag and a mark for each person and nothing else: no hospital, no time, no order. The log
says who asked for how many evaluations and when; each of its entries holds the hash of the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from medveil.errors import Error
from medveil.ids import canonical, digest
from medveil.sqlite import open_sqlite
from privacy.oprf.keeper import LimitReached, RegisterFull
from privacy.oprf.sealing import Claim

_META = sa.MetaData()
_HOSPITALS = sa.Table(
    "hospitals",
    _META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("patients", sa.Integer, nullable=False),
)
_EVALUATED = sa.Table(
    "evaluated",
    _META,
    sa.Column("hospital", sa.String, primary_key=True),
    sa.Column("mark", sa.LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)
_REGISTER = sa.Table(
    "register",
    _META,
    sa.Column("tag", sa.LargeBinary, primary_key=True),
    sa.Column("mark", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
_LOG = sa.Table(
    "log",
    _META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("time", sa.Integer, nullable=False),
    sa.Column("what", sa.String, nullable=False),
    sa.Column("hospital", sa.String, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)


class BookDamaged(Error):
    """The keeper's file is not what was written, or cannot be."""

    code = "keeper-book"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The keeper's file keeper.db cannot be used: {reason}.",
            meaning="Whom it has given to which hospital cannot be told, so it answers nothing.",
            remedy="Check that the disk has room. An older copy gives persons away a second time: restore "
            "only the newest one, and tell the consortium's admin.",
        )


@dataclass(frozen=True)
class Logged:
    """One entry of the log."""

    number: int
    time: int
    what: str
    """``admitted`` or ``evaluated``."""
    hospital: str
    count: int
    """Evaluations that this entry counts; of ``admitted`` the limit."""
    total: int
    """Evaluations of this hospital so far."""
    hash: bytes


class KeeperBook:
    """See :class:`privacy.oprf.keeper.Book`. Every change is on stable storage when its call returns."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._engine = open_sqlite(path)
        sa.event.listen(self._engine, "connect", _durable)
        sa.event.listen(self._engine, "begin", _immediate)
        with self._change() as tx:
            _META.create_all(tx)

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    def admit(self, hospital: str, key: bytes, patients: int) -> None:
        """Let a hospital ask, for so many patients over its life; or change that."""
        values = {"name": hospital, "key": key, "patients": patients}
        with self._change() as tx:
            tx.execute(insert(_HOSPITALS).values(**values).on_conflict_do_update(["name"], set_=values))
            self._log(tx, "admitted", hospital, patients)

    def hospitals(self) -> list[tuple[str, bytes, int, int]]:
        """Name, key, limit and evaluations so far, by name."""
        with self._change() as tx:
            rows = tx.execute(sa.select(_HOSPITALS).order_by(_HOSPITALS.c.name)).all()
            return [(r.name, r.key, r.patients, _total(tx, r.name)) for r in rows]

    def key_of(self, hospital: str) -> bytes | None:
        """See :class:`privacy.oprf.keeper.Book`."""
        with self._change() as tx:
            return tx.scalar(sa.select(_HOSPITALS.c.key).where(_HOSPITALS.c.name == hospital))

    def charge(self, hospital: str, marks: Sequence[bytes]) -> None:
        """See :class:`privacy.oprf.keeper.Book`."""
        with self._change() as tx:
            known = sa.select(_EVALUATED.c.mark).where(
                _EVALUATED.c.hospital == hospital, _EVALUATED.c.mark.in_(marks)
            )
            new = set(marks) - set(tx.scalars(known))
            limit = tx.scalar(sa.select(_HOSPITALS.c.patients).where(_HOSPITALS.c.name == hospital)) or 0
            if _total(tx, hospital) + len(new) > limit:
                raise LimitReached()
            if new:
                tx.execute(_EVALUATED.insert(), [{"hospital": hospital, "mark": one} for one in sorted(new)])
                self._log(tx, "evaluated", hospital, len(new))

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """See :class:`privacy.oprf.keeper.Book`."""
        with self._change() as tx:
            wanted = _REGISTER.select().where(_REGISTER.c.tag.in_([tag for tag, _ in claims]))
            held = {row.tag: row.mark for row in tx.execute(wanted)}
            new: dict[bytes, bytes] = {}
            for tag, mark in claims:
                if tag not in held:
                    new.setdefault(tag, mark)
            most = tx.scalar(sa.select(sa.func.sum(_HOSPITALS.c.patients))) or 0
            if new and (tx.scalar(sa.select(sa.func.count()).select_from(_REGISTER)) or 0) + len(new) > most:
                raise RegisterFull()
            if new:
                tx.execute(_REGISTER.insert(), [{"tag": t, "mark": m} for t, m in sorted(new.items())])
            held |= new
            return [held[tag] == mark for tag, mark in claims]

    def log(self) -> list[Logged]:
        """Every entry, oldest first. Raises: BookDamaged if one was altered or taken out."""
        with self._change() as tx:
            rows = tx.execute(sa.select(_LOG).order_by(_LOG.c.number)).all()
        entries, before = [Logged(**row._mapping) for row in rows], b""
        for number, one in enumerate(entries, start=1):
            if (one.number, one.hash) != (number, _hash(before, one)):
                raise BookDamaged(reason=f"entry {number} of its log is not what was written")
            before = one.hash
        return entries

    def _log(self, tx: sa.Connection, what: str, hospital: str, count: int) -> None:
        last = tx.execute(sa.select(_LOG).order_by(_LOG.c.number.desc()).limit(1)).first()
        number, before = (last.number + 1, last.hash) if last else (1, b"")
        one = Logged(number, int(self._now()), what, hospital, count, _total(tx, hospital), b"")
        values = {**vars(one), "hash": _hash(before, one)}
        tx.execute(_LOG.insert().values(**values))

    @contextmanager
    def _change(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as tx:
                yield tx
        except sa.exc.DatabaseError as error:
            raise BookDamaged(reason=str(error.orig)) from error


def _total(tx: sa.Connection, hospital: str) -> int:
    mine = sa.select(sa.func.count()).select_from(_EVALUATED).where(_EVALUATED.c.hospital == hospital)
    return tx.scalar(mine) or 0


def _hash(before: bytes, one: Logged) -> bytes:
    told = [one.number, one.time, one.what, one.hospital, one.count, one.total]
    return digest("keeper-log", before, canonical(told))


def _durable(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, for the lock to come first
    for pragma in ("journal_mode = DELETE", "synchronous = EXTRA", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
