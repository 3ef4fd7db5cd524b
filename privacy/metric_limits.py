"""What the summed figures of an evaluation can be, whatever a hospital has sent as its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from medveil.metrics import noise_scales
from medveil.noise_policies import GaussianNoise
from medveil.parts import ALL, columns, part_of, parts, slots
from medveil.study import Study
from medveil.tasks import TASKS

Values = NDArray[np.float64]
STEP = 2.0**-20
"""Each hospital's figures are rounded to whole steps, by half a step at most."""
LARGEST_DRAW = 9.2
"""No value of :class:`privacy.dp.noise.NoiseSource` is as many standard deviations long."""
LARGEST_NOISED = 2.0**18
"""A hospital sends no figure with noise beyond it (see ``privacy.encoding.encode_metrics``)."""


def can_add_up(study: Study, sums: Mapping[str, Values], *, hospitals: int) -> bool:
    """Whether that many honest hospitals can have added up to these figures.

    Every patient's contribution has limits, they are linear, and so they hold for any number of patients:
    no count below zero, and what the study's task knows besides (no more hits than images, no Dice above its
    cases). Noise may carry a figure past its limit by at most ``LARGEST_DRAW`` standard deviations for each
    hospital.

    Args:
        sums: as :func:`medveil.metrics.released` lists them, and those of single hospitals where there are
            such; empty where a round carries none.
    """
    if not sums:
        return True
    if isinstance(study.privacy, GaussianNoise):
        return _noised(study, study.privacy, sums, hospitals)
    slack = hospitals * STEP
    if any((values < 0).any() for values in sums.values()):
        return False
    return _nobody_twice(study, sums, slack) and all(
        TASKS[study.task].can_add_up(study, part_of(sums, part), slack)
        for part in (*parts(study), *slots(sums))
    )


def _nobody_twice(study: Study, sums: Mapping[str, Values], slack: float) -> bool:
    """Whether a column's groups are together no more than all patients, in every number."""
    everybody = part_of(sums, ALL)
    for groups in columns(study).values():
        each = [part_of(sums, part) for part in groups]
        if any((sum(one[n] for one in each) > v + len(each) * slack).any() for n, v in everybody.items()):
            return False
    return True


def _noised(study: Study, privacy: GaussianNoise, sums: Mapping[str, Values], hospitals: int) -> bool:
    rounds = study.training.rounds if study.evaluation.every_round else 1
    most = hospitals * LARGEST_DRAW * privacy.own_evaluation_multiplier * float(np.sqrt(rounds))
    noise = {name: most * scale + hospitals * STEP for name, scale in noise_scales(study).items()}
    if any((np.abs(values) > hospitals * LARGEST_NOISED).any() for values in sums.values()):
        return False
    task, alone = TASKS[study.task], {n: most / hospitals for n, most in part_of(noise, ALL).items()}
    return all(
        task.noised_can_add_up(study, part_of(sums, part), part_of(noise, part)) for part in parts(study)
    ) and all(task.noised_can_add_up(study, part_of(sums, part), alone) for part in slots(sums))
