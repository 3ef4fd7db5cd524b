"""Bounded sums that travel inside the masked vector, and the figures computed from their total.

A hospital contributes sums only: score histograms (classification) or per-patient Dice (segmentation). The
aggregator sees the total over all hospitals, so the figures below are pooled figures by construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medveil.study import Study

Sums = dict[str, NDArray[np.float64]]
MAX_LOSS = 20.0
"""A patient's loss counts for at most this much, so that one image cannot dominate the sum."""


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


def summarise(study: Study, sums: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Figures from summed contributions; a figure without the cases it needs is left out, never guessed.

    Classification: ``auroc`` (mean over scored classes, from histograms, ties count half), ``accuracy``,
    ``ece`` (expected calibration error, 16 equal bins, two classes only), ``loss``, ``images``, ``patients``.
    Segmentation: ``dice`` (mean over structures), ``dice/<structure>`` (mean over patients in whom it was
    outlined), ``loss``, ``patients``.
    """
    figures: dict[str, float] = {}
    if study.task == "segmentation":
        for name in study.classes[1:]:
            cases = float(sums[f"cases/{name}"][0])
            if cases > 0:
                figures[f"dice/{name}"] = float(sums[f"dice/{name}"][0]) / cases
        if figures:
            figures = {"dice": float(np.mean(list(figures.values()))), **figures}
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
    figures, areas = {}, {}
    for name in scored_classes(study):
        area = auroc(sums[f"positives/{name}"], sums[f"negatives/{name}"])
        if area is not None:
            areas[f"auroc/{name}"] = area
    if areas:
        figures = {"auroc": float(np.mean(list(areas.values()))), **(areas if len(areas) > 1 else {})}
    if images > 0:
        figures["accuracy"] = float(sums["correct"][0]) / images
        if len(study.classes) == 2:
            name = study.classes[1]
            figures["ece"] = calibration_error(sums[f"positives/{name}"], sums[f"negatives/{name}"])
    return figures


def auroc(positives: NDArray[Any], negatives: NDArray[Any]) -> float | None:
    """Area under the ROC curve from two score histograms (low to high); None without both kinds."""
    total_pos, total_neg = float(positives.sum()), float(negatives.sum())
    if total_pos <= 0 or total_neg <= 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float(np.sum(positives * (below + negatives / 2)) / (total_pos * total_neg))


def roc_curve(positives: NDArray[Any], negatives: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """False and true positive rates from (0, 0) to (1, 1), one point a bin."""
    true = np.concatenate([[0.0], np.cumsum(positives[::-1])]) / max(float(positives.sum()), 1.0)
    false = np.concatenate([[0.0], np.cumsum(negatives[::-1])]) / max(float(negatives.sum()), 1.0)
    return false, true


def calibration_curve(
    positives: NDArray[Any], negatives: NDArray[Any], groups: int = 16
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Mean predicted probability, observed frequency and count per group of score bins that hold cases."""
    bins = len(positives)
    middle = (np.arange(bins) + 0.5) / bins
    group = np.arange(bins) * groups // bins
    count = np.bincount(group, positives + negatives, groups)
    predicted = np.bincount(group, middle * (positives + negatives), groups)
    observed = np.bincount(group, positives, groups)
    filled = count > 0
    return predicted[filled] / count[filled], observed[filled] / count[filled], count[filled]


def calibration_error(positives: NDArray[Any], negatives: NDArray[Any]) -> float:
    """Expected calibration error: |predicted - observed|, weighted by the number of cases."""
    predicted, observed, count = calibration_curve(positives, negatives)
    return float(np.sum(count * np.abs(predicted - observed)) / max(float(count.sum()), 1.0))
