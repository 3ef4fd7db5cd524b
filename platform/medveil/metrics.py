"""Bounded sums that travel inside the masked vector, and the figures computed from their total.

A hospital contributes sums only: score histograms (classification) or per-patient Dice (segmentation). The
aggregator sees the total over all hospitals, so the figures below are pooled figures by construction.

There are two layouts. :func:`layout` counts exactly; it is what a study without noise releases, and what a
hospital counts for its own eyes. :func:`released` of a study with noise holds fewer numbers, for noise is
added to each of them: every patient counts once, in few bins, and what follows from the rest is not sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medveil.study import GaussianNoise, Study

Sums = dict[str, NDArray[np.float64]]
MAX_LOSS = 20.0
"""A patient's loss counts for at most this much, so that one image cannot dominate the sum."""
NOISED_BINS = 20
"""Bins of a histogram that gets noise: many bins cost accuracy by their noise, few by their ties."""
NOISED_EDGES = np.linspace(-7.2, 7.2, NOISED_BINS - 1)
"""Log odds between these bins, evenly, for there the scores differ; some models are surer than others."""
FINEST, WIDEST = 0.5, 32.0
"""Log odds up to which the exact histogram's bins are about equally wide, and where its last bins begin."""
CENTRE = 0.5
"""Taken off a Dice before it is summed with noise: half the range, half the noise."""
CASE_SHARE = 0.35
"""How much of a patient's bound the count of a structure takes beside its Dice; near the optimum for a Dice
of .75, which the count enters with a quarter of its error."""


def layout(study: Study) -> dict[str, int]:
    """Names and lengths of the sums of a study, in wire order."""
    if study.task == "segmentation":
        structures = study.classes[1:]
        named = {f"dice/{c}": 1 for c in structures} | {f"cases/{c}": 1 for c in structures}
        return named | {"loss": 1, "patients": 1}
    histograms: dict[str, int] = {}
    for name in scored_classes(study):
        histograms |= {f"positives/{name}": study.evaluation.bins, f"negatives/{name}": study.evaluation.bins}
    return histograms | {"correct": 1, "loss": 1, "images": 1, "patients": 1}


def scored_classes(study: Study) -> tuple[str, ...]:
    """Classes that have a score histogram: the second of two, or each of several."""
    return study.classes[1:] if len(study.classes) == 2 else study.classes


def empty(study: Study) -> Sums:
    """All sums at zero."""
    return {name: np.zeros(length) for name, length in layout(study).items()}


def headline(study: Study) -> str:
    """The one figure a study is judged by."""
    return "dice" if study.task == "segmentation" else "auroc"


def released(study: Study) -> dict[str, int]:
    """Names and lengths of the sums that leave a hospital, in wire order; with noise a part of the layout."""
    if study.privacy.kind == "none":
        return layout(study)
    if study.task == "segmentation":
        structures = study.classes[1:]
        return {f"dice/{c}": 1 for c in structures} | {f"cases/{c}": 1 for c in structures}
    sides = (f"{side}/{name}" for name in scored_classes(study) for side in ("positives", "negatives"))
    return dict.fromkeys(sides, NOISED_BINS)


def bounded(study: Study, patient: Mapping[str, NDArray[Any]]) -> Sums:
    """One patient's exact contribution as it enters a noised sum.

    Guarantees: divided by :func:`noise_scales`, the whole contribution has length 1 at most, whatever the
        images show and however many there are. Proof: a patient with k images puts 1/k into one bin each, so
        the two histograms of a class are not negative and sum to 1, and no longer than 1; with C classes,
        sqrt(C). A Dice less its centre lies within 1/2, a count is 0 or 1: with S structures the squares sum
        to S (1/4 + CASE_SHARE^2) at most, the count weighed by CASE_SHARE.
    """
    if study.task == "segmentation":
        sums: Sums = {}
        for name in study.classes[1:]:
            seen = patient[f"cases/{name}"]
            sums |= {f"dice/{name}": patient[f"dice/{name}"] - CENTRE * seen, f"cases/{name}": seen}
        return sums
    images = max(float(patient["images"][0]), 1.0)
    place = _places(study.evaluation.bins)
    return {name: np.bincount(place, patient[name], NOISED_BINS) / images for name in released(study)}


def noise_scales(study: Study) -> dict[str, float]:
    """Standard deviation of each sum's noise at a multiplier of 1; see :func:`bounded`."""
    if study.task == "classification":
        return dict.fromkeys(released(study), float(np.sqrt(len(scored_classes(study)))))
    whole = float(np.sqrt((len(study.classes) - 1) * (CENTRE**2 + CASE_SHARE**2)))
    return {name: whole / (CASE_SHARE if name.startswith("cases/") else 1) for name in released(study)}


def _places(bins: int) -> NDArray[np.intp]:
    """The noised bin of each of ``bins`` bins of the exact histogram."""
    return np.searchsorted(NOISED_EDGES, middles(bins))


def score_bins(log_odds: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    """The bin of each score in the exact histogram, from 0 (surely not) to ``bins`` - 1.

    The bins are equal in asinh(log odds / 0.5): a model that is sure of most films still has them in
    different bins, where equal bins of probability would tie them all.
    """
    place = np.arcsinh(log_odds / FINEST) / np.arcsinh(WIDEST / FINEST)
    return np.asarray(np.clip((place + 1) / 2 * bins, 0, bins - 1), np.intp)


def middles(bins: int) -> NDArray[np.float64]:
    """Log odds at the middle of each bin of :func:`score_bins`."""
    place = (np.arange(bins) + 0.5) / bins * 2 - 1
    return np.asarray(FINEST * np.sinh(place * np.arcsinh(WIDEST / FINEST)))


def summarise(study: Study, sums: Mapping[str, NDArray[Any]], *, noise: float = 0.0) -> dict[str, float]:
    """Figures from summed contributions; a figure without the cases it needs is left out, never guessed.

    Classification: ``auroc`` (mean over scored classes, from histograms, ties count half), ``accuracy``,
    ``ece`` (expected calibration error, 16 equal bins, two classes only), ``loss``, ``images``, ``patients``.
    Segmentation: ``dice`` (mean over structures), ``dice/<structure>`` (mean over patients in whom it was
    outlined), ``loss``, ``patients``.

    Args:
        sums: as :func:`layout` or, with noise, as :func:`released` lists them. The latter give no loss, no
            calibration error and no number of images, and every patient counts once.
        noise: multiplier of the noise in them (see :func:`noise_in_sum`); then ``noise`` is among the
            figures, the standard deviation of the headline on account of it.
    """
    if "patients" in sums:
        return _exact(study, sums)
    found = _noised(study, sums)
    figures = {k: v if k == "patients" else min(max(v, 0.0), 1.0) for k, v in found.items()}
    if noise > 0 and headline(study) in figures:
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
    variance = 0.0
    for name, scale in noise_scales(study).items():
        for place in range(len(sums[name])):
            ends = []
            for step in (-0.5, 0.5):
                moved = np.array(sums[name], np.float64)
                moved[place] += step
                ends.append(_noised(study, {**sums, name: moved}).get(headline(study), np.nan))
            variance += (np.diff(ends)[0] * scale * noise) ** 2
    return float(np.nan_to_num(np.sqrt(variance), nan=1.0))


def _noised(study: Study, sums: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """The figures as they follow from noised sums: a share may lie outside 0 to 1."""
    if study.task == "segmentation":
        found = {}
        for name in study.classes[1:]:
            cases = float(sums[f"cases/{name}"][0])
            if cases > 0.5:
                found[f"dice/{name}"] = CENTRE + float(sums[f"dice/{name}"][0]) / cases
        counts = [float(sums[f"cases/{name}"][0]) for name in study.classes[1:]]
        return _mean(found, "dice") | {"patients": float(max(0, round(max(counts))))}
    names = scored_classes(study)
    figures = _areas(study, sums)
    total = sum(float(values.sum()) for values in sums.values()) / len(names)
    if len(names) == 1 and total > 0:
        half = NOISED_BINS // 2
        hits = sums[f"negatives/{names[0]}"][:half].sum() + sums[f"positives/{names[0]}"][half:].sum()
        figures["accuracy"] = float(hits) / total
    return figures | {"patients": float(max(0, round(total)))}


def _exact(study: Study, sums: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    if study.task == "segmentation":
        for name in study.classes[1:]:
            cases = float(sums[f"cases/{name}"][0])
            if cases > 0:
                figures[f"dice/{name}"] = float(sums[f"dice/{name}"][0]) / cases
        figures = _mean(figures, "dice")
        counted = float(sums["patients"][0])
    else:
        counted = float(sums["images"][0])
        figures |= _classification(study, sums, counted)
    if counted > 0:
        figures["loss"] = float(sums["loss"][0]) / counted
    if "images" in sums:
        figures["images"] = float(sums["images"][0])
    return figures | {"patients": float(sums["patients"][0])}


def _classification(study: Study, sums: Mapping[str, NDArray[Any]], images: float) -> dict[str, float]:
    figures = _areas(study, sums)
    if images > 0:
        figures["accuracy"] = float(sums["correct"][0]) / images
        if len(study.classes) == 2:
            name = study.classes[1]
            figures["ece"] = calibration_error(sums[f"positives/{name}"], sums[f"negatives/{name}"])
    return figures


def _areas(study: Study, sums: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    areas = {}
    for name in scored_classes(study):
        area = auroc(sums[f"positives/{name}"], sums[f"negatives/{name}"])
        if area is not None:
            areas[f"auroc/{name}"] = area
    figures = _mean(areas, "auroc")
    return figures if len(areas) > 1 else {k: v for k, v in figures.items() if k == "auroc"}


def _mean(parts: dict[str, float], name: str) -> dict[str, float]:
    """The parts and, before them, their mean under ``name``; nothing without parts."""
    return {name: float(np.mean(list(parts.values()))), **parts} if parts else {}


def auroc(positives: NDArray[Any], negatives: NDArray[Any]) -> float | None:
    """Area under the ROC curve from two score histograms (low to high); None without both kinds.

    Noised counts may be negative and are used as they are: the noise of the area then has mean 0 to first
    order (the area may lie outside 0 to 1). Cutting them at 0 would pull the area down.
    """
    total_pos, total_neg = float(positives.sum()), float(negatives.sum())
    if total_pos <= 0 or total_neg <= 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float(np.sum(positives * (below + negatives / 2)) / (total_pos * total_neg))


def roc_curve(positives: NDArray[Any], negatives: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """False and true positive rates from (0, 0) to (1, 1), one point a bin; rising, also with noise."""
    true = np.concatenate([[0.0], np.cumsum(positives[::-1])]) / max(float(positives.sum()), 1.0)
    false = np.concatenate([[0.0], np.cumsum(negatives[::-1])]) / max(float(negatives.sum()), 1.0)
    return tuple(np.maximum.accumulate(np.clip(rates, 0.0, 1.0)) for rates in (false, true))  # type: ignore


def calibration_curve(
    positives: NDArray[Any], negatives: NDArray[Any], groups: int = 16
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Mean predicted probability, observed frequency and count, per equal group of probability with cases."""
    bins = len(positives)
    middle = 1 / (1 + np.exp(-middles(bins)))
    group = (middle * groups).astype(np.intp).clip(0, groups - 1)
    count = np.bincount(group, positives + negatives, groups)
    predicted = np.bincount(group, middle * (positives + negatives), groups)
    observed = np.bincount(group, positives, groups)
    filled = count > 0
    return predicted[filled] / count[filled], observed[filled] / count[filled], count[filled]


def calibration_error(positives: NDArray[Any], negatives: NDArray[Any]) -> float:
    """Expected calibration error: |predicted - observed|, weighted by the number of cases."""
    predicted, observed, count = calibration_curve(positives, negatives)
    return float(np.sum(count * np.abs(predicted - observed)) / max(float(count.sum()), 1.0))
