"""Convergence: figure, updates, time, traffic and drop-outs of a study over its rounds; studies compared."""

from __future__ import annotations

import math

from aggregator.storage.register import Role
from aggregator.watching.convergence import Comparison, Convergence
from aggregator.web.dashboard.screen import Screen, View
from aggregator.web.problems import BadRequest

WHO = (Role.ADMIN, Role.RESEARCHER)


def course(view: View) -> Convergence:
    """One study over its rounds. Raises: NotFound; BadRequest for a gate that is no number."""
    return view.measures.convergence(view.plan, gate=_number(view.filters.get("gate", "")))


def _number(typed: str) -> float | None:
    """What somebody has typed, with a point or a comma. Raises: BadRequest."""
    if not typed:
        return None
    try:
        found = float(typed.strip().replace(",", "."))
    except ValueError as error:
        raise BadRequest() from error
    if not (math.isfinite(found) and abs(found) < 1e9):
        raise BadRequest()
    return found


def compared(view: View) -> Comparison:
    """The newest studies side by side."""
    return view.measures.comparison(view.plans, task=view.filters.get("task", ""))


SCREENS = (
    Screen(
        "convergence",
        "/studies/{plan}/convergence",
        course,
        "medveil aggregator study convergence {plan}",
        place=30,
        roles=WHO,
        filters=("gate",),
        options=("gate",),
    ),
    Screen(
        "comparison",
        "/comparison",
        compared,
        "medveil aggregator study compare",
        place=40,
        roles=WHO,
        filters=("task",),
        options=("task",),
    ),
)
