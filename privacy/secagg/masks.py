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
from privacy.secagg.kernel import kernel
from privacy.secagg.keystream import stream

Words = NDArray[np.uint64]
SEGMENT_BYTES = 16 * 2**20
SEGMENT_WORDS = SEGMENT_BYTES // 8
CHUNK_WORDS = 2**15
"""256 KiB: the running sum of a chunk stays in the core's own cache while every seed is added to it."""
PAD_WORDS, PADS = 2**14, 4
"""128 KiB of a mask and four masks at a time, where the compiled sum takes them together."""


@dataclass(frozen=True)
class Mask:
    """One seed and whether its words are added (+1) or subtracted (-1)."""

    seed: Secret
    sign: int


class Masker:
    """Adds masks (mod 2^64) to a vector that comes piece by piece, from a segment's first word on."""

    def __init__(self, masks: Iterable[Mask], *, first_segment: int = 0, longest: int = CHUNK_WORDS) -> None:
        self._masks = sorted(masks, key=lambda mask: -mask.sign)  # those to be added come first
        self._segment, self._left, self._kernel = first_segment, 0, kernel()
        length = min(CHUNK_WORDS if self._kernel is None else PAD_WORDS, longest)
        rows = 1 if self._kernel is None else max(1, min(PADS, len(self._masks)))
        self._zeros, stride = bytes(8 * length), length + 8
        self._bytes = np.empty(8 * rows * stride + 16, np.uint8)
        self._pads = self._bytes[:-16].view("<u8").reshape(rows, stride)[:, :length]
        self._into = [self._bytes[8 * row * stride :].data for row in range(rows)]

    def add(self, words: Words) -> None:
        """Mask the next words, in place."""
        while len(words):
            if not self._left:
                self._open_segment()
            size = min(len(words), self._left)
            (self._add if self._kernel is None else self._add_together)(words[:size])
            words, self._left = words[size:], self._left - size

    def _open_segment(self) -> None:
        self._streams = [stream(mask.seed.reveal(), self._segment).update_into for mask in self._masks]
        self._segment, self._left = self._segment + 1, SEGMENT_WORDS

    def _add(self, words: Words) -> None:
        """The reference: one mask after the other."""
        out = self._into[0]
        for start in range(0, len(words), self._pads.shape[1]):
            part = words[start : start + self._pads.shape[1]]
            pad, zeros = self._pads[0, : len(part)], self._zeros[: 8 * len(part)]
            for mask, expand in zip(self._masks, self._streams, strict=True):
                expand(zeros, out)
                (np.add if mask.sign > 0 else np.subtract)(part, pad, part)

    def _add_together(self, words: Words) -> None:
        """The same, a few masks at a time: the sum is read and written once for all of them."""
        assert self._kernel is not None
        rows, length = self._pads.shape
        add = self._kernel.adder(words, self._pads)
        groups = []
        for first in range(0, len(self._masks), rows):
            plus = sum(mask.sign > 0 for mask in self._masks[first : first + rows])
            expands = self._streams[first : first + rows]
            groups.append((list(zip(expands, self._into, strict=False)), plus, len(expands) - plus))
        for start in range(0, len(words), length):
            size = min(length, len(words) - start)
            zeros = self._zeros if size == length else self._zeros[: 8 * size]
            for expanding, plus, minus in groups:
                for expand, out in expanding:
                    expand(zeros, out)
                add(start, size, plus, minus)


def add_masks(words: Words, masks: Iterable[Mask], *, first_segment: int = 0) -> None:
    """Add masks to ``words`` in place (mod 2^64).

    Args:
        words: uint64, shape (n,); its first word is the first of segment ``first_segment``.
    """
    Masker(masks, first_segment=first_segment, longest=len(words)).add(words)
