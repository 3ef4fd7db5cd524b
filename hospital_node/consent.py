"""What an operator may say of a plan after it was offered, or approved: refuse, withdraw, pause, leave, stop.

Functions that return values, for commands and pages. Each word is on stable storage when its function
returns, and a running node obeys within a few seconds. The aggregator is told by the node that runs, or at
once by :func:`tell_aggregator`; it cannot change any of it (docs/decisions/0044-consent-is-the-hospitals.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hospital_node import live
from hospital_node.enrolment import line_to_aggregator
from hospital_node.operator import NoSuchPlan, opened
from hospital_node.orders import EVERY_PLAN, Hold, Orders, Word
from hospital_node.settings import Node
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity
from medveil.messages import LONGEST_REASON, Refusal, RefusalKind
from medveil.plan import Plan, sign_refusal
from medveil.shown import is_plain
from medveil.spoken import means


class BadReason(Error):
    """A reason that could not be shown to the admin."""

    code = "bad-reason"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The reason cannot be used: {problem}.",
            meaning="Nothing was changed. The reason is signed, and the admin reads it as you write it.",
            remedy=f"Write one line of at most {LONGEST_REASON} characters, with nothing about a patient.",
        )


class NotApprovedHere(Error):
    """A plan that was never approved here cannot be withdrawn from."""

    code = "not-approved-here"

    def __init__(self) -> None:
        super().__init__(
            what="This hospital has not approved that plan.",
            meaning="Nothing was changed; nothing is sent for it anyway.",
            remedy="To tell the admin that you will not: medveil node refuse.",
        )


class ApprovedHere(Error):
    """A plan that was approved here cannot be refused any more, only withdrawn from."""

    code = "approved-here"

    def __init__(self) -> None:
        super().__init__(
            what="This hospital has approved that plan.",
            meaning="Nothing was changed.",
            remedy="To take the approval back: medveil node withdraw.",
        )


class PlanIsOver(Error):
    """A plan that has ended."""

    code = "plan-is-over"

    def __init__(self) -> None:
        super().__init__(
            what="That plan is over here: it has ended, or this hospital takes no part in it any more.",
            meaning="Nothing was changed; nothing is sent for it any more.",
            remedy="Nothing to do. 'medveil node approve' lists the plans and where they stand.",
        )


class NothingRuns(Error):
    """No node runs that could be stopped."""

    code = "nothing-runs"

    def __init__(self) -> None:
        super().__init__(
            what="No node runs in this folder.",
            meaning="Nothing was changed.",
            remedy="Start one with 'medveil node run'. On another machine, ask its service manager.",
        )


def approved_plan(node: Node, typed: Sequence[str]) -> Plan:
    """The approved plan of a fingerprint, over or not. Raises: NotAFingerprint, NoSuchPlan."""
    with opened(node) as journal:
        found = [plan for plan, _ in journal.approved() if means(typed, plan.hash)]
    if len(found) != 1:
        raise NoSuchPlan()
    return found[0]


def refuse_plan(node: Node, plan: Plan, reason: str) -> Word:
    """Say that this hospital will not take part in a plan that it never approved.

    Args:
        reason: for the admin and for whoever may read the study; it is signed.
    Raises: BadReason, ApprovedHere. OSError and what opening the journal raises: then nothing has changed.
    """
    with opened(node) as journal:
        orders = Orders(journal)
        if journal.plan(plan.id) is not None and orders.word(plan.id) is None:
            raise ApprovedHere()
        return _say(node, orders, plan, "refused", reason)


def withdraw_plan(node: Node, plan: Plan, reason: str) -> Word:
    """Take an approval back. From now on this node sends nothing for the plan, whatever the aggregator says.

    What was sent before stays in the sums that are out, and what was charged stays charged. Only a new
    approval of the same plan, which is a person's act, takes part again.

    Raises: as :func:`refuse_plan`; NotApprovedHere, PlanIsOver.
    """
    with opened(node) as journal:
        orders = Orders(journal)
        if journal.plan(plan.id) is None:
            raise NotApprovedHere()
        if journal.progress(plan.id) is None or orders.word(plan.id) is not None:
            raise PlanIsOver()
        return _say(node, orders, plan, "withdrawn", reason)


def _say(node: Node, orders: Orders, plan: Plan, kind: RefusalKind, reason: str) -> Word:
    words = checked_reason(reason)
    signature = sign_refusal(plan, Identity.load(node.settings.name, node.key), kind, words)
    return orders.say(plan.id, kind, words, signature)


def checked_reason(reason: str) -> str:
    """A reason as it is kept. Raises: BadReason."""
    words = " ".join(reason.split())
    if not words:
        raise BadReason(problem="it is empty")
    if len(words) > LONGEST_REASON:
        raise BadReason(problem=f"it has {len(words)} characters")
    if not is_plain(words):
        raise BadReason(problem="it holds characters that cannot be shown")
    return words


def pause(node: Node, plan: Plan | None = None) -> None:
    """Join no new attempt, of one plan or of any; the attempt in hand goes on to its end."""
    with opened(node) as journal:
        Orders(journal).hold(EVERY_PLAN if plan is None else plan.id, "pause")


def resume(node: Node, plan: Plan | None = None) -> bool:
    """Take :func:`pause` back; without a plan also for every one that was paused alone. Whether any was."""
    with opened(node) as journal:
        orders = Orders(journal)
        chosen = [
            one for one in orders.holds() if one.kind == "pause" and (plan is None or one.plan == plan.id)
        ]
        for one in chosen:
            orders.release(one.plan, "pause")
    return bool(chosen)


def leave_after_round(node: Node, plan: Plan, reason: str) -> Word | None:
    """Take the approval back when the round in hand is over; at once if there is none, or no node runs.

    Returns: the word, if it was said at once.
    Raises: as :func:`withdraw_plan`.
    """
    words = checked_reason(reason)
    number = round_in_hand(node, plan)
    if number == 0:
        return withdraw_plan(node, plan, words)
    with opened(node) as journal:
        orders = Orders(journal)
        if journal.plan(plan.id) is None:
            raise NotApprovedHere()
        orders.hold(plan.id, "leave", number=number, reason=words)
    return None


def round_in_hand(node: Node, plan: Plan) -> int:
    """The round that a running node is in; 0 if there is none."""
    told = live.read(node)
    if told is None or not told.running:
        return 0
    return next((one.round for one in told.plans if one.plan == plan.id and one.attempt), 0)


def stop(node: Node) -> None:
    """Have the running node end as on Ctrl-C. A later one is not meant. Raises: NothingRuns."""
    told = live.read(node)
    if told is None or not told.running:
        raise NothingRuns()
    with opened(node) as journal:
        Orders(journal).hold(EVERY_PLAN, "stop", number=told.pid, reason=told.born)


@dataclass(frozen=True)
class Consent:
    """What the operator has said, as it stands."""

    words: dict[str, Word]
    """Plan → that this hospital takes no part, and why."""
    holds: tuple[Hold, ...]


def consent(node: Node) -> Consent:
    """What the operator has said, as it stands."""
    with opened(node) as journal:
        orders = Orders(journal)
        return Consent(orders.words(), tuple(one for one in orders.holds() if one.kind != "stop"))


def as_sent(word: Word) -> Refusal:
    """A word as the aggregator gets it."""
    return Refusal(kind=word.kind, reason=word.reason, signature=word.signature)


def tell_aggregator(node: Node) -> bool:
    """Hand in what the aggregator has not heard yet; whether it has all of it now.

    A running node does so by itself. It changes nothing here if the aggregator does not listen.
    """
    with opened(node) as journal:
        orders = Orders(journal)
        waiting = [word for word in orders.words().values() if not word.handed_in]
        if not waiting:
            return True
        try:
            asyncio.run(_hand_in(node, orders, waiting))
        except RemoteProtocolError:
            return False
    return True


async def _hand_in(node: Node, orders: Orders, waiting: list[Word]) -> None:
    async with line_to_aggregator(node) as transport:
        for word in waiting:
            await transport.refuse(word.plan, as_sent(word))
            orders.was_handed_in(word)
