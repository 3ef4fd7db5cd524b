"""Crops around a hippocampus, drawn and not taken: what is public about its shape and surroundings, as code.

No patient is in here. A bent tube that tapers, with a head that turns inwards and a tail that turns upwards,
lies in made-up tissue: fluid and white matter around it, folded grey below, brain stem beside it. Shapes vary
from crop to crop, and so do contrast, blur, bias and noise. The ranges are those of textbooks; where the
structure lies in a crop of the public Decathlon task was set by the mean outline of validation patients.

Source: Billot et al., "SynthSeg", Medical Image Analysis 2023, for drawing images with random contrast from
shapes; here the shapes are drawn as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

Float32 = NDArray[np.float32]
SIZE = (48, 64, 48)
"""Voxels of a crop: to the middle, to the front, upwards; 1 mm each."""
SHAPES: dict[str, tuple[float, float, float]] = {
    "length": (36.0, 44.0, 2.0),
    "x": (-5.5, -2.5, 1.0),
    "y": (-3.5, 1.5, 1.2),
    "z": (-4.0, -1.0, 1.0),
    "slope": (5.0, 9.0, 1.2),
    "arc": (3.0, 8.0, 1.2),
    "head_in": (0.0, 3.0, 0.8),
    "tail_in": (0.0, 3.0, 0.8),
    "tail_up": (1.0, 5.0, 1.2),
    "head": (5.2, 6.6, 0.4),
    "body": (3.6, 4.7, 0.35),
    "tail": (3.7, 5.0, 0.4),
    "flat": (0.7, 0.9, 0.05),
    "cut": (0.0, 0.12, 0.04),
}
"""Bounds of a population's mean, and how much its people differ (one standard deviation); mm, but for the
ratio of height to width and for where the front part ends, a share of the length."""
KNOTS = 24
"""Points of the centre line."""
CROPS = ((31, 43), (42, 59), (28, 47))
"""Edges of what is cut out of the head; the rest of the tensor is empty."""
Shape = Mapping[str, float]


def draw_population(random: Generator) -> Shape:
    """The mean shape of some group of people."""
    return {name: float(random.uniform(low, high)) for name, (low, high, _) in SHAPES.items()}


def draw_person(random: Generator, population: Shape) -> Shape:
    """The shape of one of them."""
    return {name: population[name] + spread * float(random.normal()) for name, (*_, spread) in SHAPES.items()}


def distances(shape: Shape) -> tuple[Float32, Float32, Float32]:
    """Where everything lies, on every second voxel.

    Returns: signed distance from the surface, negative inside; how far in front of the border between the two
        parts; place relative to the nearest point of the centre line, (3, x, y, z). About mm.
    """
    line, radius = _centre_line(shape)
    grid = np.stack(np.meshgrid(*(np.arange(0, n, 2) + 0.5 - n / 2 for n in SIZE), indexing="ij"))
    places = grid.reshape(3, -1).astype(np.float32)
    wide = np.array([[1 / 1.2], [1.0], [1 / (1.2 * shape["flat"])]], np.float32)
    a, b = places * wide, line * wide
    squares = (a**2).sum(0)[:, None] + (b**2).sum(0)[None] - 2 * a.T @ b
    apart = np.sqrt(np.maximum(squares, 0)) - radius[None]
    nearest = apart.argmin(1)
    front = places[1] - line[1].mean() - shape["cut"] * shape["length"]
    found = apart.min(1), front, places - line[:, nearest]
    inside, ahead, around = (part.reshape(*part.shape[:-1], *grid.shape[1:]) for part in found)
    return inside.astype(np.float32), ahead.astype(np.float32), around.astype(np.float32)


def _centre_line(shape: Shape) -> tuple[Float32, Float32]:
    """Points (3, KNOTS) from tail to head, and the radius at each."""
    t = np.linspace(-1, 1, KNOTS)
    front, back = np.clip(t, 0, 1), np.clip(-t, 0, 1)
    x = shape["x"] + shape["arc"] * (t**2 - 0.35) + shape["head_in"] * front + shape["tail_in"] * back**2
    y = shape["y"] + 0.43 * shape["length"] * t
    z = shape["z"] - shape["slope"] * t + shape["tail_up"] * back**2
    head, tail = 1 / (1 + np.exp(-7 * (t - 0.1))), 1 / (1 + np.exp(7 * (t + 0.55)))
    body = shape["body"]
    radius = body + (shape["head"] - body) * head + (shape["tail"] - body) * tail
    radius = np.maximum(radius, 1.0) * np.sqrt(np.clip(1 - 0.75 * np.abs(t) ** 7, 0.2, 1))
    return np.stack([x, y, z]).astype(np.float32), radius.astype(np.float32)


def twice(volume: Float32) -> Float32:
    """Every second voxel (…, x, y, z) → every voxel, linear in between."""
    factors = (1,) * (volume.ndim - 3) + (2, 2, 2)
    return np.asarray(ndimage.zoom(volume, factors, order=1, mode="nearest", grid_mode=True), np.float32)


def smooth_field(random: Generator, knots: tuple[int, int, int]) -> Float32:
    """A smooth random volume of standard deviation 1, as fine as it has knots along the axes."""
    field = random.normal(size=knots).astype(np.float32)
    for axis, (count, edge) in enumerate(zip(knots, SIZE, strict=True)):
        place = np.linspace(0, count - 1, edge)
        low = np.minimum(place.astype(int), count - 2)
        share = (place - low).astype(np.float32)
        share = (share * share * (3 - 2 * share)).reshape([-1 if a == axis else 1 for a in range(3)])
        before, after = np.take(field, low, axis), np.take(field, low + 1, axis)
        field = before + (after - before) * share
    return np.asarray(field / (field.std() + 1e-6), np.float32)


def draw_crop(random: Generator, shape: Shape) -> tuple[Float32, NDArray[np.uint8]]:
    """A z-scored volume and its label map (0, 1 in front, 2 behind), both of :data:`SIZE`."""

    def between(low: float, high: float) -> float:
        return float(random.uniform(low, high))

    surface, front, around = (twice(part) for part in distances(shape))
    surface = surface + 0.7 * between(0.3, 1.0) * smooth_field(random, (9, 12, 9))
    inside = surface < 0
    labels = np.where(inside, np.where(front > 0, 1, 2), 0).astype(np.uint8)
    white, grey, fluid = 1.0, between(0.52, 0.76), between(0.05, 0.35)
    own = grey + between(-0.08, 0.08)
    tissue, texture = _surroundings(random, surface, front, around, (white, grey, fluid, own))
    image = np.where(inside, own + between(0.01, 0.05) * texture, tissue).astype(np.float32)
    image = image + between(0.0, 0.04) * smooth_field(random, (16, 21, 16))
    image = ndimage.gaussian_filter(image, between(0.5, 1.1))
    image = image * (1 + between(0, 0.15) * smooth_field(random, (3, 4, 3)))
    image = image + between(0.01, 0.05) * random.normal(size=SIZE)
    return _cut(random, np.asarray(image, np.float32), labels)


def _surroundings(
    random: Generator, surface: Float32, front: Float32, around: Float32, tissues: tuple[float, ...]
) -> tuple[Float32, Float32]:
    """What lies outside of the structure, by rule and by chance; and a texture for it."""

    def between(low: float, high: float) -> float:
        return float(random.uniform(low, high))

    white, grey, fluid, own = tissues
    middle, _, up = around
    fine, finer, wide = (smooth_field(random, knots) for knots in ((7, 9, 7), (9, 11, 9), (4, 5, 4)))
    folds = np.abs(smooth_field(random, (6, 5, 7)))
    tissue = np.where(fine > between(0.6, 1.2), grey, white)
    below = up < -3 + 2 * wide
    tissue = np.where(below & (folds < between(0.25, 0.45)), grey, tissue)
    tissue = np.where(below & (folds < between(0.05, 0.14)), fluid + 0.1, tissue)
    stem = (up > 2) & (middle > 3 + 2 * wide)
    tissue = np.where(stem, white - between(0.05, 0.25) + 0.04 * finer, tissue)
    cistern = (middle > 5 + 1.5 * wide) & (np.abs(up) < 6) & (finer > between(-0.6, 0.4))
    tissue = np.where(cistern, fluid, tissue)
    amygdala = (up > 1) & (front > 12 + 2 * wide) & (fine > -0.8)
    tissue = np.where(amygdala, own + between(-0.03, 0.05), tissue)
    close = surface < between(0.8, 2.2) + 0.5 * finer
    horn = close & (middle < wide) & (up > -3) & (wide + 0.5 * finer > between(-0.8, 0.6))
    tissue = np.where(horn, fluid, tissue)
    tissue = np.where((surface > 1.5) & (surface < between(3, 5)) & (middle < -2), white, tissue)
    under = (up < -1) & (surface < between(1.5, 3)) & (finer > -1)
    tissue = np.where(under, white - between(0, 0.08), tissue)
    fissure = close & (up > 1) & (middle > 0) & (finer > between(-0.6, 0.6))
    return np.asarray(np.where(fissure, fluid + between(0, 0.2), tissue), np.float32), fine


def _cut(random: Generator, image: Float32, labels: NDArray[np.uint8]) -> tuple[Float32, NDArray[np.uint8]]:
    """A box around the centre, z-scored; nothing outside of it."""
    edges = [int(random.uniform(*bounds)) for bounds in CROPS]
    box = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(SIZE, edges, strict=True))
    seen, outlined = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.uint8)
    part = image[box]
    seen[box] = (part - part.mean()) / part.std()
    outlined[box] = labels[box]
    return seen, outlined
