"""Synthetic MR volumes: a bent two-part tube between three tissues. Nothing here comes from a patient.

Only textbook knowledge went in: the long axis runs from back to front, the front part is thicker, grey matter
lies between white matter and fluid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medveil_imaging.sources.raw import Float32, Float64

ANTERIOR, POSTERIOR = 1, 2
BACK_DARKER = 0.14
"""Intensity of the back part below the front part (white matter is 1): small networks learn quicker."""


@dataclass(frozen=True)
class MrScanner:
    """What a hospital's machine does to every volume."""

    scale: float
    """Intensity of white matter in the file; MR has no unit."""
    grey: float
    """Intensity of grey matter, white matter being 1."""
    noise: float


def draw_volume(scanner: MrScanner, thinning: float, random: Generator) -> tuple[Float32, NDArray[np.uint8]]:
    """One volume and its label map, about 36 x 50 x 36 voxels of 1 mm, RAS axes.

    ``thinning`` multiplies the tube's radius; below 1 the fluid around it widens, as in atrophy.
    """
    shape = (int(random.integers(34, 39)), int(random.integers(47, 54)), int(random.integers(34, 39)))
    centre, radius, border = _tube(shape, random)
    distance = _distance(shape, centre, radius * thinning)
    distance += 0.06 * _field(shape, 8, random)
    inside = distance < 1
    front = np.arange(shape[1])[None, :, None] >= border
    labels = np.where(inside, np.where(front, ANTERIOR, POSTERIOR), 0).astype(np.uint8)
    tissue = np.where(_field(shape, 7, random) > random.uniform(0.7, 1.5), scanner.grey, 1.0)
    tissue = np.where(_field(shape, 7, random) > random.uniform(0.8, 1.3), 0.15, tissue)
    rim = 1.35 + 0.6 * (1 - thinning)
    ring = (distance < rim) & ~inside
    tissue = np.where(ring, np.where(_field(shape, 4, random) > -0.6 - 2 * (1 - thinning), 0.2, 1.0), tissue)
    picture = np.where(inside, scanner.grey + random.uniform(-0.06, 0.06), tissue)
    picture = np.where(labels == POSTERIOR, picture - BACK_DARKER, picture)
    picture = ndimage.uniform_filter(picture, 2) * (1 + 0.1 * _field(shape, 3, random))
    picture += scanner.noise * random.normal(size=shape)
    return (scanner.scale * np.clip(picture, 0, 3)).astype(np.float32), labels


def _tube(shape: tuple[int, int, int], random: Generator) -> tuple[Float64, Float64, float]:
    """Centres (32, 3) and radii (32,) of the tube's balls, and where its thick part begins (voxels)."""
    step = np.linspace(-0.5, 0.5, 32)
    middle = (np.array(shape) - 1) / 2 + random.uniform(-1.5, 1.5, 3)
    bend = step**2 - 0.1
    centre = np.stack(
        [
            middle[0] + random.uniform(-4, 4) * step + random.uniform(-8, 8) * bend,
            middle[1] + random.uniform(28, 36) * step,
            middle[2] + random.uniform(-6, 6) * step + random.uniform(-9, 9) * bend,
        ],
        axis=1,
    )
    back, front = random.uniform(4.2, 5.2), random.uniform(6.0, 7.4)
    neck = random.uniform(-0.05, 0.12)
    radius = back + (front - back) / (1 + np.exp(-14 * (step - neck)))
    ends = np.clip(1 - np.abs(2 * step) ** 7, 0.15, 1) ** 0.5
    return centre, radius * ends, float(np.interp(neck, step, centre[:, 1]))


def _distance(shape: tuple[int, int, int], centre: Float64, radius: Float64) -> Float64:
    """Distance from the tube's axis in units of its radius, made on every second voxel and interpolated."""
    coarse = [np.arange(0, edge + 1, 2) for edge in shape]
    points = np.stack(np.meshgrid(*coarse, indexing="ij"), axis=-1).reshape(-1, 3)
    square = (points**2).sum(1)[:, None] - 2 * points @ centre.T + (centre**2).sum(1)
    nearest = (np.sqrt(np.maximum(square, 0)) / radius).min(1).reshape([len(axis) for axis in coarse])
    return _enlarge(nearest, shape)


def _field(shape: tuple[int, int, int], knots: int, random: Generator) -> Float64:
    """A smooth random field with about this many knots a side and standard deviation one."""
    field = _enlarge(random.normal(size=(knots, knots + knots // 3, knots)), shape)
    return np.asarray(field / field.std())


def _enlarge(values: Float64, shape: tuple[int, int, int]) -> Float64:
    factors = [edge / have for edge, have in zip(shape, values.shape, strict=True)]
    return np.asarray(ndimage.zoom(values, factors, order=1, grid_mode=True, mode="nearest"))
