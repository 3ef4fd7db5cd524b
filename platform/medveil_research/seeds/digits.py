"""Digits drawn by code, for the plain example where nobody has MNIST at hand.

Each is a few strokes that are turned, sheared, stretched, shifted and bent by chance, with pens of several
widths. Nobody wrote them: they are easier than handwriting, and a figure on them says nothing about MNIST.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medveil_imaging.sources.formats.idx import idx_bytes

EDGE, FINE = 28, 4
"""Pixels a side, and how many times finer it is drawn."""
TRAIN, TEST = 2500, 500
Points = NDArray[np.float64]


def _arc(x: float, y: float, wide: float, high: float, start: float, end: float) -> Points:
    """Part of an ellipse; angles in turns, from the right, downwards."""
    turns = np.linspace(start, end, 24) * 2 * np.pi
    return np.stack([x + wide * np.cos(turns), y + high * np.sin(turns)], 1)


def _line(*points: tuple[float, float]) -> Points:
    ends = np.asarray(points, np.float64)
    parts = [np.linspace(a, b, 12) for a, b in itertools.pairwise(ends)]
    return np.concatenate(parts)


STROKES: tuple[tuple[Points, ...], ...] = (
    (_arc(0, 0, 0.55, 0.9, 0, 1),),
    (_line((-0.3, -0.5), (0.1, -0.9), (0.1, 0.9)),),
    (_arc(0, -0.4, 0.5, 0.5, 0.5, 1.08), _line((0.42, -0.1), (-0.55, 0.9), (0.6, 0.9))),
    (_arc(-0.05, -0.45, 0.5, 0.45, 0.55, 1.22), _arc(-0.05, 0.45, 0.55, 0.48, 0.78, 1.45)),
    (_line((0.25, -0.9), (-0.55, 0.25), (0.6, 0.25)), _line((0.25, -0.9), (0.25, 0.9))),
    (_line((0.5, -0.9), (-0.4, -0.9), (-0.45, -0.1)), _arc(-0.05, 0.4, 0.55, 0.52, 0.62, 1.42)),
    (_arc(0.25, 0.3, 0.75, 1.2, 0.5, 0.72), _arc(0, 0.42, 0.5, 0.48, 0, 1)),
    (_line((-0.55, -0.9), (0.55, -0.9), (-0.1, 0.9)),),
    (_arc(0, -0.45, 0.42, 0.44, 0, 1), _arc(0, 0.45, 0.52, 0.46, 0, 1)),
    (_arc(0, -0.4, 0.48, 0.48, 0, 1), _line((0.48, -0.4), (0.35, 0.9))),
)
"""Of each digit, in units of half its height; x to the right, y downwards."""


def draw_digits(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pictures (count, 28, 28), bright on black, and their labels (count,); the same for the same seed."""
    random = np.random.default_rng([seed, count])
    labels = random.integers(10, size=count).astype(np.uint8)
    return np.stack([_digit(int(label), random) for label in labels]), labels


def _digit(label: int, random: Generator) -> NDArray[np.uint8]:
    turn, shear = random.normal(0, 0.16), random.normal(0, 0.18)
    wide, high = random.uniform(6.0, 9.5), random.uniform(7.5, 10.0)
    bend = random.normal(0, 0.09, (2, 2))
    shape = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array(
        [[wide, shear * wide], [0, high]]
    )
    middle = EDGE / 2 + random.normal(0, 1.2, 2)
    image = Image.new("L", (EDGE * FINE, EDGE * FINE))
    pen = ImageDraw.Draw(image)
    width = round(random.uniform(1.6, 3.4) * FINE)
    for stroke in STROKES[label]:
        bent = stroke + np.sin(3 * stroke[:, ::-1]) @ bend + random.normal(0, 0.04, 2)
        places = [tuple(point) for point in (bent @ shape.T + middle) * FINE]
        pen.line(places, fill=int(random.integers(190, 256)), width=width, joint="curve")
    fine = np.asarray(image, np.float64).reshape(EDGE, FINE, EDGE, FINE).mean((1, 3))
    found: NDArray[np.uint8] = np.clip(fine + random.normal(0, 6, fine.shape), 0, 255).astype(np.uint8)
    return found


def write_digits(folder: Path, *, train: int = TRAIN, test: int = TEST) -> Path:
    """The four IDX files of a set in the form of MNIST's. Returns: the folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for which, count, seed in (("train", train, 0), ("t10k", test, 1)):
        pictures, labels = draw_digits(count, seed)
        (folder / f"{which}-images-idx3-ubyte").write_bytes(idx_bytes(pictures))
        (folder / f"{which}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder
