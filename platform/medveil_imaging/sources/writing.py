"""Whether a film shows writing, told from its pixels: rows of small sharp shapes of one height and one ink.

No model and no dictionary: letters are looked for, not words. A side marker (L, R, AP) is no line of writing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medveil_imaging.sources.raw import Float32

LONGEST = 1024
"""Pixels of the longer edge on which letters are looked for; a larger film is averaged down to it."""
PASSES = ((0.15, 8), (0.30, 8), (0.50, 4))
"""How much a stroke stands out at least, as a share of the film's range, and how its pixels touch: faint
letters need the first, letters that touch each other or lie on bright ground the others."""
LETTERS = 4
"""That a line has at least: a marker of side and view has fewer."""
LEAST_HEIGHT, MOST_HEIGHT = 5, 14
"""Pixels; and how many times a letter fits into the longer edge."""
SHARP = 0.38
"""Median over a line of how steep its letters' edges are, as a share of their contrast per pixel: print and
wires of metal are above, ribs, vessels and cloth below."""
UNEVEN_BASE, UNEVEN_HEIGHT, UNEVEN_INK = 0.18, 0.35, 0.15
"""How much letters of a line differ: feet and heights as shares of the height, inks of the film's range."""
MOST_SHAPES = 0.004
"""Of one pass, a pixel: films have up to 0.0015, noise has 0.013 and makes lines of anything."""

Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class _Shapes:
    """Small shapes, from left to right: first and last row, first and last column, ink."""

    top: Boxes
    foot: Boxes
    left: Boxes
    right: Boxes
    ink: Boxes

    @property
    def height(self) -> Boxes:
        return self.foot - self.top


def shows_writing(pixels: Float32) -> bool:
    """Whether somewhere in a film stands a line of writing, bright or dark, across or along its edge.

    A sign for a person to look, and no proof of either: very small, very large, curved or handwritten text
    is not found. How often it is right: ``tests/benchmarks/burned_in.py``.

    Args:
        pixels: shape (rows, columns), any unit.
    """
    film = _scaled(pixels)
    if min(film.shape) < 2 * LEAST_HEIGHT:
        return False
    for picture in (film, 1 - film):
        for shapes in _shapes(picture):
            for turned, seen in ((shapes, picture), (_turned(shapes), picture.T)):
                if any(_is_print(turned, line, seen) for line in _lines(turned)):
                    return True
    return False


def _scaled(pixels: Float32) -> Float32:
    """The film from 0 to 1, at most :data:`LONGEST` pixels long."""
    step = -(-max(pixels.shape) // LONGEST)
    rows, columns = (edge // step * step for edge in pixels.shape)
    small = pixels[:rows, :columns].reshape(rows // step, step, columns // step, step).mean((1, 3))
    low, high = np.percentile(small[::2, ::2], (0.5, 99.8))
    shown: Float32 = np.clip((small - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    return shown


def _shapes(picture: Float32) -> Iterator[_Shapes]:
    """What stands out of its surroundings and is as large as a letter, once for each of :data:`PASSES`."""
    width = max(9, max(picture.shape) // 96 * 2 + 1)  # wider than a stroke
    ground = ndimage.maximum_filter(ndimage.minimum_filter(picture, width), width)
    most = max(MOST_HEIGHT, max(picture.shape) // MOST_HEIGHT)
    for least, touching in PASSES:
        around = np.ones((3, 3)) if touching == 8 else None
        labels, count = ndimage.label(picture - ground > least, around)
        if count < LETTERS:
            continue
        places = ndimage.find_objects(labels)
        boxes = np.array([(y.start, y.stop, x.start, x.stop) for y, x in places], dtype=np.float64)
        height, width_of = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
        filled = np.bincount(labels.ravel())[1:] / (height * width_of)
        long, short = np.maximum(height, width_of), np.minimum(height, width_of)
        fits = (long >= LEAST_HEIGHT) & (long <= most) & (long <= 8 * short) & (filled >= 0.15)
        chosen = np.flatnonzero(fits)
        if LETTERS <= len(chosen) <= MOST_SHAPES * picture.size:
            ink = [picture[places[k]][labels[places[k]] == k + 1].max() for k in chosen]
            top, foot, left, right = boxes[chosen].T
            yield _sorted(top, foot, left, right, np.array(ink, dtype=np.float64))


def _sorted(top: Boxes, foot: Boxes, left: Boxes, right: Boxes, ink: Boxes) -> _Shapes:
    order = np.argsort(left, kind="stable")
    return _Shapes(top[order], foot[order], left[order], right[order], ink[order])


def _turned(shapes: _Shapes) -> _Shapes:
    """The same in the transposed film: writing along an edge becomes a line."""
    return _sorted(shapes.left, shapes.right, shapes.top, shapes.foot, shapes.ink)


def _lines(shapes: _Shapes) -> Iterator[list[int]]:
    """Shapes that follow one another like letters, four or more."""
    height, used = shapes.height, np.zeros(len(shapes.ink), bool)
    wide = (shapes.right - shapes.left > 1.7 * height) | (height < LEAST_HEIGHT)
    for start in range(len(used)):
        if used[start] or wide[start]:
            continue
        line, tall = [start], height[start]
        while True:
            last = line[-1]
            first, end = np.searchsorted(
                shapes.left, (shapes.right[last] - 0.35 * tall, shapes.right[last] + 1.4 * tall + 2)
            )
            near = np.arange(max(first, last + 1), end)
            fits = (
                ~wide[near]
                & (np.abs(shapes.foot[near] - shapes.foot[start]) <= 0.3 * tall + 1)
                & (height[near] >= 0.55 * tall)
                & (height[near] <= 1.8 * tall)
                & (np.abs(shapes.ink[near] - shapes.ink[start]) <= UNEVEN_INK)
            )
            if not fits.any():
                break
            line.append(int(near[fits][0]))
        if len(line) >= LETTERS:
            used[line] = True
            yield line


def _is_print(shapes: _Shapes, line: list[int], picture: Float32) -> bool:
    """Whether a line's shapes are as even and as sharp as letters."""
    heights, feet = shapes.height[line], shapes.foot[line]
    mean = heights.mean()
    if feet.std() > UNEVEN_BASE * mean or heights.std() > UNEVEN_HEIGHT * mean:
        return False
    sharp = []
    for k in line:
        top, left = max(0, int(shapes.top[k]) - 2), max(0, int(shapes.left[k]) - 2)
        around = picture[top : int(shapes.foot[k]) + 2, left : int(shapes.right[k]) + 2]
        letter, steep = around[1:-1, 1:-1], np.hypot(*np.gradient(around))[1:-1, 1:-1]
        sharp.append(float(np.percentile(steep, 85)) / max(1e-3, float(letter.max() - letter.min())))
    return float(np.median(sharp)) > SHARP
