"""The audit log in the database: its entries, the check of everything against them, changes of its key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import sqlalchemy as sa

from aggregator.auditlog import (
    KEY_CHANGES,
    NOTHING,
    BadEntry,
    Entry,
    Head,
    KeyChange,
    Reckoning,
    Signers,
    checked,
    first_key_told,
    row_digest,
)
from aggregator.storage.directives import sign_again
from aggregator.storage.editions import Edition
from aggregator.storage.tables import AUDIT, META, PLANS, SETTINGS, UNRECORDED, subject
from aggregator.storage.transactions import Change, Transactions, WrongAdminKey, check_signed
from medveil.identity import Identity
from medveil.messages import ADMIN_KEY, MOST_HAND_OVERS, HandOver

_KEY_ENTRIES = sa.select(SETTINGS.c.value).where(SETTINGS.c.key == ADMIN_KEY)
"""The numbers of the entries that changed the admin key, so that a start need not read the whole log."""


class AuditLog:
    """The log that every transaction adds to."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """The audit log from number ``after`` + 1 on, a thousand entries a transaction."""
        while True:
            with self._transactions.read() as tx:
                some = list(_entries(tx, after, limit=1000))
            yield from some
            if len(some) < 1000:
                return
            after = some[-1].number

    def rest(self, after: int) -> tuple[int, int | None]:
        """How many entries there are after number ``after``; the time (ms) of the first, None without any.

        Raises: StorageFailed.
        """
        first = sa.select(AUDIT.c.time_ms).where(AUDIT.c.number > after).order_by(AUDIT.c.number).limit(1)
        with self._transactions.read() as tx:
            oldest = tx.execute(first).scalar_one_or_none()
            if oldest is None:
                return 0, None
            return tx.execute(sa.select(sa.func.max(AUDIT.c.number))).scalar_one() - after, oldest

    def edition(self) -> Edition | None:
        """The present edition of the whole database; any thread may ask, and waits for nobody.

        Nothing changes without an entry of the log but what counts as somebody else's change. What was read
        after :meth:`edition_asked` has named the same edition is still so. None where only a question tells.
        """
        return self._transactions.edition(AUDIT)

    def edition_asked(self) -> Edition | None:
        """:meth:`edition`, by a question to the database where that is needed; None on PostgreSQL.

        Raises: StorageFailed.
        """
        return self._transactions.edition_asked(AUDIT)

    def change_admin_key(self, new: Identity, *, replaced: bytes | None = None) -> int:
        """Let another key sign the log from the next entry on, and every plan anew. Approvals stay.

        Whoever leads meanwhile loses the lead.

        Args:
            replaced: the public key in force, if it is lost or stolen: it is not asked then, and every node
                raises an alarm. If left out the present signer hands over.
        Returns: the number of that entry.
        Raises: WrongAdminKey if another key signs the log.
        """
        with self._transactions.change("change_admin_key", "admin") as change:
            number = change.sign_as(new, replaced=replaced)
            _note(change, number)
            change.raise_lead()
            for name in change.select(sa.select(PLANS.c.id).order_by(PLANS.c.created)).scalars().all():
                signature = new.sign("create-plan", bytes.fromhex(name))
                change.update(PLANS, {"id": name}, {"admin_signature": signature}, "plan.signed-again")
            sign_again(change)
        return number

    def succession(self) -> tuple[HandOver, ...]:
        """The hand-overs since the last key that was replaced without its word, oldest first."""
        with self._transactions.read() as tx:
            numbers = tx.execute(_KEY_ENTRIES).scalar_one_or_none() or ""
            wanted = AUDIT.c.number.in_([int(n) for n in numbers.split()])
            changes = _key_changes(tx, wanted)
        shown: list[HandOver] = []
        for change in changes:
            shown = [*shown, change.shown()] if change.word else []
        return tuple(shown[-MOST_HAND_OVERS:])

    def key_changes(self) -> list[KeyChange]:
        """Every change of the admin key, from the log itself; :meth:`verify` checks them."""
        with self._transactions.read() as tx:
            return _key_changes(tx, sa.true())

    def recorded_key(self) -> bytes | None:
        """The public key that signs the log by what it tells; None if it does not tell."""
        changes = self.key_changes()
        return changes[-1].new if changes else next(map(first_key_told, self.entries()), None)

    def _first_key(self) -> bytes:
        """The key that signs entry 1: of all that the log names, the one that does."""
        first = next(self.entries(), None)
        if first is not None:
            for key in (first_key_told(first), *(change.old for change in self.key_changes())):
                with suppress(WrongAdminKey):
                    check_signed(first.head, key or self._transactions.admin_key)
                    return key or self._transactions.admin_key
        return self._transactions.admin_key

    def verify(self, heads: Iterable[Head] = ()) -> Head:
        """Check the whole audit log, and every row of every table against it; its head.

        Args:
            heads: that others have seen; the log must hold them.
        Raises: BadEntry, naming the first bad entry.
        """
        reckoning, last, signers = Reckoning(), NOTHING, Signers(self._first_key())
        for entry in checked(self.entries(), signers, heads=heads):
            reckoning.take(entry)
            last = entry.head
        with self._transactions.read() as tx:  # what was written meanwhile, and the tables, as of one moment
            for entry in checked(_entries(tx, last.number), signers, before=last):
                reckoning.take(entry)
                last = entry.head
            reckoning.compare(_rows(tx))
        if signers.present != self._transactions.admin_key:
            problem = "from it on another key signs than the admin key in this folder"
            raise BadEntry(number=signers.since, problem=problem)
        return last


def _note(change: Change, number: int) -> None:
    """Remember the number of an entry that changed the admin key."""
    numbers = change.select(_KEY_ENTRIES).scalar_one_or_none()
    if numbers is None:
        change.insert(SETTINGS, {"key": ADMIN_KEY, "value": str(number)}, "admin-key.noted")
    else:
        change.update(SETTINGS, {"key": ADMIN_KEY}, {"value": f"{numbers} {number}"}, "admin-key.noted")


def _rows(tx: sa.Connection) -> Iterator[tuple[str, str]]:
    """Every row that the log tells of: its name and digest."""
    for table in (t for t in META.sorted_tables if t not in UNRECORDED):
        for row in tx.execute(sa.select(table)):
            yield subject(table, row._mapping), row_digest(row)


def _entries(tx: sa.Connection, after: int, limit: int | None = None) -> Iterator[Entry]:
    wanted = sa.select(AUDIT).where(AUDIT.c.number > after).order_by(AUDIT.c.number).limit(limit)
    for row in tx.execute(wanted):
        yield Entry(**row._mapping)


def _key_changes(tx: sa.Connection, which: sa.ColumnElement[bool]) -> list[KeyChange]:
    wanted = sa.select(AUDIT).where(which, AUDIT.c.action.in_(KEY_CHANGES)).order_by(AUDIT.c.number)
    changes = []
    for row in tx.execute(wanted):
        with suppress(BadEntry):  # the check of the whole log comes to it, and names the first that is bad
            changes.append(KeyChange.read(Entry(**row._mapping)))
    return changes
