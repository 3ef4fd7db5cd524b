"""How the attempts at a plan's rounds went, a page at a time, and entries of the audit log.

A report holds histograms and a name for each hospital; of ten thousand of them that is a hundred megabytes.
What screens draw is read out of them by the database, and never more rows in one transaction than asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from aggregator.auditlog import NOTHING, Entry, Head
from aggregator.storage.tables import ATTEMPTS, AUDIT, SETTINGS
from aggregator.storage.transactions import Transactions
from medveil.rounds import RoundKind

_REPORT = ATTEMPTS.c.report
_NEWEST = sa.select(AUDIT.c.number, AUDIT.c.hash, AUDIT.c.signature).order_by(AUDIT.c.number.desc()).limit(1)
_SIZE = ("page_count", "page_size")
Place = tuple[int, int]
"""Round and attempt."""


@dataclass(frozen=True)
class PastAttempt:
    """One attempt that has ended, without what names a hospital."""

    plan: str
    round: int
    attempt: int
    kind: RoundKind
    done: bool
    opened: float
    """Unix seconds."""
    seconds: float
    figures: Mapping[str, float]
    """Those that were asked for and are there."""
    metric: float | None
    norm: float | None
    epsilon: float | None
    began: int
    """Hospitals that sent keys."""
    summed: int
    """Hospitals in the sum."""
    phases: Mapping[str, float]
    """Seconds by phase."""
    moved: Mapping[str, tuple[int, int]]
    """Bytes up and down by phase, all hospitals together; under an empty name where no phase was noted."""

    @property
    def place(self) -> Place:
        """Where it stands in its plan."""
        return self.round, self.attempt


@dataclass(frozen=True)
class Wanted:
    """Which entries of the audit log are looked for; empty texts let everything pass."""

    actor: str = ""
    action: str = ""
    """The whole word, or its first part: ``plan`` stands for ``plan.created`` and its like."""
    text: str = ""
    """Somewhere in the subject."""


@dataclass(frozen=True)
class Extent:
    """The database from outside."""

    kind: str
    """``sqlite`` or ``postgresql``."""
    bytes: int
    lead: int
    """How often somebody has taken the lead: the number of whoever has it."""
    open_attempts: int


class Past:
    """Reads what is over. Each method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def attempts(
        self,
        plan: str,
        figures: Sequence[str],
        *,
        most: int,
        after: Place | None = None,
        before: Place | None = None,
    ) -> list[PastAttempt]:
        """At most ``most`` ended attempts: the first ones after a place, or else the last ones before one.

        Args:
            figures: names of the figures that are wanted.
        Returns: oldest first.
        """
        round_, attempt = ATTEMPTS.c.round, ATTEMPTS.c.attempt
        wanted = _narrow(figures).where(ATTEMPTS.c.plan == plan, ATTEMPTS.c.outcome.is_not(None)).limit(most)
        if after is not None:
            later = (round_ > after[0]) | ((round_ == after[0]) & (attempt > after[1]))
            wanted = wanted.where(later).order_by(round_, attempt)
        else:
            if before is not None:
                earlier = (round_ < before[0]) | ((round_ == before[0]) & (attempt < before[1]))
                wanted = wanted.where(earlier)
            wanted = wanted.order_by(round_.desc(), attempt.desc())
        with self._transactions.read() as tx:
            rows = tx.execute(wanted).all()
        found = [_past(row, figures) for row in rows]
        return found if after is not None else found[::-1]

    def head(self) -> Head:
        """Of the audit log, as the database has it at this moment, whoever has written it."""
        with self._transactions.read() as tx:
            row = tx.execute(_NEWEST).first()
        return NOTHING if row is None else Head(*row)

    def extent(self) -> Extent:
        """How large the database is, and how often somebody has taken the lead."""
        with self._transactions.read() as tx:
            if tx.dialect.name == "postgresql":
                size = tx.execute(
                    sa.select(sa.func.pg_database_size(sa.func.current_database()))
                ).scalar_one()
            else:
                pages, page = (tx.execute(sa.text(f"PRAGMA {word}")).scalar_one() for word in _SIZE)
                size = pages * page
            lead = tx.execute(sa.select(SETTINGS.c.value).where(SETTINGS.c.key == "lead")).scalar()
            waiting = sa.select(sa.func.count()).where(ATTEMPTS.c.outcome.is_(None))
            return Extent(tx.dialect.name, int(size), int(lead or 0), tx.execute(waiting).scalar_one())

    def entries(self, wanted: Wanted, *, before: int, window: int, most: int) -> list[Entry]:
        """The newest entries of the audit log that fit, newest first.

        Args:
            before: only entries with smaller numbers. window: how many of those are looked at, however few
                fit. most: entries in the answer.
        """
        numbers = AUDIT.c.number
        query = sa.select(AUDIT).where(numbers < before, numbers >= before - window)
        if wanted.actor:
            query = query.where(AUDIT.c.actor == wanted.actor)
        if wanted.action:
            kind = AUDIT.c.action.startswith(f"{wanted.action}.", autoescape=True)
            query = query.where(kind | (AUDIT.c.action == wanted.action))
        if wanted.text:
            query = query.where(AUDIT.c.subject.contains(wanted.text, autoescape=True))
        with self._transactions.read() as tx:
            rows = tx.execute(query.order_by(numbers.desc()).limit(most)).all()
        return [Entry(**row._mapping) for row in rows]

    def last_messages(self, *, before: int, window: int) -> dict[str, tuple[int, int]]:
        """Who has sent messages of attempts among the last entries: the newest one's number and time (ms)."""
        last, number = sa.func.max(AUDIT.c.number), AUDIT.c.number
        recent = (number < before) & (number >= before - window)
        query = sa.select(AUDIT.c.actor, last).where(recent, AUDIT.c.action == "attempt.message")
        with self._transactions.read() as tx:
            newest = {row[0]: row[1] for row in tx.execute(query.group_by(AUDIT.c.actor))}
            times = sa.select(number, AUDIT.c.time_ms).where(number.in_(newest.values()))
            at = {row[0]: row[1] for row in tx.execute(times)}
        return {actor: (entry, at[entry]) for actor, entry in newest.items()}


def _narrow(figures: Sequence[str]) -> sa.Select[Any]:
    """What is read of each report, by the database."""
    noted = _REPORT["phase_bytes"]
    totals = [
        sa.case((noted.as_string().is_(None), _REPORT[way]), else_=None).label(way)
        for way in ("bytes_up", "bytes_down")
    ]
    return sa.select(
        ATTEMPTS.c.plan,
        ATTEMPTS.c.round,
        ATTEMPTS.c.attempt,
        ATTEMPTS.c.kind,
        ATTEMPTS.c.outcome,
        ATTEMPTS.c.opened,
        *(_REPORT[name].as_float().label(name) for name in ("seconds", "metric", "update_norm", "epsilon")),
        sa.func.json_array_length(_REPORT["advertised"]).label("began"),
        sa.func.json_array_length(_REPORT["survivors"]).label("summed"),
        _REPORT["phases"].label("phases"),
        noted.label("moved"),
        *totals,
        *(_REPORT[("figures", name)].as_float().label(f"figure_{k}") for k, name in enumerate(figures)),
    )


def _past(row: sa.Row[Any], figures: Sequence[str]) -> PastAttempt:
    told = {name: getattr(row, f"figure_{k}") for k, name in enumerate(figures)}
    moved = {phase: (up, down) for phase, (up, down) in (row.moved or {}).items()}
    if row.moved is None:
        up, down = (sum((counts or {}).values()) for counts in (row.bytes_up, row.bytes_down))
        moved = {"": (up, down)} if up or down else {}
    return PastAttempt(
        plan=row.plan,
        round=row.round,
        attempt=row.attempt,
        kind=RoundKind(row.kind),
        done=row.outcome == "done",
        opened=row.opened,
        seconds=row.seconds or 0.0,
        figures={name: value for name, value in told.items() if value is not None},
        metric=row.metric,
        norm=row.update_norm,
        epsilon=row.epsilon,
        began=row.began or 0,
        summed=row.summed or 0,
        phases=row.phases or {},
        moved=moved,
    )
