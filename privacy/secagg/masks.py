"""Masks: pseudorandom words of Z_2^64 expanded from 32-byte seeds, added to a vector chunk by chunk.

A seed's words come in segments of 16 MiB, each with a counter of its own, so that any worker can start at any
segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medveil.identity import Secret
from privacy.secagg.checkword import CheckedUpdate
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


@dataclass(frozen=True)
class MaskedUpdate:
    """An encoded update under its masks: uniform words, the only stage that may leave the hospital."""

    words: Words

    def to_bytes(self) -> memoryview:
        """Little-endian 64-bit words; 8 * len(words) bytes, not copied."""
        return self.words.astype("<u8", copy=False).data.cast("B")

    def segments(self) -> Iterator[memoryview]:
        """The bytes in pieces of 16 MiB, so that a broken upload goes on where it stopped."""
        data = self.to_bytes()
        for start in range(0, len(data), SEGMENT_BYTES):
            yield data[start : start + SEGMENT_BYTES]


def mask(encoded: CheckedUpdate, masks: Sequence[Mask], *, in_place: bool = False) -> MaskedUpdate:
    """Add every mask to an encoded update.

    Args:
        masks: the node's own mask and one for each other member of the committed set.
        in_place: mask in the memory of ``encoded``, which then holds the masked words: no second vector,
        and no unmasked one left behind.
    Guarantees: with at least one seed unknown to an observer, the result is indistinguishable from
        uniform words of Z_2^64 to it (AES-256 as a pseudorandom function). Without
        ``in_place`` the input is left as it was.
    Source: Bonawitz et al., CCS 2017, section 4.
    """
    if not masks:
        raise ValueError("an update without a mask is not masked")
    words = encoded.words if in_place else np.empty_like(encoded.words)
    _combine(encoded.words, words, masks, 0)
    return MaskedUpdate(words)


def add_masks(words: Words, masks: Iterable[Mask], *, first_segment: int = 0) -> None:
    """Add masks to ``words`` in place (mod 2^64).

    Args:
        words: uint64, shape (n,); its first word is the first of segment ``first_segment``.
    """
    _combine(words, words, list(masks), first_segment)


def _combine(source: Words, target: Words, masks: Sequence[Mask], first_segment: int) -> None:
    """``target = source + masks``, chunk by chunk; source and target may be the same array."""
    length = min(CHUNK_WORDS, len(source))
    zeros, buffer = memoryview(bytes(8 * length)), np.empty(8 * length + 16, np.uint8)
    pad = buffer[: 8 * length].view("<u8")
    for start in range(0, len(source), SEGMENT_WORDS):
        number, end = first_segment + start // SEGMENT_WORDS, min(start + SEGMENT_WORDS, len(source))
        streams = [(stream(m.seed.reveal(), number), np.add if m.sign > 0 else np.subtract) for m in masks]
        for first in range(start, end, CHUNK_WORDS):
            before, after = source[first : min(first + length, end)], target[first : min(first + length, end)]
            for words, add in streams:
                words.update_into(zeros[: 8 * len(after)], buffer.data)
                add(before, pad[: len(after)], out=after)
                before = after
