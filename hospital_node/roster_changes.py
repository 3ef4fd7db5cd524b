"""What an amended plan changes for this hospital: who joins and leaves, and what was and will be spent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hospital_node.amendments import RosterChange, roster_change
from hospital_node.operator import opened, viewed
from hospital_node.orders import Orders
from hospital_node.settings import Node
from hospital_node.views import Row
from medveil.identity import Identity
from medveil.ids import fingerprint
from medveil.plan import Plan
from medveil.shown import plain, warn
from medveil.spoken import spoken
from privacy.dp.ledger import charges, total
from privacy.dp.policy import cost, policy_of, sharers_of
from privacy.secagg.rosters import smallest_sum


@dataclass(frozen=True)
class Paid:
    """Epsilon of this hospital's patients for one study, through all its rosters."""

    delta: float
    so_far: float
    """As the study counts it: with the noise of as many hospitals as it says."""
    so_far_alone: float
    """Against everybody: the own noise only."""
    at_the_end: float
    at_the_end_alone: float


@dataclass(frozen=True)
class Change:
    """An amended plan as this hospital sees it."""

    plan: Plan
    roster: RosterChange
    first_round: int
    """The first round that this hospital may be in, with whichever roster."""
    paid: Paid | None
    """None without noise."""


def change_of(node: Node, plan: Plan) -> Change | None:
    """What a plan changes; None if it amends none. Raises: what opening the ledger raises."""
    key = Identity.load(node.settings.name, node.key).public_key
    if plan.before is None:
        return None
    with opened(node) as journal:
        known = journal.plan(plan.before.id) is not None and Orders(journal).word(plan.before.id) is None
    roster = roster_change(plan, key, approved=known)
    assert roster is not None  # it amends one
    first = plan.since(key)
    paid = None if plan.study.privacy.kind == "none" else _paid(node, plan, first)
    return Change(plan, roster, first, paid)


def _paid(node: Node, plan: Plan, first: int) -> Paid:
    policy, whole = policy_of(plan.study), cost(plan.study, first=first)
    with viewed(node) as records:
        taken = charges(records.ledger.rows(), plan.lineage)
    together = [replace(entry, sharers=sharers_of(plan.study, entry.split)) for entry in taken]
    return Paid(
        delta=policy.delta,
        so_far=total(together, policy.delta, joint=True),
        so_far_alone=total(taken, policy.delta, joint=False),
        at_the_end=whole.epsilon_joint,
        at_the_end_alone=whole.epsilon_local,
    )


def change_rows(change: Change) -> Iterator[Row]:
    """The difference that an approval is about, a label and a text a row."""
    plan, before, roster = change.plan, change.plan.before, change.roster
    assert before is not None  # a change has one
    yield "amends", f"the plan {spoken(before.hash)}"
    yield (
        "",
        f"the same study with another roster, number {plan.epoch}, from round {plan.first_round} on at the "
        "earliest; until enough have approved it the roster before it goes on",
    )
    for member in roster.joined:
        yield warn("joins"), f"{plain(member.name)}  key {fingerprint(member.key)}"
    for member in roster.left:
        yield warn("leaves"), f"{plain(member.name)}  key {fingerprint(member.key)}"
    stay = len(plan.roster) - len(roster.joined)
    yield (
        "stay",
        f"{stay} hospitals with the same keys; {len(plan.roster)} in all, {len(before.roster)} before",
    )
    yield (
        "sums",
        f"each over {_sizes(plan)} hospitals; over {_sizes(before)} before",
    )
    if roster.joined:
        yield "", "who joins receives all models and sums of the study so far"
    if roster.left:
        yield "", "who leaves is asked no more; what it gave stays in the model, its own weights stay with it"
    yield from _privacy(change)
    if roster.stays:
        yield (
            "kept",
            "the model, the frozen patients, the declared number, what was charged: nothing begins anew",
        )


def _privacy(change: Change) -> Iterator[Row]:
    paid = change.paid
    if paid is None:
        yield "privacy", "none, as before"
        return
    yield (
        "privacy",
        f"spent here so far: epsilon {paid.so_far:.4g}, against everybody {paid.so_far_alone:.4g}; at the "
        f"study's end {paid.at_the_end:.4g} and {paid.at_the_end_alone:.4g}, at delta {paid.delta:g}",
    )
    if change.roster.stays:
        yield "", "as approved: a round costs the same with either roster, and each is charged once"
    else:
        yield "", f"for rounds {change.first_round} to {change.plan.study.training.rounds} and the evaluation"


def _sizes(plan: Plan) -> str:
    """Of a plan's sums, in words."""
    least, most = smallest_sum(plan), len(plan.roster)
    return f"all {most}" if least == most else f"{least} to {most}"
