"""The one kind of write transaction: no row without its audit entry, and none once the lead has gone.

Everything else in this room is handed :class:`Transactions`: it owns the database, the admin's identity that
signs the log, and the lead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aggregator.auditlog import NOTHING, REPLACED, Detail, Head, row_digest, seal
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.database import REVISIONS, Database
from aggregator.storage.editions import Edition
from aggregator.storage.tables import AUDIT, META, SETTINGS, UNRECORDED, at, subject
from medveil.errors import Error
from medveil.identity import BadSignature, Identity
from medveil.messages import ADMIN_KEY, HANDED_OVER, hand_over_details, sign_hand_over


class AlreadyThere(Error):
    """A name or plan exists already."""

    code = "already-there"

    def __init__(self, *, thing: str) -> None:
        super().__init__(
            what=f"There is already {thing}.",
            meaning="The first one stands; nothing was changed.",
            remedy="Use another name, or go on with the one that is there.",
        )


class NotLeading(Error):
    """Another process of this consortium has the lead."""

    code = "not-leading"

    def __init__(self) -> None:
        super().__init__(
            what="This aggregator process does not lead at the moment.",
            meaning="Another one on the same database does, or is about to; nothing was changed here.",
            remedy="Nothing to do: nodes come back, and the proxy in front finds the process that leads.",
        )


class WrongAdminKey(Error):
    """The admin key at hand is not the one that signs the audit log."""

    code = "wrong-admin-key"

    def __init__(self) -> None:
        super().__init__(
            what="The admin key in this folder is not the one that signs the audit log.",
            meaning="It was changed on another machine, or the log's end is forged. Nothing was written.",
            remedy="Copy admin.key from where it was changed. If nobody changed it: aggregator audit verify.",
        )


_INSERT = {table: table.insert() for table in META.tables.values()}
"""Made once, as those below: building a statement takes longer than running it."""
_NEWEST = sa.select(AUDIT.c.number, AUDIT.c.hash, AUDIT.c.signature).order_by(AUDIT.c.number.desc()).limit(1)
_LEAD = sa.select(SETTINGS.c.value).where(SETTINGS.c.key == "lead")


class Change:
    """One write transaction. Rows can be changed only together with their audit entries."""

    def __init__(
        self,
        tx: sa.Connection,
        signer: Identity,
        time_ms: int,
        actor: str,
        ours: Head,
        *,
        before: Head | None = None,
    ) -> None:
        self._tx, self._time_ms, self._actor, self._ours = tx, time_ms, actor, ours
        self._before = before
        """The newest entry, where an earlier change of the same transaction has written it."""
        self.signer = signer
        self.head: Head | None = None
        self.lead: str | None = None
        """The newest entry, and the number of the lead, if this transaction has written one."""
        self.touched: set[sa.Table] = set()
        """The tables whose rows it may have changed."""
        self.select = tx.execute

    @property
    def now(self) -> float:
        """Unix seconds of its entries."""
        return self._time_ms / 1000

    def insert(self, table: sa.Table, values: Mapping[str, Any], action: str, **details: Detail) -> None:
        """A new row and its entry."""
        self.touched.add(table)
        self._tx.execute(_INSERT[table], dict(values))
        self.add(action, subject(table, values), row=row_digest(values[c.name] for c in table.c), **details)

    def update(
        self,
        table: sa.Table,
        key: Mapping[str, Any],
        values: Mapping[str, Any],
        action: str,
        **details: Detail,
    ) -> None:
        """Changed columns of a row and their entry."""
        self.touched.add(table)
        self._tx.execute(table.update().where(*at(table, key)).values(**values))
        row = self._tx.execute(sa.select(table).where(*at(table, key))).one()
        self.add(action, subject(table, row._mapping), row=row_digest(row), **details)

    def forget(self, table: sa.Table, key: Mapping[str, Any]) -> None:
        """Remove rows that another entry of this transaction stands for."""
        self.touched.add(table)
        self._tx.execute(table.delete().where(*at(table, key)))

    def keep(self, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """A row of a table that the log does not tell of. Raises: ValueError for any other."""
        if table not in UNRECORDED or table is AUDIT:
            raise ValueError(f"no row of {table.name} without its audit entry")
        self.touched.add(table)
        done = self._tx.execute(table.update().where(*at(table, key)).values(**values))
        if not done.rowcount:
            self._tx.execute(_INSERT[table], {**key, **values})

    def touch(self) -> None:
        """Write what is there already."""
        where = SETTINGS.c.key == "schema"
        self._tx.execute(SETTINGS.update().where(where).values(value=SETTINGS.c.value))

    def add(self, action: str, subject: str, **details: Detail) -> None:
        """One more audit entry."""
        entry = seal(
            self.signer,
            self.head or self._before or self._signed_head(),
            time_ms=self._time_ms,
            actor=self._actor,
            action=action,
            subject=subject,
            details=details,
        )
        self.touched.add(AUDIT)
        self._tx.execute(_INSERT[AUDIT], {c.name: getattr(entry, c.name) for c in AUDIT.c})
        self.head = entry.head

    def sign_as(self, new: Identity, *, replaced: bytes | None) -> int:
        """The entry from which on another key signs; its number.

        Args:
            replaced: as in :meth:`AuditLog.change_admin_key`.
        Raises: WrongAdminKey unless the log is signed by the key that is to be followed.
        """
        before = self._signed_head(replaced)
        number, action = before.number + 1, HANDED_OVER if replaced is None else REPLACED
        details = {"old": (replaced or b"").hex(), "new": new.public_key.hex()}
        if replaced is None:
            word = sign_hand_over(self.signer, number, before.hash, new.public_key)
            details = hand_over_details(self.signer.public_key, new.public_key, word)
        self.signer, self.head = new, before
        self.add(action, ADMIN_KEY, **details)
        return number

    def raise_lead(self) -> str:
        """Count one more leader: whoever led before can change nothing any more. The new number."""
        self.lead = str(int(_lead(self._tx)) + 1)
        self.update(SETTINGS, {"key": "lead"}, {"value": self.lead}, "lead.taken", lead=int(self.lead))
        return self.lead

    def _signed_head(self, key: bytes | None = None) -> Head:
        """The head to go on from. Raises: WrongAdminKey if it is not signed by this key, or else by ours."""
        head = _head(self._tx)
        if head not in (NOTHING, self._ours) or key is not None:
            check_signed(head, key or self.signer.public_key)
        return head


@dataclass
class _Together:
    """Changes that share one commit."""

    tx: sa.Connection
    thread: int
    head: Head | None = None
    """The newest entry, if one of them has written any."""
    touched: set[sa.Table] = field(default_factory=set)
    """The tables that any of them may have changed."""
    broken: bool = False
    """The database has refused one of them: nothing of the others may be kept either."""


class Transactions:
    """The database, with the admin's signature on every change.

    Args:
        where: the SQLite file, or the URL of a PostgreSQL database; an empty one gets its tables.
        signer: the admin's identity, which signs the audit log.
        wall_clock: Unix seconds, for the audit log.
    Raises: UnusableDatabase, UnknownSchema, OldSchema.
    """

    def __init__(
        self, where: Path | str, signer: Identity, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._database = Database(where)
        self._signer, self._wall_clock = signer, wall_clock
        self._lead: str | None = None
        self.on_written: Callable[[float], object] = lambda seconds: None
        """Called with the time that each change took, its commit included."""
        self._ours = NOTHING
        """The newest entry if this process wrote it; any other one's signature is looked at first."""
        self._together: _Together | None = None
        with self.read() as tx:
            self._head = _head(tx)
        if self._head == NOTHING:
            self._begin_log()

    @property
    def in_doubt(self) -> bool:
        """Whether a commit may or may not have happened; :meth:`settled` ends it."""
        return self._database.in_doubt

    def settled(self) -> None:
        """The caller has read everything again."""
        self._database.in_doubt = False

    def edition(self, *tables: sa.Table) -> Edition | None:
        """Which edition of these tables the database holds; any thread may ask, and waits for nobody.

        What was read of the same edition (:meth:`edition_read`) is still so. None where that cannot be told.
        """
        return self._database.editions.now(tables)

    def edition_read(self, *tables: sa.Table) -> Edition | None:
        """Which edition of these tables an open :meth:`read` reads, once it has read something."""
        return self._database.editions.inside(tables) if self._shared is None else None

    def edition_asked(self, *tables: sa.Table) -> Edition | None:
        """:meth:`edition`, by a question to the database where that is needed; None on PostgreSQL.

        What is read after this was asked is at least as new. Raises: StorageFailed.
        """
        found = self.edition(*tables)
        if found is None and not self._database.is_postgres:
            with self.read() as tx:
                _lead(tx)
                found = self.edition_read(*tables)
        return found

    @property
    def head(self) -> Head:
        """Head of the audit log after this process's last change."""
        return self._head

    def witnessed(self) -> Head:
        """A head for others to keep: never older than one that any process on this database gave before.

        Raises: NotLeading if another process has written and taken the lead; the key may be another one.
        """
        if self.remembered_head is not None:
            return self.remembered_head
        with self.read() as tx:
            head = _head(tx)
            if head != self._head and self._lead is not None and _lead(tx) != self._lead:
                raise NotLeading()
            return head

    @property
    def remembered_head(self) -> Head | None:
        """What :meth:`witnessed` says, if it is in memory; any thread may ask.

        On PostgreSQL it is not: a process that has lost the lead may not know yet. On SQLite nobody takes it
        while the process lives.
        """
        return None if self._database.is_postgres else self._head

    def break_off(self) -> None:
        """See :meth:`Database.break_off`; any thread may call it."""
        self._database.break_off()

    def close(self) -> None:
        """Give the database back, and the lead."""
        self._database.close()

    def read(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that changes nothing; a part of :meth:`together` within it. Raises: StorageFailed."""
        shared = self._shared
        return self._database.read() if shared is None else self._database.part(shared.tx)

    @property
    def _shared(self) -> _Together | None:
        """What the calling thread's changes are part of, if anything."""
        shared = self._together
        return shared if shared is not None and shared.thread == threading.get_ident() else None

    @contextmanager
    def together(self) -> Iterator[None]:
        """One commit for every :meth:`change` that this thread makes in the block.

        Nothing of them is on the disk before the block has ended, so nobody may be told of them before. A
        change that raises is undone alone. If the database refuses anything, or the commit fails, nothing is
        kept: :attr:`in_doubt` says so, for whoever remembers what was changed.

        Raises: StorageFailed, NotLeading.
        """
        began = time.perf_counter()
        try:
            with self._database.write("together") as tx:
                self._check_lead(tx)
                before = self._database.editions.count()
                shared = self._together = _Together(tx, threading.get_ident())
                try:
                    yield
                finally:
                    self._together = None
                if shared.broken:
                    raise StorageFailed()
        except BaseException:
            self._database.in_doubt = True
            raise
        self.on_written(time.perf_counter() - began)
        if shared.head is not None:
            self._database.editions.wrote(before, shared.touched)
            self._head = self._ours = shared.head

    @contextmanager
    def change(self, name: str, actor: str) -> Iterator[Change]:
        """One transaction with its audit entries.

        Args:
            name: of the change, for the crash points.
            actor: who makes it, for the log.
        Raises: StorageFailed; NotLeading if this process had the lead and has lost it; WrongAdminKey if it
            would write and another key signs the log by now.
        """
        shared = self._shared
        if shared is not None:
            with self._part_of(shared, actor) as change:
                yield change
            return
        began = time.perf_counter()
        with self._database.write(name) as tx:
            self._check_lead(tx)
            before = self._database.editions.count()
            change = Change(tx, self._signer, int(self._wall_clock() * 1000), actor, self._ours)
            yield change
        self.on_written(time.perf_counter() - began)
        self._signer = change.signer
        if change.head is not None:
            self._database.editions.wrote(before, change.touched)
            self._head = self._ours = change.head
        if change.lead is not None and self._lead is not None:
            self._lead = change.lead  # who has raised the number leads under it, and nobody begins to by it

    @contextmanager
    def _part_of(self, shared: _Together, actor: str) -> Iterator[Change]:
        """A change that is undone alone if it raises, and kept with the others' commit."""
        if shared.broken:
            raise StorageFailed()
        time_ms = int(self._wall_clock() * 1000)
        change = Change(shared.tx, self._signer, time_ms, actor, self._ours, before=shared.head)
        try:
            with self._database.part(shared.tx):
                yield change
        except StorageFailed:
            shared.broken = True
            raise
        finally:
            shared.touched |= change.touched
        if change.signer is not self._signer or change.lead is not None:
            shared.broken = True
            raise ValueError("the admin key and the lead change in a transaction of their own")
        shared.head = change.head or shared.head

    def _check_lead(self, tx: sa.Connection) -> None:
        if self._lead is not None and _lead(tx) != self._lead:
            raise NotLeading()

    def _begin_log(self) -> None:
        with self.change("begin_log", "aggregator") as change:
            if change.select(_NEWEST).first() is not None:
                return  # another process was faster
            change.add("log.begun", "audit", schema=REVISIONS[-1], new=self._signer.public_key.hex())
            for table in (t for t in META.sorted_tables if t not in UNRECORDED):
                for row in change.select(sa.select(table).order_by(*table.primary_key)).all():
                    change.add("row.taken-over", subject(table, row._mapping), row=row_digest(row))

    def lead(self) -> bool:
        """Try to become the one process that coordinates on this database; whether it is now.

        The lead ends with the process or its connection. Another one that takes it changes a number in the
        database, and every later change of this process is refused.
        """
        self.check_admin_key()
        if not self._database.try_lead():
            return False
        self._lead = None
        with self.change("lead", "aggregator") as change:
            number = change.raise_lead()
        self._lead = number
        return True

    def check_lead(self) -> None:
        """Raises: NotLeading if this process had the lead and another one has taken it since."""
        if self._lead is None:
            return
        with self.read() as tx:
            self._check_lead(tx)
        self._database.try_lead()  # the lock may have gone with a broken connection

    @property
    def signer(self) -> Identity:
        """The admin's identity."""
        return self._signer

    @property
    def admin_key(self) -> bytes:
        """The public key that signs the audit log."""
        return self._signer.public_key

    def check_admin_key(self) -> None:
        """Raises: WrongAdminKey unless the newest entry of the log is signed by :attr:`signer`."""
        with self.read() as tx:
            head = _head(tx)
        if head != NOTHING:
            check_signed(head, self.admin_key)

    def probe(self) -> None:
        """Try a durable write that changes nothing. Raises: StorageFailed, NotLeading."""
        with self.change("probe", "aggregator") as change:
            change.touch()

    def check_file(self) -> None:
        """SQLite's own look at every page of the file. Raises: DamagedDatabase, StorageFailed."""
        self._database.check_file()


def _head(tx: sa.Connection) -> Head:
    row = tx.execute(_NEWEST).first()
    return NOTHING if row is None else Head(*row)


def check_signed(head: Head, key: bytes) -> None:
    """Raises: WrongAdminKey unless this key has signed this head."""
    try:
        head.check(key)
    except BadSignature as error:
        raise WrongAdminKey() from error


def _lead(tx: sa.Connection) -> str:
    return str(tx.execute(_LEAD).scalar_one())
