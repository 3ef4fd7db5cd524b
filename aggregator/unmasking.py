"""From the survivors' masked segments to the sum of their encoded updates, one segment at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from medveil.errors import RemoteProtocolError
from privacy.encoding import Words
from privacy.secagg.masks import SEGMENT_WORDS, Mask, add_masks

ReadSegment = Callable[[int, int], bytes]
"""(hospital's index, segment's number) → the checked bytes of that segment."""


class WrongLength(RemoteProtocolError):
    """An upload does not have the length that the plan asks for."""

    code = "wrong-length"

    def __init__(self) -> None:
        super().__init__(
            what="A masked upload does not have the length of this study's vector.",
            meaning="It was refused and not summed.",
            remedy="Check that node and aggregator run the same version of MedVeil.",
        )


def segment_lengths(words: int) -> list[int]:
    """Bytes of each segment of a vector of ``words`` 64-bit words."""
    return [8 * min(SEGMENT_WORDS, words - start) for start in range(0, words, SEGMENT_WORDS)]


def unmasked_sum(words: int, survivors: Sequence[int], removal: Sequence[Mask], read: ReadSegment) -> Words:
    """The sum of the encoded updates mod 2^64.

    Returns: uint64, shape (words,).
    Guarantees: memory stays at the result plus two segments, however many hospitals there are.
    Raises: WrongLength; whatever ``read`` raises.
    """
    total = np.zeros(words, np.uint64)
    for number, length in enumerate(segment_lengths(words)):
        part = total[number * SEGMENT_WORDS : number * SEGMENT_WORDS + length // 8]
        for hospital in survivors:
            data = read(hospital, number)
            if len(data) != length:
                raise WrongLength()
            np.add(part, np.frombuffer(data, "<u8"), out=part)
        add_masks(part, removal, first_segment=number)
    return total
