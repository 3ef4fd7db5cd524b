"""Masks: pseudorandom words of Z_2^64 expanded from 32-byte seeds, added to a vector chunk by chunk.

A seed's words come in segments of 16 MiB, each with a counter of its own, so that any worker can start at any
segment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medveil.identity import Secret
from privacy.secagg.keystream import stream

Words = NDArray[np.uint64]
SEGMENT_BYTES = 16 * 2**20
SEGMENT_WORDS = SEGMENT_BYTES // 8
CHUNK_WORDS = 2**15
"""256 KiB: the running sum of a chunk stays in the core's own cache while every seed is added to it."""


@dataclass(frozen=True)
class Mask:
    """One seed and whether its words are added (+1) or subtracted (-1)."""

    seed: Secret
    sign: int


class Masker:
    """Adds masks (mod 2^64) to a vector that comes piece by piece, from a segment's first word on."""

    def __init__(self, masks: Iterable[Mask], *, first_segment: int = 0, longest: int = CHUNK_WORDS) -> None:
        self._masks, self._segment, self._left = tuple(masks), first_segment, 0
        length = min(CHUNK_WORDS, longest)
        self._zeros, self._bytes = bytes(8 * length), np.empty(8 * length + 16, np.uint8)
        self._pad = self._bytes[: 8 * length].view("<u8")

    def add(self, words: Words) -> None:
        """Mask the next words, in place."""
        while len(words):
            if not self._left:
                self._open_segment()
            size = min(len(words), len(self._pad), self._left)
            part, pad, zeros, out = words[:size], self._pad[:size], self._zeros[: 8 * size], self._bytes.data
            for expand, combine in self._streams:
                expand(zeros, out)
                combine(part, pad, part)
            words, self._left = words[size:], self._left - size

    def _open_segment(self) -> None:
        combine = {1: np.add, -1: np.subtract}
        self._streams = [
            (stream(m.seed.reveal(), self._segment).update_into, combine[m.sign]) for m in self._masks
        ]
        self._segment, self._left = self._segment + 1, SEGMENT_WORDS


def add_masks(words: Words, masks: Iterable[Mask], *, first_segment: int = 0) -> None:
    """Add masks to ``words`` in place (mod 2^64).

    Args:
        words: uint64, shape (n,); its first word is the first of segment ``first_segment``.
    """
    Masker(masks, first_segment=first_segment, longest=len(words)).add(words)
