"""In the node's journal: which cohort each plan has, and where the chains of the node's files ended."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from hospital_node.journal import Journal
from hospital_node.transmissions.entries import End

_META = sa.MetaData()
_PARTS = sa.Table(
    "parts",
    _META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("plan", sa.String, nullable=False),
    sa.Column("cohort", sa.String, nullable=False),
    sa.Column("declared", sa.Integer, nullable=False),
    sa.Column("taken", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)
_ENDS = sa.Table(
    "ledger_ends",
    _META,
    sa.Column("whose", sa.String, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("hash", sa.String, nullable=False),
)
_SENT = sa.Table(
    "sent_end",
    _META,
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)


@dataclass(frozen=True)
class Part:
    """What a hospital takes part in a plan with."""

    cohort: str
    """Name of the frozen cohort."""
    declared: int
    """The number of patients that the operator declared, for the plan's life: divisor and weight."""
    turn: int
    """How many cohorts the plan has had."""


class FrozenPlans:
    """The operator's word on each plan's patients. Rows are added, never changed."""

    def __init__(self, journal: Journal) -> None:
        self._engine = journal.engine
        _META.create_all(self._engine)

    def part(self, plan: str) -> Part | None:
        """What was taken last for a plan."""
        wanted = sa.select(_PARTS).where(_PARTS.c.plan == plan).order_by(_PARTS.c.id)
        with self._engine.connect() as tx:
            rows = tx.execute(wanted).all()
        return Part(rows[-1].cohort, rows[-1].declared, len(rows)) if rows else None

    def most_declared(self) -> int | None:
        """The largest number that was ever declared; None if none was."""
        with self._engine.connect() as tx:
            return tx.execute(sa.select(sa.func.max(_PARTS.c.declared))).scalar()

    def take(self, plan: str, cohort: str, declared: int) -> Part:
        """Remember a cohort for a plan. The number that was declared first stays."""
        known = self.part(plan)
        if known is not None and known.cohort == cohort:
            return known
        number = declared if known is None else known.declared
        with self._engine.begin() as tx:
            values = {"plan": plan, "cohort": cohort, "declared": number, "taken": time.time()}
            tx.execute(_PARTS.insert().values(**values))
        return Part(cohort, number, 1 if known is None else known.turn + 1)


class JournalAnchor:
    """The journal as what knows where the ledger ended (:class:`hospital_node.ledgerfile.Anchor`)."""

    def __init__(self, journal: Journal) -> None:
        self._engine = journal.engine
        _META.create_all(self._engine)

    def newest(self) -> tuple[int, str] | None:
        """Number and hash of the row that was kept last; None before there was one."""
        found = self._end("own")
        return None if found is None else (found[1], found[2])

    def keep(self, number: int, hash_: str) -> None:
        """Keep an end, on stable storage on return."""
        self._keep("own", 0, number, hash_)

    def contradicted(self) -> str:
        """An end that the aggregator has heard of and this ledger did not have; empty if there is none."""
        found = self._end("refused")
        return "" if found is None else found[2]

    def contradict(self, end: str) -> None:
        """Keep such an end, or forget it (empty)."""
        if end:
            self._keep("refused", 0, 0, end)
            return
        with self._engine.begin() as tx:
            tx.execute(_ENDS.delete().where(_ENDS.c.whose == "refused"))

    def _end(self, whose: str) -> tuple[int, int, str] | None:
        with self._engine.connect() as tx:
            row = tx.execute(sa.select(_ENDS).where(_ENDS.c.whose == whose)).first()
        return None if row is None else (row[1], row[2], row[3])

    def _keep(self, whose: str, count: int, number: int, hash_: str) -> None:
        with self._engine.begin() as tx:
            tx.execute(
                sa.text("INSERT OR REPLACE INTO ledger_ends VALUES (:whose, :count, :number, :hash)"),
                {"whose": whose, "count": count, "number": number, "hash": hash_},
            )


class SentAnchor:
    """The journal as what knows where the record of transmissions ended: its newest end, signed."""

    def __init__(self, journal: Journal) -> None:
        self._engine = journal.engine
        _META.create_all(self._engine)

    def newest(self) -> End | None:
        """The end that was kept last; None before there was one."""
        with self._engine.connect() as tx:
            row = tx.execute(sa.select(_SENT)).first()
        return None if row is None else End(row.number, row.hash, row.signature)

    def keep(self, end: End) -> None:
        """Keep an end, on stable storage on return."""
        with self._engine.begin() as tx:
            tx.execute(_SENT.delete())
            tx.execute(_SENT.insert().values(number=end.number, hash=end.hash, signature=end.signature))
