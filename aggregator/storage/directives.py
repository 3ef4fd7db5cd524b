"""What the admin has said of plans: rows that are added and never taken away; the last one of a plan stands.

Each is signed with the admin key inside the transaction that writes it, so no two of a plan share a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from aggregator.storage.tables import ATTEMPTS, DIRECTIVES, PLANS
from aggregator.storage.transactions import Change, Transactions
from medveil.errors import Error
from medveil.messages import SignedDirective, sign_directive
from medveil.reports import Directive, Order

_NUMBERS = sa.select(DIRECTIVES.c.plan, sa.func.max(DIRECTIVES.c.number).label("number"))
_LAST = _NUMBERS.group_by(DIRECTIVES.c.plan).subquery()
_LAST_WORDS = sa.select(DIRECTIVES).join(
    _LAST, (DIRECTIVES.c.plan == _LAST.c.plan) & (DIRECTIVES.c.number == _LAST.c.number)
)
"""Made once: the clock asks it each second."""
Select = Callable[[sa.Select[Any]], sa.Result[Any]]
"""Reads in a transaction."""
MOST = 50
"""Words of a plan that are read for people."""
DONE = {"pause": "paused", "resume": "resumed", "stop": "stopped", "withdraw": "withdrawn"}


class WordRefused(Error):
    """Something that the admin cannot say of a plan as it stands."""

    code = "word-refused"

    def __init__(self, *, order: Order, reason: str, remedy: str) -> None:
        super().__init__(
            what=f"The study cannot be {DONE[order]}: {reason}.",
            meaning="Nothing was changed, and no hospital was told anything.",
            remedy=remedy,
        )


class HaltedByAdmin(Error):
    """A plan of which the admin has said that no attempt opens."""

    code = "halted-by-admin"

    def __init__(self) -> None:
        super().__init__(
            what="The admin has paused or stopped this study.",
            meaning="No attempt was opened.",
            remedy="A paused one goes on with: medveil aggregator study resume. A stopped one never does.",
        )


class Directives:
    """What the admin has said. Each method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def say(self, plan: str, order: Order, reason: str, *, now: float) -> Directive:
        """Write a word and sign it. Raises: WordRefused; what every change raises."""
        with self._transactions.change("say_directive", "admin") as change:
            last = _last(change.select, plan)
            _check(change.select, plan, order, last)
            time_ms = max(int(now * 1000), 0 if last is None else last.time_ms + 1)
            number = 1 if last is None else last.number + 1
            told = sign_directive(change.signer, bytes.fromhex(plan), order, reason, time_ms)
            values = {"plan": plan, "number": number, "word": order, "reason": reason, "time_ms": time_ms}
            change.insert(
                DIRECTIVES, {**values, "signature": told.signature}, f"plan.{DONE[order]}", reason=reason
            )
        return Directive(order=order, number=number, reason=reason, at=time_ms / 1000)

    def check(self, plan: str, order: Order) -> None:
        """Whether this could be said now. Raises: WordRefused."""
        with self._transactions.read() as tx:
            _check(tx.execute, plan, order, _last(tx.execute, plan))

    def of(self, plan: str) -> tuple[Directive, ...]:
        """The last words on a plan, the newest first."""
        wanted = sa.select(DIRECTIVES).where(DIRECTIVES.c.plan == plan)
        with self._transactions.read() as tx:
            rows = tx.execute(wanted.order_by(DIRECTIVES.c.number.desc()).limit(MOST)).all()
        return tuple(_directive(row) for row in rows)

    def standing(self) -> dict[str, tuple[Directive, SignedDirective]]:
        """Plan → the last word on it, and as it is told to hospitals."""
        with self._transactions.read() as tx:
            rows = tx.execute(_LAST_WORDS).all()
        return {row.plan: (_directive(row), _signed(row)) for row in rows}


def is_halted(change: Change, plan: str) -> bool:
    """Whether the admin's last word on a plan is that no attempt opens."""
    last = _last(change.select, plan)
    return last is not None and last.word != "resume"


def sign_again(change: Change) -> None:
    """Sign every word with another admin key, in the transaction that changes it."""
    for row in change.select(sa.select(DIRECTIVES).order_by(DIRECTIVES.c.plan, DIRECTIVES.c.number)).all():
        told = sign_directive(change.signer, bytes.fromhex(row.plan), row.word, row.reason, row.time_ms)
        key = {"plan": row.plan, "number": row.number}
        change.update(DIRECTIVES, key, {"signature": told.signature}, "directive.signed-again")


def _last(select: Select, plan: str) -> sa.Row[Any] | None:
    wanted = sa.select(DIRECTIVES).where(DIRECTIVES.c.plan == plan)
    return select(wanted.order_by(DIRECTIVES.c.number.desc()).limit(1)).first()


def _check(select: Select, plan: str, order: Order, last: sa.Row[Any] | None) -> None:
    """Raises: WordRefused."""
    word = None if last is None else last.word
    finished = select(sa.select(PLANS.c.finished).where(PLANS.c.id == plan)).scalar()
    if finished or word in ("stop", "withdraw"):
        over = "it is over already"
        reason = f"it was {DONE[word]} already" if word in ("stop", "withdraw") else over
        raise WordRefused(order=order, reason=reason, remedy="See: medveil aggregator study show.")
    if order == "pause" and word == "pause":
        raise WordRefused(
            order=order, reason="it is paused already", remedy="Nothing to do, or 'study resume'."
        )
    if order == "resume" and word != "pause":
        raise WordRefused(order=order, reason="it is not paused", remedy="Nothing to do.")
    begun = sa.select(ATTEMPTS.c.round).where(ATTEMPTS.c.plan == plan).limit(1)
    if order == "withdraw" and select(begun).first() is not None:
        raise WordRefused(
            order=order, reason="its rounds have begun", remedy="Stop it: medveil aggregator study stop."
        )


def _directive(row: sa.Row[Any]) -> Directive:
    return Directive(order=row.word, number=row.number, reason=row.reason, at=row.time_ms / 1000)


def _signed(row: sa.Row[Any]) -> SignedDirective:
    return SignedDirective(
        plan=bytes.fromhex(row.plan),
        order=row.word,
        reason=row.reason,
        time_ms=row.time_ms,
        signature=row.signature,
    )
