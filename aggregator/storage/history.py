"""What was, for people who look at it: attempts page by page, and when their messages came in.

An attempt's messages go when it ends; the audit log keeps when each of them came. It is long and has no index
but its numbers. Its times rise with them, so an attempt is found by halving. Whatever is asked here, what is
read is bounded, however long the history is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from aggregator.storage.plans import report_in
from aggregator.storage.tables import ATTEMPTS, AUDIT, PARTIES, PLANS, at
from aggregator.storage.transactions import Transactions
from medveil.reports import AttemptReport
from medveil.rounds import AttemptKey, RoundKind

NEAR = 64
"""Entries around the place found by halving: a clock may have been set back a little."""
PAGE = 2_000
MOST = 20_000
"""Entries of the log that are looked through for one attempt; others may lie between its own."""


@dataclass(frozen=True)
class Recorded:
    """A message or closing of an attempt, as the log has it."""

    entry: int
    at: float
    """Unix seconds."""
    actor: str
    kind: str


@dataclass(frozen=True)
class Course:
    """All that the log tells of the messages of one attempt, in order."""

    opened: float
    messages: tuple[Recorded, ...]
    ended: float | None
    """None while it is open, or if its end lies too far behind."""
    last_entry: int
    """Up to which the log was looked through."""


@dataclass(frozen=True)
class Tried:
    """An attempt as its row has it."""

    key: AttemptKey
    kind: RoundKind
    opened: float
    report: AttemptReport | None
    """None while it is open."""


class History:
    """Reads what was. Each method is one transaction, and its cost does not grow with the history."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def newest(
        self, plan: str, *, limit: int, before: tuple[int, int] | None = None, kind: RoundKind | None = None
    ) -> list[Tried]:
        """Attempts of a plan, open or not, the newest first.

        Args:
            before: round and attempt; only older ones then.
        """
        wanted = sa.select(ATTEMPTS).where(ATTEMPTS.c.plan == plan)
        if before is not None:
            same = (ATTEMPTS.c.round == before[0]) & (ATTEMPTS.c.attempt < before[1])
            wanted = wanted.where((ATTEMPTS.c.round < before[0]) | same)
        if kind is not None:
            wanted = wanted.where(ATTEMPTS.c.kind == kind.value)
        wanted = wanted.order_by(ATTEMPTS.c.round.desc(), ATTEMPTS.c.attempt.desc()).limit(limit)
        with self._transactions.read() as tx:
            return [_tried(row) for row in tx.execute(wanted)]

    def attempt(self, key: AttemptKey) -> Tried | None:
        """One attempt."""
        with self._transactions.read() as tx:
            row = tx.execute(sa.select(ATTEMPTS).where(*at(ATTEMPTS, key.where))).one_or_none()
        return None if row is None else _tried(row)

    def last_attempt(self, plan: str, number: int) -> Tried | None:
        """The newest attempt at a round."""
        mine = (ATTEMPTS.c.plan == plan) & (ATTEMPTS.c.round == number)
        wanted = sa.select(ATTEMPTS).where(mine).order_by(ATTEMPTS.c.attempt.desc()).limit(1)
        with self._transactions.read() as tx:
            row = tx.execute(wanted).one_or_none()
        return None if row is None else _tried(row)

    def created(self) -> dict[str, float]:
        """Plan → when it was created."""
        with self._transactions.read() as tx:
            return {row[0]: row[1] for row in tx.execute(sa.select(PLANS.c.id, PLANS.c.created))}

    def enrolled(self) -> dict[str, float]:
        """Name → when it was enrolled."""
        with self._transactions.read() as tx:
            return {row[0]: row[1] for row in tx.execute(sa.select(PARTIES.c.name, PARTIES.c.enrolled))}

    def newest_entry(self) -> int:
        """The number of the audit log's newest entry, whoever has written it."""
        with self._transactions.read() as tx:
            return _newest(tx)

    def course(self, key: AttemptKey, opened: float) -> Course | None:
        """The course of an attempt; None if the log does not hold its beginning where it should be.

        Args:
            opened: as its row says, Unix seconds.
        """
        with self._transactions.read() as tx:
            newest = _newest(tx)
            start = _begun(tx, key, _first_at(tx, newest, int(opened * 1000)), newest)
            return None if start is None else _followed(tx, key, *start, newest)

    def course_since(self, key: AttemptKey, known: Course) -> Course:
        """The same with what has come since."""
        with self._transactions.read() as tx:
            newest = _newest(tx)
            new = _followed(tx, key, known.last_entry, known.opened, newest)
        messages = (*known.messages, *new.messages)
        return Course(known.opened, messages, new.ended or known.ended, new.last_entry)


def _newest(tx: sa.Connection) -> int:
    return tx.execute(sa.select(sa.func.max(AUDIT.c.number))).scalar_one() or 0


def _tried(row: sa.Row[Any]) -> Tried:
    key, kind = AttemptKey(row.plan, row.round, row.attempt), RoundKind(row.kind)
    report = None if row.outcome is None else report_in(row, row.outcome, row.report)
    return Tried(key, kind, row.opened, report)


def _first_at(tx: sa.Connection, newest: int, time_ms: int) -> int:
    """The number of the first entry that is not older than this."""
    low, high = 1, newest
    while low < high:
        middle = (low + high) // 2
        told = tx.execute(sa.select(AUDIT.c.time_ms).where(AUDIT.c.number == middle)).scalar()
        if told is not None and told < time_ms:
            low = middle + 1
        else:
            high = middle
    return low


def _begun(tx: sa.Connection, key: AttemptKey, near: int, newest: int) -> tuple[int, float] | None:
    """Number and time of the entry that opened an attempt: near its place, or among the newest."""
    for first, last in ((near - NEAR, near + NEAR), (newest - PAGE, newest)):
        wanted = sa.select(AUDIT.c.number, AUDIT.c.time_ms).where(
            AUDIT.c.number.between(first, last),
            AUDIT.c.action == "attempt.opened",
            AUDIT.c.subject == _subject("attempts", key),
        )
        row = tx.execute(wanted.order_by(AUDIT.c.number.desc()).limit(1)).first()
        if row is not None:
            return row.number, row.time_ms / 1000
    return None


def _followed(tx: sa.Connection, key: AttemptKey, after: int, opened: float, newest: int) -> Course:
    messages: list[Recorded] = []
    columns = AUDIT.c.number, AUDIT.c.time_ms, AUDIT.c.actor, AUDIT.c.action, AUDIT.c.details
    own, rows = _subject("attempts", key), f"{_subject('events', key)}/"
    last = min(newest, after + MOST)
    while after < last:
        until = min(after + PAGE, last)
        wanted = sa.select(*columns).where(
            AUDIT.c.number > after,
            AUDIT.c.number <= until,
            (AUDIT.c.subject == own) | AUDIT.c.subject.startswith(rows),
        )
        for row in tx.execute(wanted.order_by(AUDIT.c.number)):
            at = row.time_ms / 1000
            if row.action == "attempt.ended":
                return Course(opened, tuple(messages), at, row.number)
            if row.action == "attempt.message":
                messages.append(Recorded(row.number, at, row.actor, str(row.details.get("kind", ""))))
        after = until
    return Course(opened, tuple(messages), None, last)


def _subject(table: str, key: AttemptKey) -> str:
    return f"{table}/{key.plan}/{key.round}/{key.attempt}"
