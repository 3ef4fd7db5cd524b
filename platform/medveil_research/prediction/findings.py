"""From logits to what is said of an image: probabilities, a number in its unit, sizes of structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from medveil.study import Study
from medveil.tasks import TASKS
from medveil_imaging.sources.raw import Unusable


@dataclass(frozen=True)
class Said:
    """What a model says of one case."""

    values: Mapping[str, float]
    """Numbers by name: probabilities, the target, millilitres (of films: pixels) of a structure."""
    verdicts: Mapping[str, str] = field(default_factory=dict)
    """What was decided, by question."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Of the values that have one."""
    images: int = 1
    """Images of the case; of several slices the values are means."""


def said_of(study: Study, logits: torch.Tensor, threshold: float) -> Said:
    """What logits (k, outputs) of a case's k images mean; of several images the mean.

    Args: threshold: the probability from which on a finding is said to be there.
    Raises: Unusable: the model gives no finite number for this image.
    """
    check_finite(logits)
    scores = logits.double()
    if study.target is not None:
        target = study.target
        shares = ((scores[:, 0] + 1) / 2).clamp(0, 1)
        value = target.low + (target.high - target.low) * float(shares.mean())
        return Said({target.column: value}, units={target.column: target.unit}, images=len(logits))
    if study.task == "findings" or scores.shape[1] == 1:
        each = torch.sigmoid(scores).mean(0)
        names = study.classes if study.task == "findings" else study.classes[1:]
        values = {name: float(p) for name, p in zip(names, each, strict=True)}
        if study.task == "findings":
            verdicts = {name: "yes" if p >= threshold else "no" for name, p in values.items()}
        else:
            verdicts = {"class": study.classes[int(float(each[0]) >= threshold)]}
        return Said(values, verdicts, images=len(logits))
    each = scores.softmax(1).mean(0)
    values = {name: float(p) for name, p in zip(study.classes, each, strict=True)}
    return Said(values, {"class": study.classes[int(each.argmax())]}, images=len(logits))


def check_finite(logits: torch.Tensor) -> None:
    """Raises: Unusable: a logit is no finite number."""
    if not bool(torch.isfinite(logits).all()):
        raise Unusable(
            "no-finite-output",
            "The model gives no finite number for this image.",
            "Look at the image; if it happens to all of them, the model has diverged.",
        )


def sizes_of(study: Study, labels: np.ndarray, voxel_ml: float | None) -> Said:
    """How large each structure of a label map is.

    Args: voxel_ml: of a voxel of the map's grid; None for films, whose structures are counted in pixels.
    """
    unit, size = ("pixels", 1.0) if voxel_ml is None else ("ml", voxel_ml)
    counts = np.bincount(labels.ravel(), minlength=len(study.classes))
    values = {name: float(counts[k]) * size for k, name in enumerate(study.classes) if k}
    return Said(values, units=dict.fromkeys(values, unit))


def columns_of(study: Study) -> tuple[str, ...]:
    """The names of the values of every case of a study."""
    if study.target is not None:
        return (study.target.column,)
    if TASKS[study.task].outlines or (study.task != "findings" and len(study.classes) == 2):
        return study.classes[1:]
    return study.classes
