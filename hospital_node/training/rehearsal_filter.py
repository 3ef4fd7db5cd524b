"""The rehearsal of a filter: train() as it is, with a patient who may add half a step, and then no more.

What the filter books is what a patient has paid, and no noise or bound corrects it. So what it books is held
against what the patient really moves the sums by, and what it lets through against what was left.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hospital_node.training.rehearsal_round import Take, moved_by_canary, nearly, take_round
from hospital_node.training.safety import NotSafe
from hospital_node.training.stage import SLACK, Stage
from privacy.dp import individual

HALF = 0.5
"""Steps at the full norm that are left of the canary's budget, as a share of the norm."""
LONGER = 40.0
"""By so much the norm is larger than in other rehearsals: gradients are shorter than it, and cost less."""


def rehearse_filter(stage: Stage) -> None:
    """A patient adds no more than is left of the budget, and what it adds is booked.

    Wherever the patient stands among the others, one of whom has nothing left; and with gradients that are
    shorter than the clipping norm.
    Raises: NotSafe.
    """
    try:
        _rehearse(stage)
    except individual.FilterPassed as error:
        raise NotSafe(check="filter", problem="a patient adds more than the filter allows") from error


def _rehearse(stage: Stage) -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    noise = generator.standard_normal(stage.steps * stage.size) * stage.clip / math.sqrt(stage.size)
    half = ((HALF * (1 + individual.SLACK) + individual.SLACK) / stage.multiplier) ** 2
    rooms = {"canary": half, stage.others[-1].patient: 0.0}
    without = take_round(stage, noise=noise, rooms=rooms)
    for place in range(len(stage.others) + 1):
        canary = take_round(stage, noise=noise, place=place, instead=without.gradients, rooms=rooms)
        moved = _check_booked(stage, without, canary)
        if not canary.used["canary"] <= half * (1 + SLACK) or not moved.max() <= HALF * (1 + SLACK):
            raise NotSafe(check="filter", problem="a patient adds more than is left of the budget")
        if stage.steps > 1 and moved[-1] > nearly(stage):
            raise NotSafe(check="filter", problem="a patient whose budget is used up is in a sum")
        if canary.used[stage.others[-1].patient] or moved[0] < HALF / 2:
            raise NotSafe(check="filter", problem="what is left of a budget is another patient's")
    if stage.round_number <= stage.study.mean_rounds:  # features are as long as the norm
        return
    short = _with_norm(stage, LONGER * stage.clip)
    without = take_round(short, noise=noise)
    _check_booked(short, without, take_round(short, noise=noise, place=0, instead=without.gradients))


def _check_booked(stage: Stage, without: Take, canary: Take) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """What the canary moves the sums by, in bounds; no more than was booked. Raises: NotSafe."""
    moved = moved_by_canary(stage, without, canary)
    seen = np.maximum(moved - nearly(stage), 0.0)
    if not float(seen @ seen) <= canary.used["canary"] * stage.multiplier**2 * (1 + SLACK):
        raise NotSafe(check="filter", problem="a patient moves the sums by more than is booked")
    return moved


def _with_norm(stage: Stage, clip: float) -> Stage:
    privacy = stage.study.privacy.model_copy(update={"clip_norm": clip})
    return replace(stage, clip=clip, study=stage.study.model_copy(update={"privacy": privacy}))
