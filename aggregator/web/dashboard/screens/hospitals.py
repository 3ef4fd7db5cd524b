"""Hospitals: who is there, with which version, how far its clock is off, and how many rounds it took."""

from __future__ import annotations

from aggregator.watching.values import HospitalSeen, StudyLine
from aggregator.web.dashboard.screen import Screen, View
from medveil.reports import Amount
from medveil.values import Frozen

CLOCK_S = 5.0
"""A clock that is off by more is shown as late: signatures fail when it is off by minutes."""
STATES = ("all", "reach", "silent", "revoked")


class HospitalsSeen(Frozen):
    """All hospitals, or those that a filter leaves."""

    hospitals: tuple[HospitalSeen, ...]
    studies: tuple[StudyLine, ...]
    """Those that the hospitals name, so that they can be called by their names."""
    all: int
    state: str
    """The filter: ``all``, ``reach``, ``silent`` or ``revoked``."""
    as_of: Amount


def value(view: View) -> HospitalsSeen:
    """Everybody; a researcher sees those of his studies, and only these studies of them."""
    state = view.filters.get("state", "all")
    lines = {one.plan: one for one in view.watching.studies() if view.sees(one.plan)}
    found = []
    for one in view.watching.hospitals():
        mine = tuple(plan for plan in one.studies if plan in lines)
        if view.plans is not None:
            if not mine:
                continue
            # Rounds are counted over all studies, so they would tell of those of others.
            one = one.model_copy(update={"taken": 0, "missed": 0})
        approved = tuple(plan for plan in one.approved if plan in lines)
        found.append(one.model_copy(update={"studies": mine, "approved": approved}))
    named = {plan for one in found for plan in one.studies}
    return HospitalsSeen(
        hospitals=tuple(one for one in found if _fits(one, state)),
        studies=tuple(line for plan, line in lines.items() if plan in named),
        all=len(found),
        state=state if state in STATES else "all",
        as_of=view.now,
    )


def _fits(one: HospitalSeen, state: str) -> bool:
    if state == "reach":
        return one.in_reach is True and not one.revoked
    if state == "silent":
        return one.in_reach is False and bool(one.approved) and not one.revoked
    return one.revoked if state == "revoked" else True


SCREENS = (
    Screen("hospitals", "/hospitals", value, "medveil aggregator hospitals", place=20, filters=("state",)),
)
