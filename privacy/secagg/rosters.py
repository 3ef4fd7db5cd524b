"""Whether an amended roster may follow another one: no model is opened by both, and who joins is led right.

A sum holds at least s hospitals of its roster: a quorum, and ``min_hospitals``. Two sums of two rosters with
n different hospitals in all share at least s + s' - n of them. Where that exceeds the colluders, an honest
one is in both, and it sends no two vectors from one model (docs/decisions/0055-amended-rosters.md).
"""

from __future__ import annotations

from medveil.plan import Plan
from medveil.rounds import RoundKind
from privacy.secagg.keys import setting_for


def smallest_sum(plan: Plan) -> int:
    """Fewest hospitals of a plan's sums: a quorum of the roster, and at least ``cohort.min_hospitals``."""
    return setting_for(plan, number=1, attempt=1, kind=RoundKind.TRAIN, model=b"").smallest


def unsafe_change(plan: Plan) -> str | None:
    """Why a plan's roster may not follow the one before it; None if it may, or follows none.

    Guarantees: else a sum of each from one model would share an honest hospital; and every sum of the new one
        has an honest hospital of the old one.
    """
    before, colluders = plan.before, plan.study.secure_aggregation.colluders
    if before is None:
        return None
    old, new = ({m.key for m in one.roster} for one in (before, plan))
    smallest, joined = smallest_sum(plan), len(new - old)
    if smallest_sum(before) + smallest - len(old | new) > colluders and smallest - joined > colluders:
        return None
    return (
        f"{joined} hospitals of {len(new)} would join and {len(old - new)} of {len(old)} leave at once, so a "
        "sum of the old roster and one of the new might have no honest hospital in common"
    )
