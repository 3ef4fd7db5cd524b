"""The operator's word on plans after their approval: refused, withdrawn, paused, left. In the node's journal.

What stands here rules, whatever the aggregator says: the running node looks before it sends anything for a
plan, and before it joins an attempt. Only a person changes it, at this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import sqlalchemy as sa

from hospital_node.journal import Journal
from medveil.errors import Error
from medveil.messages import RefusalKind

Kind = Literal["refused", "withdrawn", "approved"]
HoldKind = Literal["pause", "leave", "stop"]
EVERY_PLAN = ""
_META = sa.MetaData()
_WORDS = sa.Table(
    "words",
    _META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("plan", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("handed_in", sa.Boolean, nullable=False),
    sqlite_autoincrement=True,
)
"""Rows are added, never taken away; the last one of a plan stands."""
_HOLDS = sa.Table(
    "holds",
    _META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

_WORD = sa.select(_WORDS).where(_WORDS.c.plan == sa.bindparam("of")).order_by(_WORDS.c.id.desc()).limit(1)
_STANDING = sa.select(_HOLDS)
"""Made once: they are asked before every request, and building a statement takes longer than running it."""


class TakesNoPart(Error):
    """Something was to be sent for a plan that this hospital has refused, or withdrawn from."""

    code = "takes-no-part"

    def __init__(self) -> None:
        super().__init__(
            what="This hospital takes no part in the plan: its operator has said so.",
            meaning="Nothing was sent for it.",
            remedy="Nothing to do. Whoever wants to take part again approves the plan again.",
        )


@dataclass(frozen=True)
class Word:
    """That a hospital takes no part in a plan, or no part any more, and why."""

    id: int
    plan: str
    kind: RefusalKind
    reason: str
    signature: bytes
    at: float
    """Unix seconds."""
    handed_in: bool
    """Whether the aggregator has it."""


@dataclass(frozen=True)
class Hold:
    """That a plan, or every plan, is paused or is to be left."""

    plan: str
    """Empty: every plan."""
    kind: HoldKind
    round: int
    """To be left: after this one."""
    reason: str
    at: float


class Orders:
    """What the operator has said, in the node's journal."""

    def __init__(self, journal: Journal) -> None:
        self._engine, self._unchanged = journal.engine, journal.unchanged
        _META.create_all(self._engine)

    def say(self, plan: str, kind: RefusalKind, reason: str, signature: bytes) -> Word:
        """Refuse a plan, or take its approval back; on stable storage when this returns."""
        with self._engine.begin() as tx:
            at = time.time()
            values = {"plan": plan, "kind": kind, "reason": reason, "signature": signature, "at": at}
            (number,) = tx.execute(
                _WORDS.insert().values(**values, handed_in=False)
            ).inserted_primary_key or (0,)
            tx.execute(_HOLDS.delete().where(_HOLDS.c.plan == plan))
        return Word(number, plan, kind, reason, signature, at, False)

    def approved(self, plan: str) -> None:
        """A person has approved a plan after such a word: it stands no more."""
        if self.word(plan) is None:
            return
        row = {"plan": plan, "kind": "approved", "reason": "", "signature": b"", "at": time.time()}
        with self._engine.begin() as tx:
            tx.execute(_WORDS.insert().values(**row, handed_in=True))

    def words(self) -> dict[str, Word]:
        """Plan → the word that stands."""
        return dict(self._unchanged("words", self._words))

    def _words(self) -> dict[str, Word]:
        with self._engine.connect() as tx:
            rows = tx.execute(sa.select(_WORDS).order_by(_WORDS.c.id)).mappings().all()
        last = {row["plan"]: row for row in rows}
        return {plan: Word(**row) for plan, row in last.items() if row["kind"] in get_args(RefusalKind)}

    def word(self, plan: str) -> Word | None:
        """The word that stands for a plan, if there is one."""
        return self._unchanged(("word", plan), lambda: self._word(plan))

    def _word(self, plan: str) -> Word | None:
        with self._engine.connect() as tx:
            row = tx.execute(_WORD, {"of": plan}).mappings().first()
        return None if row is None or row["kind"] not in get_args(RefusalKind) else Word(**row)

    def check(self, plan: str) -> None:
        """Raises: TakesNoPart if this hospital has refused the plan, or withdrawn from it."""
        if self.word(plan) is not None:
            raise TakesNoPart()

    def was_handed_in(self, word: Word) -> None:
        """The aggregator has it."""
        with self._engine.begin() as tx:
            tx.execute(_WORDS.update().where(_WORDS.c.id == word.id).values(handed_in=True))

    def hold(self, plan: str, kind: HoldKind, *, number: int = 0, reason: str = "") -> None:
        """Pause a plan, or every plan; or leave one after a round."""
        row = {"plan": plan, "kind": kind, "round": number, "reason": reason, "at": time.time()}
        with self._engine.begin() as tx:
            tx.execute(_HOLDS.insert().prefix_with("OR REPLACE").values(**row))

    def release(self, plan: str, kind: HoldKind) -> None:
        """Take a hold away."""
        with self._engine.begin() as tx:
            tx.execute(_HOLDS.delete().where(_HOLDS.c.plan == plan, _HOLDS.c.kind == kind))

    def holds(self) -> tuple[Hold, ...]:
        """All that stand."""
        return self._unchanged("holds", self._holds)

    def _holds(self) -> tuple[Hold, ...]:
        with self._engine.connect() as tx:
            return tuple(Hold(**row) for row in tx.execute(_STANDING).mappings())


@dataclass(frozen=True)
class Gate:
    """Whether this hospital joins an attempt of a plan at this moment."""

    plan: str
    orders: Orders
    outside_hours: Callable[[], str] = str
    """Why the hospital's policy lets nothing train now, in words; empty if it does."""

    def closed(self, number: int) -> str:
        """Why it joins no attempt at a round, in words; empty if it does."""
        for one in self.orders.holds():
            if one.kind == "pause" and one.plan in (EVERY_PLAN, self.plan):
                return "the operator: it is paused (medveil node resume)"
            if one.kind == "leave" and one.plan == self.plan and number > one.round:
                return "nothing: this hospital is about to leave the study"
        return self.outside_hours()
