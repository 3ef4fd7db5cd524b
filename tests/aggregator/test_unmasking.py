"""Masked segments add up to the plain sum, segment by segment, and a wrong length is refused."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator.unmasking import WrongLength, segment_lengths, unmasked_sum
from medveil.identity import Secret
from privacy.secagg.checkword import CheckedUpdate
from privacy.secagg.masks import SEGMENT_WORDS, Mask, mask

WORDS = SEGMENT_WORDS + 5


def test_a_vector_of_more_than_one_segment_is_unmasked_exactly() -> None:
    draw = np.random.default_rng(0)
    plain = {i: draw.integers(0, 2**64, WORDS, np.uint64) for i in (1, 2)}
    pair, own = Secret(bytes(range(32))), {i: Secret(bytes([i]) * 32) for i in (1, 2)}
    masks = {1: [Mask(own[1], 1), Mask(pair, 1)], 2: [Mask(own[2], 1), Mask(pair, -1)]}
    stored = {i: [bytes(s) for s in mask(CheckedUpdate(plain[i]), masks[i]).segments()] for i in (1, 2)}
    assert [len(s) for s in stored[1]] == segment_lengths(WORDS) == [8 * SEGMENT_WORDS, 40]
    removal = [Mask(own[1], -1), Mask(own[2], -1)]
    total = unmasked_sum(WORDS, (1, 2), removal, lambda hospital, number: stored[hospital][number])
    assert np.array_equal(total, plain[1] + plain[2])
    assert not np.array_equal(np.frombuffer(stored[1][1], "<u8"), plain[1][-5:])


def test_a_segment_of_another_length_is_refused() -> None:
    with pytest.raises(WrongLength):
        unmasked_sum(4, (1,), [], lambda hospital, number: bytes(24))
