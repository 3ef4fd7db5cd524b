"""An amended plan at a hospital: whether it may follow the one before it, and whose turn it is.

What goes on from roster to roster (ledger, cohort, model, courses) is kept under the plan's lineage, so
nothing is carried over: it is there (docs/decisions/0055-amended-rosters.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from hospital_node.governance import PlanRefused
from hospital_node.journal import Journal
from medveil.errors import RemoteProtocolError
from medveil.plan import Member, Plan
from privacy.secagg.rosters import unsafe_change


class OtherRosterBegun(RemoteProtocolError):
    """An attempt of a roster whose turn it is not."""

    code = "other-roster-begun"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The aggregator opens an attempt of a roster whose turn it is not: {reason}.",
            meaning="Two rosters at once could make two models of one study. Nothing was sent for it.",
            remedy="Tell the consortium's admin. This node goes on with the roster that it has begun with.",
        )


@dataclass(frozen=True)
class RosterChange:
    """How an amended plan's roster differs from the one before it."""

    joined: tuple[Member, ...]
    left: tuple[Member, ...]
    stays: bool
    """Whether this hospital was on the one before, with the same key, and had approved that plan."""


def roster_change(plan: Plan, own_key: bytes, *, approved: bool) -> RosterChange | None:
    """What an amendment changes; None for a plan that amends none.

    Args:
        approved: whether this hospital has approved the plan before it.
    """
    if plan.before is None:
        return None
    old, new = ({m.key: m for m in one.roster} for one in (plan.before, plan))
    return RosterChange(
        joined=tuple(m for key, m in new.items() if key not in old),
        left=tuple(m for key, m in old.items() if key not in new),
        stays=approved and own_key in old and own_key in new,
    )


def check_amendment(plan: Plan, journal: Journal) -> None:
    """Whether an amended plan may be approved and worked on here.

    Raises: PlanRefused if sums of both rosters might share no honest hospital, or if this hospital works with
        a later roster, or another one of the same number, already.
    """
    problem = unsafe_change(plan)
    if problem is not None:
        raise PlanRefused(
            reason=problem,
            remedy="Ask the admin to change the roster in smaller steps, one hospital at a time.",
        )
    begun = _begun_besides(plan, journal)
    if begun is not None:
        raise PlanRefused(
            reason=f"this hospital works with roster {begun.epoch} of its study already",
            remedy="Nothing to do. Another change is a new amendment of the plan that runs.",
        )


def check_turn(plan: Plan, journal: Journal, *, made_in: int) -> None:
    """Whether this node may join an attempt of a plan: no way back, and no two rosters of one number.

    Args:
        made_in: the epoch whose hospitals made the model that the attempt starts from, as this node knows.
    Raises: OtherRosterBegun.
    """
    begun = _begun_besides(plan, journal)
    if begun is not None:
        raise OtherRosterBegun(
            reason=f"roster {begun.epoch} has begun at this hospital, roster {plan.epoch} asks"
        )
    if plan.before is not None and made_in < plan.before.epoch:
        raise OtherRosterBegun(
            reason=f"roster {plan.before.epoch} has made no model that roster {plan.epoch} follows"
        )


def _begun_besides(plan: Plan, journal: Journal) -> Plan | None:
    """Another plan of this lineage, not before this one, in which this node has joined an attempt."""
    ours = {one.id for one in plan.epochs}
    found = (one for one in journal.approved_of(plan.lineage) if one.id not in ours)
    return next((one for one in found if journal.started(one.id)), None)
