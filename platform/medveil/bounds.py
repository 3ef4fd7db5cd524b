"""How much a study may ask, and how it may write: what no hospital's machine or eyes should have to bear.

A study beyond these bounds (:func:`medveil.study.too_much`) is refused when it is written, read or offered.
One that was signed under an earlier version is still read from disk (``STORED``) and then refused by name,
where it is worked on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from medveil.shown import is_plain, plain

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
MOST_COUNTS = 2**17
"""Numbers of all groups in an evaluation: a megabyte of a masked vector."""
MOST_COLUMNS = 6
"""That make groups of patients."""
SMALLEST = 10
"""Patients that a group has at least where it is shown, unless a study says otherwise."""
LEAST_SMALLEST, MOST_SMALLEST = 5, 1000
"""Between what a study may say so."""
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


def options_beyond(place: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Where a model's or a strategy's options go beyond the bounds, and how."""
    if len(options) > MOST_OPTIONS:
        yield f"{place} must not exceed {MOST_OPTIONS} entries"
    for name, value in options.items():
        text = value if isinstance(value, str) else ""
        if max(len(name), len(text)) > SHORT or not is_plain(name) or not is_plain(text):
            yield f"{place}: names and texts have at most {SHORT} printable characters"
        whole = isinstance(value, int) and abs(value) > LARGEST
        if whole or (isinstance(value, float) and not math.isfinite(value)):
            yield f"{place}: '{plain(name, 40)}' is no number of a usual size"
