"""The passes over a vector, compiled (``kernel.c``), where the installation has them.

Beside every call there is NumPy code that gives the same words, and it is the reference: without the compiled
file, on another kind of machine, or where a short sum comes out differently, it does the work alone.
``deploy/release/build_hook.py`` compiles the file for a wheel, ``make kernel`` for a checkout
(docs/decisions/0060-a-compiled-pass.md). No cipher is in it, and it keeps nothing between two calls.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
FILE = Path(__file__).with_name("_kernel.so")
LEVELS = ("any CPU", "AVX2", "AVX-512")
"""Sets of instructions, by the number that the compiled file gives them."""


class Encoding(ctypes.Structure):
    """What all blocks of one encoding have in common: ``struct encoding``, whose comments tell the rest."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("packed", ctypes.c_uint64),
        ("dither", ctypes.c_void_p),
        ("dither_stride", ctypes.c_uint64),
        ("scale", ctypes.c_float),
        ("rounder", ctypes.c_float),
        ("offset", ctypes.c_int32),
        ("lane_bits", ctypes.c_int32),
    )


class Kernel:
    """The compiled file, with one set of instructions. Arrays are contiguous and of the types that are named.

    Args:
        level: which instructions; the best that this CPU has if left out.
    Raises: OSError if the file cannot be loaded; AttributeError if it is another one.
    """

    def __init__(self, file: Path, level: int | None = None) -> None:
        library = ctypes.CDLL(str(file))
        self.level = int(library.medveil_best_level()) if level is None else level
        number, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
        self._add, self._within = library.medveil_add, library.medveil_within
        self._encode, self._product = library.medveil_encode, library.medveil_product
        self._add.argtypes = (number, pointer, pointer, size, size, size, size)
        self._within.argtypes = (number, pointer, size, ctypes.c_float)
        self._encode.argtypes = (number, ctypes.POINTER(Encoding), size, size, pointer)
        self._product.argtypes = (number, pointer, pointer, size, number, pointer)
        self._add.restype = self._encode.restype = self._product.restype = None

    def adder(self, words: Words, pads: Words) -> Callable[[int, int, int, int], None]:
        """What adds rows of ``pads`` to a part of ``words``.

        Args:
            pads: shape (rows, n or more); the rows may be further apart than they are long.
        Returns: called with the part's start and length, with how many rows are to be added, from the first
            on, and with how many after them are to be taken away.
        """
        to, rows, stride = _at(words), pads.ctypes.data, pads.strides[0] // 8
        add, level = self._add, self.level

        def part(start: int, length: int, plus: int, minus: int) -> None:
            add(level, to + 8 * start, rows, stride, plus, minus, length)

        return part

    def within(self, values: NDArray[np.float32], limit: np.float32) -> bool:
        """Whether every value is a number from -limit to limit."""
        return bool(self._within(self.level, _at(values), len(values), limit))

    def encode(self, what: Encoding, start: int, words: Words) -> None:
        """Write packed words from ``start`` on, all of them within the dither that ``what`` points at."""
        self._encode(self.level, what, start, len(words), _at(words))

    def product(self, sums: Words, words: Words, lane_bits: int, keys: Words) -> None:
        """Add coefficient * value to the sums of the columns, for pieces of the check word's table.

        Args:
            words: packed; with lanes of 21 bits at most those of one piece, else any number of pieces.
            keys: of the rows, ``checkword.ROWS`` for each piece.
        """
        self._product(self.level, _at(sums), _at(words), len(words), lane_bits, _at(keys))


def _at(array: NDArray[Any]) -> int:
    """Where an array begins that has no gaps."""
    assert array.flags.c_contiguous
    return array.ctypes.data


@cache
def kernel() -> Kernel | None:
    """The compiled passes; None where there are none, and then NumPy does the work."""
    if sys.byteorder != "little" or not FILE.is_file():
        return None
    try:
        found = Kernel(FILE)
        return found if _adds_up(found) and all(_encodes(found, lanes) for lanes in (2, 3, 4)) else None
    except (OSError, AttributeError):
        return None


def passes_in_use() -> str:
    """By what the passes are done here, in words."""
    found = kernel()
    return "NumPy" if found is None else f"compiled, {LEVELS[found.level]}"


def _adds_up(found: Kernel) -> bool:
    """Whether the file does what it is for, seen on a few words: it is not another version of itself."""
    rows = np.arange(3 * 37, dtype=np.uint64).reshape(3, 37) * np.uint64(0x9E3779B97F4A7C15)
    words = rows[0].copy()
    found.adder(words, rows)(0, 37, 2, 1)
    sums = np.zeros(1024, np.uint64)
    found.product(sums, rows[0], 32, rows[1, :32].copy())
    values = rows[0].copy().view("<u4").astype(np.uint64) * rows[1, 0]
    return bool(np.array_equal(words, 2 * rows[0] + rows[1] - rows[2]) and np.array_equal(sums[:74], values))


def _encodes(found: Kernel, lanes: int) -> bool:
    """Whether a few hundred values become the words that they must: a wrong one would be summed unseen."""
    bits, packed = 64 // lanes, 1100
    values = np.linspace(-1, 1, lanes * packed - 3, dtype=np.float32)
    dither = (
        (np.arange(lanes * packed, dtype=np.int32) * 7919 % 101 - 50).astype("<i2").reshape(lanes, packed)
    )
    scale, rounder, middle = np.float32(97.3), np.float32(3 * 2**22), 2000
    offset = middle - int(rounder.view(np.int32))
    words = np.empty(packed, np.uint64)
    what = Encoding(
        values=_at(values), count=len(values), packed=packed, dither=_at(dither), dither_stride=packed,
        scale=scale, rounder=rounder, offset=offset, lane_bits=bits,
    )  # fmt: skip
    found.encode(what, 0, words)
    steps = np.zeros(lanes * packed, np.uint64)
    sums = values * scale + dither.reshape(-1)[: len(values)].astype(np.float32) + rounder
    steps[: len(values)] = sums.view(np.int32) + np.int32(offset)
    lane = np.arange(lanes, dtype=np.uint64)[:, None] * np.uint64(bits)
    expected = np.bitwise_or.reduce(steps.reshape(lanes, packed) << lane, axis=0)
    bounds = found.within(values, np.float32(1)) and not found.within(values, np.float32(0.99))
    return bounds and bool(np.array_equal(words, expected))
