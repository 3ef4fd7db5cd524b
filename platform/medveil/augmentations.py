"""Random changes of an image before a training step: what a study may ask for, and within what bounds.

A study states them as data; :mod:`medveil_imaging.augmentations` makes them. They are applied in the order of
:data:`AUGMENTATIONS`, whatever the order in the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    """One number of an augmentation: what a study that leaves it out has, and its bounds."""

    usual: float
    low: float
    high: float


SHARE = "share"
"""Chance that an image is changed at all; every augmentation has it."""
AUGMENTATIONS: dict[str, dict[str, Number]] = {
    # Turned by up to so many degrees about each axis, stretched and sheared by up to a share, moved by up to
    # a share of each edge. The border is repeated; lengths are in mm, whatever the edges of a voxel.
    "affine": {
        "degrees": Number(10, 0, 45),
        "scale": Number(0.1, 0, 0.5),
        "shear": Number(0.0, 0, 0.3),
        "shift": Number(0.05, 0, 0.25),
        SHARE: Number(0.5, 0, 1),
    },
    # Left and right exchanged; only for kinds of image whose profile allows it.
    "mirror": {SHARE: Number(0.5, 0, 1)},
    # Smoothed by a bell of up to so many pixels or voxels.
    "blur": {"deviation": Number(1.0, 0.1, 3), SHARE: Number(0.2, 0, 1)},
    # Gaussian noise; its deviation lies anywhere up to this one, in units of the finished tensor.
    "noise": {"deviation": Number(0.1, 0, 1), SHARE: Number(0.3, 0, 1)},
    # Multiplied by 1 - factor to 1 + factor.
    "contrast": {"factor": Number(0.1, 0, 0.9), SHARE: Number(1.0, 0, 1)},
    # Moved by up to so much, in units of the finished tensor.
    "brightness": {"offset": Number(0.1, 0, 2), SHARE: Number(1.0, 0, 1)},
    # Raised to a power between 1 / exponent and exponent, mean and deviation kept.
    "gamma": {"exponent": Number(1.5, 1, 4), SHARE: Number(0.3, 0, 1)},
}
MIRROR = "mirror"


def filled(asked: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The augmentations with every number stated, so that a study means the same in every version.

    Raises:
        ValueError: an unknown name, or a number outside of its bounds.
    """
    for name, numbers in asked.items():
        known = AUGMENTATIONS.get(name)
        if known is None:
            raise ValueError(f"an augmentation is one of {', '.join(AUGMENTATIONS)}")
        for key, value in numbers.items():
            if key not in known:
                raise ValueError(f"'{name}' takes {', '.join(known)}")
            if not known[key].low <= value <= known[key].high:
                raise ValueError(f"{name}.{key} must lie between {known[key].low:g} and {known[key].high:g}")
    return {
        name: {key: float(asked[name].get(key, number.usual)) for key, number in AUGMENTATIONS[name].items()}
        for name in AUGMENTATIONS
        if name in asked
    }
