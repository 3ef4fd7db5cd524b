"""How much a study may ask, and how it may write: what no hospital's machine or eyes should have to bear.

A study beyond these bounds is refused when it is written, read or offered. One that was signed under an
earlier version is still read from disk (``STORED``) and then refused by name, where it is worked on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from medveil.shown import is_plain, plain

if TYPE_CHECKING:
    from medveil.study import Study

STORED = {"stored": True}
"""Context for validating what was accepted before: its parts must agree, these bounds do not matter."""
MOST_STEPS = 10_000_000
"""Optimiser steps of a whole study; two days at 17 ms each."""
MOST_EPOCHS = 100_000
"""Passes over the images of a whole study."""
MOST_PARAMETERS = 2**31
MOST_TENSORS = 100_000
MOST_VOXELS = 2**27
"""Of one image: 512 x 512 x 512, half a gigabyte."""
MOST_IMAGES = 4096
"""Of a patient, or of a batch."""
MOST_HOSPITALS = 2000
LARGEST_DELTA = 1e-3
"""Of a study, and of a hospital's own limit: with a larger one epsilon says next to nothing."""
MOST_OPTIONS = 64
LARGEST = 2**53
"""Whole numbers that every reader of JSON keeps exactly."""
CLASS_NAME = 60
SHORT = 200


def default_delta(patients: int) -> float:
    """min(1e-5, 1 / (10 n)): far below one in n, where publishing a random patient would count as private."""
    if patients < 1:
        raise ValueError("a data set has at least one patient")
    return min(1e-5, 1 / (10 * patients))


def too_much(study: Study) -> str | None:
    """The first place where a study goes beyond the bounds, and how; None if nowhere."""
    return next(_beyond(study), None)


def _beyond(study: Study) -> Iterator[str]:
    yield from _numbers(study)
    for name in study.classes:
        if not name.strip() or len(name) > CLASS_NAME or not is_plain(name):
            shown = plain(name, CLASS_NAME)
            yield f"classes: a name has 1 to {CLASS_NAME} printable characters, not '{shown}'"
    if not is_plain(study.description, lines=True):
        yield "description: it holds characters that cannot be shown (control or formatting characters)"
    for tensor in study.model.tensors.root:
        if not is_plain(tensor.name):
            yield "model.tensors: a name holds characters that cannot be shown"
    for place, options in (("model", study.model.options), ("strategy", study.strategy.options)):
        yield from _options(f"{place}.options", dict(options))


def _numbers(study: Study) -> Iterator[str]:
    training, rounds, image = study.training, study.training.rounds, math.prod(study.transforms.size)
    shapes = [tensor.shape for tensor in study.model.tensors.root]
    per_patient = 1 if study.privacy.kind == "none" else study.privacy.images_per_patient
    for place, value, most in (
        ("training.local_steps times rounds", (training.local_steps or 0) * rounds, MOST_STEPS),
        ("training.local_epochs times rounds", (training.local_epochs or 0) * rounds, MOST_EPOCHS),
        ("training.batch_images", training.batch_images, MOST_IMAGES),
        ("privacy.images_per_patient", per_patient, MOST_IMAGES),
        ("transforms.size, in pixels or voxels,", image, MOST_VOXELS),
        ("model.tensors, in tensors,", len(shapes), MOST_TENSORS),
        ("model.tensors, in dimensions,", max(len(shape) for shape in shapes), 8),
        ("cohort.min_hospitals", study.cohort.min_hospitals, MOST_HOSPITALS),
        ("secure_aggregation.colluders", study.secure_aggregation.colluders, MOST_HOSPITALS),
    ):
        if value > most:
            yield f"{place} must not exceed {most:,}"
    if study.privacy.kind != "none" and study.privacy.delta > LARGEST_DELTA:
        yield f"privacy.delta must not exceed {LARGEST_DELTA:g}"
    if any(edge > MOST_PARAMETERS for shape in shapes for edge in shape) or (
        study.model.tensors.size > MOST_PARAMETERS
    ):
        yield f"model.tensors must not exceed {MOST_PARAMETERS:,} parameters"


def _options(place: str, options: dict[str, Any]) -> Iterator[str]:
    if len(options) > MOST_OPTIONS:
        yield f"{place} must not exceed {MOST_OPTIONS} entries"
    for name, value in options.items():
        text = value if isinstance(value, str) else ""
        if max(len(name), len(text)) > SHORT or not is_plain(name) or not is_plain(text):
            yield f"{place}: names and texts have at most {SHORT} printable characters"
        whole = isinstance(value, int) and abs(value) > LARGEST
        if whole or (isinstance(value, float) and not math.isfinite(value)):
            yield f"{place}: '{plain(name, 40)}' is no number of a usual size"
