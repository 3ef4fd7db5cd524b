"""Lesions: connected parts of a structure, counted as found, missed or falsely reported.

An overlap of voxels says little of many small lesions: one large lesion outweighs them. Counting them does.
A lesion of the label map is found if any of its voxels is in what the model outlined; a part that the model
outlined is false if none of its voxels is in the label map. Voxels that touch at a corner belong together.
Source: lesion-wise true and false positives as in Commowick et al., Scientific Reports 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medveil import intervals
from medveil.intervals import Estimate

KINDS = ("found", "missed", "false")
MANY = 1000.0
"""Most lesions of an image that are counted, and most false ones."""
FEW = 10.0
"""The same of a patient in a noised sum: the noise grows with it. Of one with more, each counts for less."""
SHARE = 0.35
"""How much of a patient's bound the lesions of a structure take beside its Dice, and the false ones again."""
CLEAR = 3.0
"""Standard deviations of its noise by which a count stands out where a figure rests on it."""

Given = Mapping[str, NDArray[Any]]
Sums = dict[str, NDArray[np.float64]]


def names(structures: Sequence[str]) -> dict[str, int]:
    """Names and lengths of the sums."""
    return {f"{kind}/{name}": 1 for name in structures for kind in KINDS}


def counted(outlined: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Lesions found and missed, and false ones, of one structure in one image of any number of axes."""
    from scipy import ndimage

    touching = np.ones((3,) * outlined.ndim)
    lesions, count = ndimage.label(outlined, touching)
    parts, reported = ndimage.label(predicted, touching)
    found = np.count_nonzero(np.unique(lesions[predicted]))
    right = np.count_nonzero(np.unique(parts[outlined]))
    scale = min(1.0, MANY / max(count, 1))
    return found * scale, (count - found) * scale, min(float(reported - right), MANY)


def mean_of(structures: Sequence[str], images: Sequence[Given]) -> Sums:
    """One patient's sums from those of single images: counts of a usual image."""
    return {name: np.mean([one[name] for one in images], axis=0) for name in names(structures)}


def bounded(structures: Sequence[str], patient: Given) -> Sums:
    """One patient's sums as they enter a noised total.

    Guarantees: of a structure, found and missed lesions together are ``FEW`` at most, and so is the length of
        the two; false ones are ``FEW`` at most.
    """
    sums: Sums = {}
    for name in structures:
        found, missed, false = (np.maximum(patient[f"{kind}/{name}"], 0.0) for kind in KINDS)
        scale = FEW / np.maximum(found + missed, FEW)
        sums |= {f"found/{name}": found * scale, f"missed/{name}": missed * scale}
        sums[f"false/{name}"] = np.minimum(false, FEW)
    return sums


def figures(structures: Sequence[str], sums: Given) -> dict[str, float]:
    """``sensitivity/<structure>``: share of the lesions that are found; ``precision/<structure>``: share of
    found among found and false ones; ``lesions/<structure>``: how many there are. Each where there are some.
    """
    found: dict[str, float] = {}
    for name in structures:
        right, missed, false = (float(sums[f"{kind}/{name}"][0]) for kind in KINDS)
        if right + missed > 0:
            found |= {f"sensitivity/{name}": right / (right + missed), f"lesions/{name}": right + missed}
        if right + false > 0:
            found[f"precision/{name}"] = right / (right + false)
    return found


def estimates(structures: Sequence[str], sums: Given, deviation: float) -> dict[str, Estimate | None]:
    """The two shares from noised sums; None where the counts do not stand clear of the noise.

    By the noise alone: lesions of a patient are alike, and the sums do not tell how much.

    Args:
        deviation: standard deviation of the noise in each sum.
    """
    found: dict[str, Estimate | None] = {}
    for name in structures:
        right, missed, false = (float(sums[f"{kind}/{name}"][0]) for kind in KINDS)
        for figure, others in (("sensitivity", missed), ("precision", false)):
            clear = right + others > _doubt(deviation)
            noise = (deviation**2, deviation**2)
            found[f"{figure}/{name}"] = intervals.share(right, others, noise) if clear else None
    return found


def noised_counts(structures: Sequence[str], sums: Given, deviation: float) -> dict[str, float]:
    """``lesions/<structure>`` where they stand clear of the noise; see :func:`estimates`."""
    there = {name: float(sums[f"found/{name}"][0] + sums[f"missed/{name}"][0]) for name in structures}
    return {f"lesions/{name}": count for name, count in there.items() if count > _doubt(deviation)}


def _doubt(deviation: float) -> float:
    """By how much noise may move the sum of two counts."""
    return max(0.5, CLEAR * deviation * math.sqrt(2))


def can_add_up(structures: Sequence[str], sums: Given, patients: float, slack: float) -> bool:
    """Whether so many patients can have as many lesions."""
    most = MANY * patients * (1 + 1e-9) + 2 * slack
    return all(
        float(sums[f"found/{name}"][0] + sums[f"missed/{name}"][0]) <= most
        and float(sums[f"false/{name}"][0]) <= most
        for name in structures
    )
