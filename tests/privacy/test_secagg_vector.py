"""The one pass: the same words as step after step, nothing half done, and never a whole vector in memory."""

from __future__ import annotations

import hashlib
import secrets
import tracemalloc
from typing import Any

import numpy as np
import pytest

from medveil.identity import Secret
from medveil.tensors import Update
from privacy.encoding import BLOCK_WORDS, CHUNK_WORDS, LANES, EncodingParams, OutOfRange
from privacy.secagg import checkword, keystream
from privacy.secagg.masks import SEGMENT_WORDS, Mask, add_masks
from privacy.secagg.vector import MaskedUpdate, masked_update
from unmasked import checked, encode, mask, whole

KEY = Secret(b"k" * 32)
MASKS = [Mask(Secret(bytes([i]) * 32), 1 if i % 2 else -1) for i in range(3)]
LANE_BITS = sorted(LANES)


def _params(parameters: int, lane_bits: int, metrics: int = 3) -> EncodingParams:
    return EncodingParams(parameters, metrics, lane_bits, clip=0.1, max_weight=100, cohort=5)


def _update(parameters: int) -> Update:
    """Multiples of 1/10,000 within the clip."""
    return Update(((np.arange(parameters) % 1999 - 999) / np.float32(10_000)).astype(np.float32))


def _metrics(p: EncodingParams) -> np.ndarray:
    return np.arange(p.metrics, dtype=np.uint64) * 10**9


def _masked(update: Update, p: EncodingParams, **change: Any) -> MaskedUpdate:
    arguments: dict[str, Any] = {
        "weight": 77,
        "metrics": _metrics(p),
        "check_key": KEY,
        "index": 2,
        "masks": MASKS,
        "random_bytes": bytes,
    }
    return masked_update(update, p, **(arguments | change))


@pytest.mark.parametrize("metrics", [0, 3])
@pytest.mark.parametrize("lane_bits", LANE_BITS)
@pytest.mark.parametrize(
    "words", [0, 1, 2, BLOCK_WORDS - 1, BLOCK_WORDS + 1, CHUNK_WORDS, 2 * CHUNK_WORDS + 1]
)
def test_one_pass_gives_the_words_of_encoding_check_word_and_masks(
    words: int, lane_bits: int, metrics: int
) -> None:
    for parameters in {LANES[lane_bits] * words, max(0, LANES[lane_bits] * words - 1)}:
        p, update = _params(parameters, lane_bits, metrics), _update(parameters)
        plain = encode(update, p, weight=77, metrics=_metrics(p), random_bytes=bytes)
        apart = mask(checked(plain, KEY, p, index=2), MASKS)
        assert np.array_equal(whole(_masked(update, p)), apart.words)


@pytest.mark.parametrize("packed", [SEGMENT_WORDS - 2, SEGMENT_WORDS])
def test_a_tail_that_begins_before_or_at_the_end_of_a_segment_gets_its_masks(packed: int) -> None:
    p = _params(2 * packed, 32)
    words = whole(_masked(Update(np.zeros(2 * packed, np.float32)), p))
    add_masks(words, [Mask(m.seed, -m.sign) for m in MASKS])
    assert (words[:packed] == p.steps * (2**32 + 1)).all()
    low, high = words[packed:-1] & np.uint64(2**32 - 1), words[packed:-1] >> np.uint64(32)
    assert [int(a) + (int(b) << p.limb_bits) for a, b in zip(low, high, strict=True)] == [
        77,
        0,
        10**9,
        2 * 10**9,
    ]
    assert np.array_equal(words, checked(words, KEY, p, index=2))


@pytest.mark.parametrize(
    ("lane_bits", "sha256"),
    [
        (16, "ea207bbafac315bb9acad2716c085b81ba7b74abfab964eebac9411497f471c2"),
        (21, "ddb2a2ffa1b0ea2586a6882edabd6144db62832ade3b9dab3c51f8306dd09701"),
        (32, "9e52d349792e450281f2469320dcf98f63b116c667f144451971190c096b90e8"),
    ],
)
def test_a_long_vector_has_the_bytes_it_always_had(lane_bits: int, sha256: str) -> None:
    """Several chunks; the hashes were made by the three separate passes there were before."""
    p = _params(300_001, lane_bits)
    metrics = np.array([1, 2**40, 5], np.uint64)
    masked = _masked(_update(300_001), p, metrics=metrics, random_bytes=lambda size: b"r" * size)
    assert hashlib.sha256(whole(masked)).hexdigest() == sha256


def test_an_update_without_a_mask_is_not_masked() -> None:
    with pytest.raises(ValueError, match="mask"):
        _masked(_update(4), _params(4, 32), masks=[])


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@pytest.mark.parametrize("place", [0, 299_999])
def test_one_bad_coordinate_and_there_is_nothing_to_send(lane_bits: int, place: int) -> None:
    update = _update(300_000)
    update.values[place] = np.nan
    with pytest.raises(OutOfRange):
        _masked(update, _params(300_000, lane_bits))


@pytest.mark.parametrize("change", [{"weight": 0}, {"weight": 101}, {"metrics": np.zeros(2, np.uint64)}])
def test_what_cannot_be_encoded_is_refused_before_any_randomness_is_drawn(change: dict[str, Any]) -> None:
    drawn: list[int] = []
    with pytest.raises(OutOfRange):
        _masked(_update(4), _params(4, 32), random_bytes=drawn.append, **change)
    assert drawn == []


def test_the_update_is_left_as_it_was() -> None:
    update = _update(300_000)
    before = update.values.copy()
    _masked(update, _params(300_000, 32))
    assert np.array_equal(update.values, before)


def test_two_uploads_of_one_update_differ_in_more_than_their_masks() -> None:
    p, update = _params(1000, 32), _update(1000)
    one, two = (whole(_masked(update, p, random_bytes=secrets.token_bytes)) for _ in "12")
    differing = np.count_nonzero(one != two)
    assert differing > 100  # the masks are the same: what differs is the rounding, and with it the check word


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_a_masked_vector_of_several_segments_never_exists_whole(lane_bits: int) -> None:
    """One segment and less than four mebibytes beside the update; made whole, 24 MB would be there."""
    p = _params(3_000_000 * LANES[lane_bits], lane_bits)
    update = Update(np.zeros(p.parameters, np.float32))
    tracemalloc.start()
    try:
        sizes = [len(segment) for segment in _masked(update, p).segments()]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [16 * 2**20, 8 * p.words - 16 * 2**20]
    assert peak < 16 * 2**20 + 4 * 2**20 < sum(sizes)


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_segments_that_are_asked_for_twice_have_the_same_bytes(lane_bits: int) -> None:
    """Else the difference of two uploads under the same masks would show how each entry was rounded."""
    masked = _masked(_update(300_001), _params(300_001, lane_bits), random_bytes=secrets.token_bytes)
    first = masked.segments()
    begun = bytes(next(first))
    assert np.array_equal(whole(masked), whole(masked))
    assert bytes(next(masked.segments())) == begun


def test_a_machine_with_wrong_aes_masks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keystream, "_fast_path_agrees", lambda: False)
    with pytest.raises(keystream.SelfTestFailed):
        _masked(_update(4), _params(4, 32))


def test_segments_are_made_one_after_the_other_in_one_place() -> None:
    p = _params(2 * SEGMENT_WORDS, 32, metrics=0)
    segments = _masked(Update(np.zeros(p.parameters, np.float32)), p).segments()
    first = next(segments)
    before = bytes(first)
    second = next(segments)
    assert (len(first), len(second)) == (16 * 2**20, 16)
    assert bytes(first) != before  # whoever keeps a segment keeps a copy
    assert list(segments) == []


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_blocks_are_whole_pieces_of_the_check_word(lane_bits: int) -> None:
    """Else the lanes of two blocks would meet other coefficients than those of one."""
    assert BLOCK_WORDS % checkword.PIECE_WORDS == 0
    assert CHUNK_WORDS % BLOCK_WORDS == 0
    assert checkword.PIECE_WORDS * LANES[lane_bits] % (checkword.ROWS * checkword.COLUMNS) == 0
    assert SEGMENT_WORDS % CHUNK_WORDS == 0
