"""A hospital that has the budget of one study and has spent it."""

from __future__ import annotations

from pathlib import Path

from hospital_node.operator import go_on, what_is_lost
from hospitals import Hospital, make_hospital, plan_of
from medveil.messages import LedgerEnd
from medveil.plan import Plan
from privacy.dp.policy import cost

ALONE = cost(plan_of().study).epsilon_local
CAP = 1.1 * ALONE
"""One study fits under it, two do not."""


def spent_once(tmp_path: Path) -> tuple[Hospital, Plan]:
    """A hospital that has run one study, and a second plan for which nobody of it has a budget left."""
    hospital, first = make_hospital(tmp_path, epsilon_cap=CAP), plan_of()
    hospital.approve(first)
    hospital.runs(first, 1, 2)
    return hospital, plan_of("second")


def go_on_from(hospital: Hospital, seen: LedgerEnd | None = None) -> None:
    """What the operator does who is told what is lost, and goes on."""
    lost, _ = what_is_lost(hospital.node, ask=False)
    go_on(hospital.node, lost, seen)
