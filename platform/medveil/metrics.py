"""Bounded sums that travel inside the masked vector, and the figures computed from their total.

A hospital contributes sums only, those of its study's task (:mod:`medveil.tasks`). The aggregator sees the
total over all hospitals, so the figures below are pooled figures by construction.

There are two layouts. :func:`layout` counts exactly; it is what a study without noise releases, and what a
hospital counts for its own eyes. :func:`released` of a study with noise holds fewer numbers, for noise is
added to each of them: every patient counts once, and what follows from the rest is not sent.

Where a study asks for figures of groups, both hold the task's sums once for all patients and once for each
group (:mod:`medveil.parts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medveil.groups import MARK, UNKNOWN
from medveil.intervals import Arms, Estimate
from medveil.noise_policies import GaussianNoise
from medveil.parts import columns, in_round, part_of, parts, repeated, slots, widening
from medveil.readings import Reading, named, read
from medveil.reports import AttemptReport
from medveil.rounds import RoundKind
from medveil.study import Study
from medveil.tasks import TASKS, Sums, zeros


def layout(study: Study) -> dict[str, int]:
    """Names and lengths of the sums of a study, in wire order."""
    return repeated(study, TASKS[study.task].layout(study))


def empty(study: Study) -> Sums:
    """All sums at zero."""
    return zeros(layout(study))


def headline(study: Study) -> str:
    """The one figure a study is judged by."""
    return TASKS[study.task].headline


def released(study: Study) -> dict[str, int]:
    """Names and lengths of the sums that leave a hospital, in wire order."""
    if study.privacy.kind == "none":
        return layout(study)
    return repeated(study, TASKS[study.task].released(study))


def bounded(study: Study, patient: Mapping[str, NDArray[Any]]) -> Sums:
    """One patient's exact contribution as it enters a noised sum.

    Guarantees: divided by :func:`noise_scales`, the whole contribution has length 1 at most, whatever the
        images show and however many there are. Each task has the proof for its own, :mod:`medveil.parts`
        that for groups.
    """
    task, sums = TASKS[study.task], Sums()
    for part in parts(study):
        of = part_of(patient, part)
        sums |= {name + part: values for name, values in task.bounded(study, of).items()} if of else {}
    return sums


def noise_scales(study: Study) -> dict[str, float]:
    """Standard deviation of each sum's noise at a multiplier of 1; see :func:`bounded`."""
    own, wider = TASKS[study.task].noise_scales(study), widening(study)
    return repeated(study, {name: scale * wider for name, scale in own.items()})


def summarise(study: Study, sums: Mapping[str, NDArray[Any]], *, noise: float = 0.0) -> dict[str, float]:
    """Figures from summed contributions; a figure without the cases it needs is left out, never guessed.

    Beside a figure ``h`` stand the ends of its 95 % intervals, cut to its range as the figure is:
    ``h_low`` and ``h_high``, by the noise and by which patients were there, where the sums tell how patients
    differ; of noised sums also ``h_noise_low`` and ``h_noise_high``, by the noise alone, and ``h_uncut``, the
    figure before it was cut. A figure that the noise drowns is left out, and ``h_undetermined`` (1) says so.
    Of ``h/part`` they are ``h_low/part`` and so on. :func:`medveil.readings.read` reads them.

    Those of a group stand behind those of all, with the group in their names: ``auroc@sex=F``. For a column
    all of whose groups are there, ``unknown@sex`` says how many patients are in none of them. Those of single
    hospitals (``auroc@hospital=st-marys``) follow, where the sums hold them.

    Args:
        sums: as :func:`layout` or, with noise, as :func:`released` lists them. The latter give no loss, no
            calibration error and no number of images, and every patient counts once. Groups may be missing.
        noise: multiplier of the noise in them (see :func:`noise_in_sum`); then ``noise`` is among the
            figures, the standard deviation of the headline on account of it.
    Source: see :mod:`medveil.intervals`.
    """
    figures: dict[str, float] = {}
    alone = noise_in_sum(study, hospitals=1) if noise > 0 else 0.0
    single = dict.fromkeys(slots(sums), alone)  # others leave a hospital's sums without noise, too
    for part, own in (dict.fromkeys(parts(study), noise) | single).items():
        of = part_of(sums, part)
        if of:
            found = _figures(study, of, own * widening(study))
            figures |= {name + part: value for name, value in found.items()}
    for column, groups in columns(study).items():
        counts = [figures.get(f"patients{part}") for part in groups]
        if None not in counts:
            rest = figures["patients"] - sum(count for count in counts if count is not None)
            figures[f"{UNKNOWN}{MARK}{column}"] = max(0.0, rest)
    return figures


def _figures(study: Study, sums: Mapping[str, NDArray[Any]], noise: float) -> dict[str, float]:
    """Of one part, under the task's own names; ``noise`` as its sums have it."""
    task = TASKS[study.task]
    if "patients" in sums:
        figures = task.figures(study, sums)
        for name, one in task.estimates(study, sums).items():
            figures |= _ends(name, one, task.limits(study, name))
        return figures
    found, figures = task.noised_estimates(study, sums, noise), {}
    for name, estimate in found.items():
        if estimate is not None:
            limits = task.limits(study, name)
            figures[name] = _within(estimate.value, limits)
            figures |= _ends(name, estimate, limits) | _noise_ends(name, estimate, limits)
        elif noise > 0:
            figures[named(name, "undetermined")] = 1.0
    for name, count in task.noised_counts(study, sums, noise).items():
        figures[name] = max(count, 0.0)
    headline = found.get(task.headline)
    return figures | ({"noise": headline.deviation} if headline is not None and noise > 0 else {})


def noise_in_sum(study: Study, *, hospitals: int, rounds: int = 1) -> float:
    """Multiplier of the noise in the sum of ``hospitals`` evaluations; 0 for a study without noise.

    Args:
        rounds: in how many rounds these patients' sums are released: 1 for the final evaluation, all
            training rounds for a validation.
    """
    if not isinstance(study.privacy, GaussianNoise):
        return 0.0
    return study.privacy.own_evaluation_multiplier * float(np.sqrt(rounds * hospitals))


def figures_of(study: Study, report: AttemptReport) -> dict[str, float]:
    """Figures of an attempt with their intervals, also where an earlier version has written it without.

    From the sums that the report holds, if they have the present layout; else as they are written.
    """
    written = dict(report.figures)
    if any(one.partition("/")[0].endswith(("_low", "_undetermined")) for one in written):
        return written
    if {name: len(values) for name, values in report.sums.items()} != released(in_round(study, report.kind)):
        return written
    rounds = 1 if report.kind is RoundKind.EVALUATE else study.training.rounds
    noise = noise_in_sum(study, hospitals=len(report.survivors), rounds=rounds)
    sums = {name: np.asarray(values, np.float64) for name, values in report.sums.items()}
    found = summarise(study, sums, noise=noise)
    return {
        name: value for name, value in written.items() if named(name, "undetermined") not in found
    } | found


def read_headline(study: Study, report: AttemptReport) -> Reading | None:
    """The headline figure of an attempt with its intervals; None where it lacks cases or was not counted."""
    name, figures = headline(study), figures_of(study, report)
    if report.metric is not None and named(name, "undetermined") not in figures:
        figures = {name: report.metric, **figures}
    return read(figures, name, limits=TASKS[study.task].limits(study, name), headline=True)


def _ends(name: str, one: Estimate, limits: tuple[float, float]) -> dict[str, float]:
    """An interval about the figure as it is shown. Its arms are not cut, so it is never a single point."""
    return {} if one.both is None else _cut(name, "", one.value, one.both, limits)


def _noise_ends(name: str, one: Estimate, limits: tuple[float, float]) -> dict[str, float]:
    return {named(name, "uncut"): one.value} | _cut(name, "noise_", one.value, one.noise, limits)


def _cut(name: str, kind: str, value: float, arms: Arms, limits: tuple[float, float]) -> dict[str, float]:
    shown = _within(value, limits)
    low, high = _within(shown - arms.below, limits), _within(shown + arms.above, limits)
    return {named(name, f"{kind}low"): low, named(name, f"{kind}high"): high}


def _within(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])
