"""Bounded sums that travel inside the masked vector, and the figures computed from their total.

A hospital contributes sums only, those of its study's task (:mod:`medveil.tasks`). The aggregator sees the
total over all hospitals, so the figures below are pooled figures by construction.

There are two layouts. :func:`layout` counts exactly; it is what a study without noise releases, and what a
hospital counts for its own eyes. :func:`released` of a study with noise holds fewer numbers, for noise is
added to each of them: every patient counts once, and what follows from the rest is not sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medveil.noise_policies import GaussianNoise
from medveil.study import Study
from medveil.tasks import TASKS, Sums, zeros


def layout(study: Study) -> dict[str, int]:
    """Names and lengths of the sums of a study, in wire order."""
    return TASKS[study.task].layout(study)


def empty(study: Study) -> Sums:
    """All sums at zero."""
    return zeros(layout(study))


def headline(study: Study) -> str:
    """The one figure a study is judged by."""
    return TASKS[study.task].headline


def released(study: Study) -> dict[str, int]:
    """Names and lengths of the sums that leave a hospital, in wire order."""
    task = TASKS[study.task]
    return task.layout(study) if study.privacy.kind == "none" else task.released(study)


def bounded(study: Study, patient: Mapping[str, NDArray[Any]]) -> Sums:
    """One patient's exact contribution as it enters a noised sum.

    Guarantees: divided by :func:`noise_scales`, the whole contribution has length 1 at most, whatever the
        images show and however many there are. Each task has the proof for its own.
    """
    return TASKS[study.task].bounded(study, patient)


def noise_scales(study: Study) -> dict[str, float]:
    """Standard deviation of each sum's noise at a multiplier of 1; see :func:`bounded`."""
    return TASKS[study.task].noise_scales(study)


def summarise(study: Study, sums: Mapping[str, NDArray[Any]], *, noise: float = 0.0) -> dict[str, float]:
    """Figures from summed contributions; a figure without the cases it needs is left out, never guessed.

    Args:
        sums: as :func:`layout` or, with noise, as :func:`released` lists them. The latter give no loss, no
            calibration error and no number of images, and every patient counts once.
        noise: multiplier of the noise in them (see :func:`noise_in_sum`); then ``noise`` is among the
            figures, the standard deviation of the headline on account of it.
    """
    task = TASKS[study.task]
    if "patients" in sums:
        return task.figures(study, sums)
    found = task.noised_figures(study, sums, noise)
    figures = {k: v if k == "patients" else _within(v, task.limits(study, k)) for k, v in found.items()}
    if noise > 0 and task.headline in figures:
        figures["noise"] = _error(study, sums, noise)
    return figures


def noise_in_sum(study: Study, *, hospitals: int, rounds: int = 1) -> float:
    """Multiplier of the noise in the sum of ``hospitals`` evaluations; 0 for a study without noise.

    Args:
        rounds: in how many rounds these patients' sums are released: 1 for the final evaluation, all
            training rounds for a validation.
    """
    if not isinstance(study.privacy, GaussianNoise):
        return 0.0
    return study.privacy.own_evaluation_multiplier * float(np.sqrt(rounds * hospitals))


def _error(study: Study, sums: Mapping[str, NDArray[Any]], noise: float) -> float:
    """Standard deviation of the headline figure, to first order in the noise of each number."""
    task, variance = TASKS[study.task], 0.0
    for name, scale in task.noise_scales(study).items():
        for place in range(len(sums[name])):
            ends = []
            for step in (-0.5, 0.5):
                moved = np.array(sums[name], np.float64)
                moved[place] += step
                found = task.noised_figures(study, {**sums, name: moved}, noise)
                ends.append(found.get(task.headline, np.nan))
            variance += (np.diff(ends)[0] * scale * noise) ** 2
    low, high = task.limits(study, task.headline)
    return float(np.nan_to_num(np.sqrt(variance), nan=high - low))


def _within(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])
