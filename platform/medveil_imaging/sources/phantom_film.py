"""Synthetic chest films: lungs, ribs, heart, and four kinds of opacity. Nothing here comes from a patient."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medveil_imaging.sources.raw import Float32, Float64

EDGE = 128
"""Pixels a side; enough for structures that survive resizing to 64."""
KINDS = 4
FINDINGS = ("consolidation", "nodules", "lines", "effusion")
"""Names of the kinds of opacity."""
HEART_MM = 384.0
"""Millimetres across a heart of semi-axis 1: the picture is 384 mm wide."""
HEARTS = (0.22, 0.32)
"""Between what the semi-axis of a heart lies."""
_ROWS, _COLUMNS = np.meshgrid(np.linspace(-1, 1, EDGE), np.linspace(-1, 1, EDGE), indexing="ij")


@dataclass(frozen=True)
class Patient:
    """What stays the same from film to film: proportions in units of half the picture."""

    lung_width: float
    lung_height: float
    heart: float
    tilt: float
    rib_phase: float
    strength: float
    """Of the opacity, 1 being clearly visible."""


@dataclass(frozen=True)
class Scanner:
    """What a hospital's machine does to every picture."""

    gamma: float
    noise: float
    blur: float


def draw_patient(random: Generator) -> Patient:
    """A body by chance."""
    return Patient(
        lung_width=random.uniform(0.30, 0.38),
        lung_height=random.uniform(0.60, 0.74),
        heart=random.uniform(*HEARTS),
        tilt=random.uniform(-0.08, 0.08),
        rib_phase=random.uniform(0, 2 * np.pi),
        strength=random.uniform(0.9, 1.3),
    )


def draw_film(
    patient: Patient, kinds: Collection[int], scanner: Scanner, random: Generator
) -> tuple[Float32, NDArray[np.uint8]]:
    """One film, (128, 128), values in [0, 1], dense tissue bright, with these kinds of opacity (0 to 3).

    Beside it where the lungs are: 1 on the picture's left, 2 on its right.
    """
    shift_row, shift_column = random.uniform(-0.06, 0.06, 2)
    row, column = _ROWS + shift_row, _COLUMNS + shift_column + patient.tilt * _ROWS
    left, right = (_lung(row, column, side, patient) for side in (-1, 1))
    lungs = np.maximum(left, right)
    body = _soft((1.15 - (np.abs(column) / 0.95) ** 2.5 - 0.2 * row**2) * 6)
    picture = 0.75 * body - 0.5 * lungs
    ribs = np.sin(17 * (row + 0.35 * column**2 - 0.1 * np.abs(column)) + patient.rib_phase)
    picture += 0.07 * np.clip(ribs, 0, 1) ** 2 * body
    picture += 0.18 * np.exp(-((column / 0.10) ** 2)) * body
    heart = ((column - 0.12) / patient.heart) ** 2 + ((row - 0.30) / (1.25 * patient.heart)) ** 2
    picture += 0.35 * _soft((1 - heart) * 5) * lungs
    picture += 0.045 * smooth_noise(random, 4) * lungs + 0.05 * smooth_noise(random, 10)
    for kind in kinds:
        picture += patient.strength * _opacity(kind, row, column, left, right, random)
    picture = ndimage.gaussian_filter(picture, scanner.blur) + scanner.noise * random.normal(
        size=picture.shape
    )
    low, high = picture.min(), picture.max()
    film: Float32 = (((picture - low) / (high - low)) ** scanner.gamma).astype(np.float32)
    return film, np.where(left > 0.5, 1, np.where(right > 0.5, 2, 0)).astype(np.uint8)


def smooth_noise(random: Generator, pixels: float) -> Float64:
    """A random field with structures of about this size and standard deviation one."""
    field = ndimage.gaussian_filter(random.normal(size=(EDGE, EDGE)), pixels / 2, mode="wrap")
    return np.asarray(field / field.std())


def _opacity(
    kind: int, row: Float64, column: Float64, left: Float64, right: Float64, random: Generator
) -> Float64:
    """What is added to the picture: another place, size and texture for each kind."""
    if kind == 0:  # a consolidation low in the lung on the picture's left
        distance = ((column + 0.42) / 0.22) ** 2 + ((row - random.uniform(0.25, 0.40)) / 0.22) ** 2
        return np.asarray(0.34 * np.exp(-distance) * left)
    if kind == 1:  # small round nodules in both upper fields
        picture = np.zeros_like(row)
        for _ in range(random.integers(10, 15)):
            side, height = random.choice([-1.0, 1.0]), random.uniform(-0.55, -0.05)
            spot = (column - side * random.uniform(0.25, 0.55)) ** 2 + (row - height) ** 2
            picture += np.exp(-spot / (2 * 0.055**2))
        return np.asarray(0.48 * np.minimum(picture, 1.2) * np.maximum(left, right))
    if kind == 2:  # fine lines in the lower fields of both lungs
        mesh = np.abs(smooth_noise(random, 2.5))
        low = _soft((row + 0.05) * 8)
        return np.asarray(0.2 * mesh * low * np.maximum(left, right))
    level = random.uniform(0.30, 0.45)  # fluid at the base on the picture's right, its surface curved
    surface = level - 0.5 * (column - 0.25) ** 2
    return np.asarray(0.42 * _soft((row - surface) * 14) * right)


def _lung(row: Float64, column: Float64, side: int, patient: Patient) -> Float64:
    across = (column - side * 0.42) / patient.lung_width
    along = (row + 0.02) / patient.lung_height
    return _soft((1 - across**2 - np.abs(along) ** 2.5) * 7)


def _soft(values: Float64) -> Float64:
    """A step with a soft edge, from 0 to 1."""
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))))
