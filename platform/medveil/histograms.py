"""Histograms of a score: which bin a score falls into, and what follows from the counts.

A hospital cannot send scores, but counts of them add up over hospitals; area, curve and calibration below
are those of all cases together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FINEST, WIDEST = 0.5, 32.0
"""Log odds up to which the bins are about equally wide, and where the last bins begin."""


def score_bins(log_odds: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    """The bin of each score, from 0 (surely not) to ``bins`` - 1.

    The bins are equal in asinh(log odds / 0.5): a model that is sure of most films still has them in
    different bins, where equal bins of probability would tie them all.
    """
    place = np.arcsinh(log_odds / FINEST) / np.arcsinh(WIDEST / FINEST)
    return np.asarray(np.clip((place + 1) / 2 * bins, 0, bins - 1), np.intp)


def middles(bins: int) -> NDArray[np.float64]:
    """Log odds at the middle of each bin of :func:`score_bins`."""
    place = (np.arange(bins) + 0.5) / bins * 2 - 1
    return np.asarray(FINEST * np.sinh(place * np.arcsinh(WIDEST / FINEST)))


def edges(bins: int) -> NDArray[np.float64]:
    """Log odds between the bins of :func:`score_bins`, shape (bins - 1,)."""
    place = np.arange(1, bins) / bins * 2 - 1
    return np.asarray(FINEST * np.sinh(place * np.arcsinh(WIDEST / FINEST)))


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
