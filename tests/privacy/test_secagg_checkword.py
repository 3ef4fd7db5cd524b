"""The check word: an honest sum passes, an altered one does not, and nobody without the key can make one."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linked import Consortium
from medveil.identity import Secret
from medveil.rounds import Phase, RoundKind
from medveil.tensors import Update
from privacy.encoding import LANES, EncodingParams
from privacy.secagg import checkword
from privacy.secagg.checkword import COLUMNS, ROWS, AlteredSum, verify_sum
from privacy.secagg.keys import Context
from privacy.secagg.keystream import keystream
from protocol_tables import forgery_exponent
from secagg_vectors import PARAMS, fixed_consortium
from unmasked import checked, encode

LANE_BITS = sorted(LANES)
KEY = Secret(b"k" * 32)


def _params(parameters: int, lane_bits: int, cohort: int = 5) -> EncodingParams:
    return EncodingParams(parameters, 2, lane_bits, 0.5, 100, cohort)


def _vector(p: EncodingParams, index: int, key: Secret = KEY, values: np.ndarray | None = None) -> np.ndarray:
    if values is None:
        values = np.random.default_rng(index).uniform(-0.5, 0.5, p.parameters)
        weight = 10 + index
    else:
        weight = p.max_weight
    encoded = encode(
        Update(np.float32(values)),
        p,
        weight=weight,
        metrics=np.array([index, p.tail_limit - 1], np.uint64),
        random_bytes=secrets.token_bytes,
    )
    return checked(encoded, key, p, index=index)


def _sum(p: EncodingParams, hospitals: tuple[int, ...] = (1, 2, 4)) -> np.ndarray:
    return sum((_vector(p, i) for i in hospitals), np.zeros(p.words, np.uint64))


def _passes(total: np.ndarray, p: EncodingParams, key: Secret = KEY, survivors: Any = (1, 2, 4)) -> bool:
    try:
        verify_sum(total, key, p, survivors=survivors)
    except AlteredSum:
        return False
    return True


def _by_hand(words: np.ndarray, p: EncodingParams, index: int) -> int:
    """The definition, in Python's big integers."""
    packed = [int(w) for w in words[: p.packed_words]]
    places = [lane * p.lane_bits for lane in range(LANES[p.lane_bits])]
    low = 2**p.lane_bits - 1
    if p.lane_bits == 21:  # plane after plane in each piece of words; the other widths word after word
        size = ROWS * COLUMNS
        pieces = [packed[i : i + size] for i in range(0, len(packed), size)]
        tables = [[w >> place & low for w in piece] for piece in pieces for place in places]
    else:
        lanes = [w >> place & low for w in packed for place in places]
        tables = [lanes[i : i + ROWS * COLUMNS] for i in range(0, len(lanes), ROWS * COLUMNS)]
    rows = _numbers(0, ROWS * len(tables))
    columns, total = _numbers(1, COLUMNS), _numbers(2**32 + index, 1)[0]
    for number, table in enumerate(tables):
        for k, value in enumerate(table):
            total += rows[ROWS * number + k // COLUMNS] * columns[k % COLUMNS] * value
    limbs = [part for w in words[p.packed_words : -1] for part in (int(w) & 2**32 - 1, int(w) >> 32)]
    total += sum(r * limb for r, limb in zip(_numbers(2, len(limbs)), limbs, strict=True))
    return total % 2**64


def _numbers(segment: int, count: int) -> list[int]:
    data = keystream(KEY.reveal(), 8 * count, segment)
    return [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@pytest.mark.parametrize("size", [0, 1, 2049, 3 * ROWS * COLUMNS + 5])
def test_a_check_word_is_the_product_of_its_definition(lane_bits: int, size: int) -> None:
    p = _params(size, lane_bits)
    words = _vector(p, 3)
    assert int(words[-1]) == _by_hand(words, p, 3)


@pytest.mark.parametrize(("lane_bits", "cohort"), [(16, 2047), (21, 4096), (32, 2047), (32, 1023)])
def test_the_float_products_are_exact_where_lanes_are_fullest(lane_bits: int, cohort: int) -> None:
    """Odd lanes just below the largest: a partial sum of 2^53 or more would lose its last bit."""
    p = _params(200_000, lane_bits, cohort)
    words = _vector(p, 1, values=np.linspace(0.495, 0.5, 200_000))
    total = words * np.uint64(cohort)  # the fullest sum there is
    for vector in (words, total):
        assert int(checked(vector, KEY, p, index=1)[-1]) == _by_hand(vector, p, 1)


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@given(
    size=st.sampled_from([0, 1, 5, 33_000, 140_000]),
    hospitals=st.sets(st.integers(1, 9), min_size=1, max_size=5),
)
@settings(max_examples=15, deadline=None)
def test_the_sum_of_any_hospitals_passes(lane_bits: int, size: int, hospitals: set[int]) -> None:
    p = _params(size, lane_bits)
    total = _sum(p, tuple(hospitals))
    verify_sum(total, KEY, p, survivors=hospitals)


EDGES = (0, 15, 16, 20, 21, 31, 32, 47, 62, 63)
"""Bits where lanes begin and end; all of them in ``make test-all``."""


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@pytest.mark.parametrize(
    "bits", [EDGES, pytest.param(range(64), marks=pytest.mark.slow)], ids=["edges", "all"]
)
def test_a_change_of_any_bit_anywhere_is_seen(lane_bits: int, bits: Sequence[int]) -> None:
    p = _params(40_000, lane_bits)
    total = _sum(p)
    places = [0, 1, COLUMNS, p.packed_words // 2, *range(p.packed_words - 1, p.words)]
    for place in places:
        for bit in bits:
            changed = total.copy()
            changed[place] ^= np.uint64(1 << bit)
            assert not _passes(changed, p), (place, bit)
    assert _passes(total, p)


def test_two_changes_that_would_cancel_without_coefficients_are_seen() -> None:
    p = _params(140_000, 21)
    total = _sum(p)
    for one, other in ((0, 1), (0, COLUMNS), (0, ROWS * COLUMNS - 1), (5, p.packed_words)):
        changed = total.copy()
        changed[one] += np.uint64(1)
        changed[other] -= np.uint64(1)
        assert not _passes(changed, p)
        changed = total.copy()
        changed[[one, other]] = changed[[other, one]]
        assert not _passes(changed, p)


def test_a_multiple_of_the_whole_vector_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the vector has twice its check word: only the pads tell."""
    p = EncodingParams(40, 0, 21, 0.5, 100, 5)
    zeros = np.zeros(0, np.uint64)
    small = encode(
        Update(np.full(40, -0.4, np.float32)), p, weight=3, metrics=zeros, random_bytes=secrets.token_bytes
    )
    one = checked(small, KEY, p, index=1)
    total = one + one  # within the bounds of one hospital: 2 * (-0.4 + 0.5) lies below 2 * 0.5
    assert not _passes(total, p, survivors=(1,))
    assert not _passes(total, p, survivors=(1, 2))
    monkeypatch.setattr(checkword, "pad", lambda key, index: 0)
    unpadded = one.copy()
    unpadded[-1] = (int(one[-1]) - _numbers(2**32 + 1, 1)[0]) % 2**64
    assert _passes(unpadded + unpadded, p, survivors=(1,))  # without pads it would pass


@pytest.mark.parametrize("survivors", [(1, 2), (1, 2, 3), (1, 2, 4, 5), (1, 2, 4, 4), ()])
def test_a_sum_of_others_than_those_who_agreed_is_seen(survivors: tuple[int, ...]) -> None:
    p = _params(100, 32)
    assert not _passes(_sum(p), p, survivors=survivors)


def test_another_length_or_key_is_seen() -> None:
    p = _params(100, 21)
    total = _sum(p)
    assert not _passes(total, p, key=Secret(b"l" * 32))
    for wrong in (total[:-1], np.append(total, total[-1]), total.reshape(1, -1), total[:0]):
        assert not _passes(wrong, p)


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_lanes_that_no_honest_sum_reaches_are_seen_even_with_the_key(lane_bits: int) -> None:
    p = _params(100, lane_bits)
    total = _sum(p)
    pads = sum(_numbers(2**32 + i, 1)[0] for i in (1, 2, 4))
    for lane, possible in ((2 * p.steps * 3, True), (2 * p.steps * 3 + 1, False)):
        total[0] = lane
        forged = checked(total, KEY, p, index=1)
        forged[-1] = (int(forged[-1]) - _numbers(2**32 + 1, 1)[0] + pads) % 2**64
        assert _passes(forged, p) is possible  # so a colluding hospital can change a sum within its bounds


def test_one_changed_lane_meets_the_right_word_as_seldom_as_the_bound_says() -> None:
    """The proof's two steps in a ring of 2^8, by counting: row keys and column keys over all their values."""
    bits = 8
    keys = np.arange(2**bits)
    for e in (1, 2, 4, 8, -3, 6):
        largest = e & -e
        t = (keys[:, None] * e + np.arange(2**bits)[None, :]) % 2**bits  # row key; everything in other rows
        for c in range(0, 2**bits, 37):
            hits = np.bincount((t[:, c][:, None] * keys[None, :] % 2**bits).ravel(), minlength=2**bits)
            u = largest.bit_length() - 1
            assert hits.max() / 2 ** (2 * bits) <= 2.0 ** (u - bits) * (1 + (bits - u) / 2)


def test_the_members_share_a_key_that_depends_on_every_contribution_the_set_and_the_attempt(
    consortium: Callable[..., Consortium],
) -> None:
    world = consortium(4).play_until(Phase.AGREE)
    keys = {h.state.check_key for h in world.hospitals.values()}
    assert len(keys) == 1
    other = consortium(4, context=Context(b"p" * 32, 7, 2, RoundKind.TRAIN, b"m" * 32))
    keys |= {h.state.check_key for h in other.play_until(Phase.AGREE).hospitals.values()}
    assert len(keys) == 2
    smaller = fixed_consortium(4).play_until(Phase.COMMIT)
    whole = fixed_consortium(4).play_until(Phase.COMMIT)
    smaller.play(2, (1, 2, 3))
    whole.play(2, (1, 2, 3, 4))
    for one in (smaller, whole):
        one.play(3, (1, 2, 3))
    assert smaller.hospitals[1].state.check_key != whole.hospitals[1].state.check_key


def test_a_whole_attempt_gives_a_sum_that_its_hospitals_verify_and_an_altered_one_that_they_refuse() -> None:
    world = fixed_consortium(4)
    total = world.run({4: 4})
    for index in (1, 2, 3):
        key = world.hospitals[index].state.committed.check_key
        verify_sum(total, key, PARAMS, survivors=world.server.survivors)
        for place in range(len(total)):
            changed = total.copy()
            changed[place] += np.uint64(1)
            assert not _passes(changed, PARAMS, key=key, survivors=world.server.survivors)


def test_coefficients_and_pads_come_from_different_parts_of_the_stream() -> None:
    segments = {checkword._ROW_KEYS, checkword._COLUMN_KEYS, checkword._TAIL_KEYS}
    assert len(segments) == 3
    assert max(segments) < checkword._PADS


@pytest.mark.parametrize(
    ("largest", "exponent"),
    [
        (2**16 - 1, -33.0),
        (2**21 - 1, -33.0),
        (2**26, -33.0),
        (2**27, -37 + math.log2(19.5)),
        (2**28, -36 + math.log2(19)),
        (2**32 - 1, -33 + math.log2(17.5)),
    ],
)
def test_the_bound_is_the_formula_of_the_proof(largest: int, exponent: float) -> None:
    assert forgery_exponent(largest) == pytest.approx(exponent)
