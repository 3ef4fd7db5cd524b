"""Masks: one generator whatever path computes it, and they cancel to the last bit."""

from __future__ import annotations

import itertools
import secrets

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from medveil.identity import Secret
from privacy.secagg import keystream as module
from privacy.secagg.keystream import SelfTestFailed, keystream
from privacy.secagg.masks import CHUNK_WORDS, SEGMENT_WORDS, Mask, add_masks
from tries import tries
from unmasked import mask

NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
NIST_STREAM = bytes.fromhex(
    "0bdf7df1591716335e9a8b15c860c502"
    "5a6e699d536119065433863c8f657b94"
    "1bc12c9c01610d5d0d8bd6a3378eca62"
    "2956e1c8693536b1bee99c73a31576b6"
)
"""NIST SP 800-38A, F.5.5 CTR-AES256: the output blocks for the counters f0f1...feff and the three after."""
GCM_KEY_STREAM = bytes.fromhex("cea7403d4d606b6e074ec5d3baf39d18")
"""McGrew and Viega, test case 14 of GCM: all-zero key, nonce and plaintext, so the ciphertext is block 2."""


def _rfc_order_counter_blocks(segment: int, count: int) -> bytes:
    return b"".join(segment.to_bytes(12, "big") + (2 + i).to_bytes(4, "big") for i in range(count))


def _ecb(key: bytes, blocks: bytes) -> bytes:
    """Block by block, by hand: a third path, independent of both modes."""
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(blocks)


def _words(count: int) -> np.ndarray:
    return np.frombuffer(secrets.token_bytes(8 * count), np.uint64).copy()


def _reference(words: np.ndarray, masks: list[Mask], first_segment: int = 0) -> np.ndarray:
    """Whole-vector addition of the plain CTR stream, segment by segment, in Python's own integers."""
    total = [int(w) for w in words]
    for m in masks:
        for i in range(len(total)):
            offset = i % SEGMENT_WORDS
            if offset == 0:
                segment = first_segment + i // SEGMENT_WORDS
                count = min(SEGMENT_WORDS, len(total) - i)
                stream = np.frombuffer(keystream(m.seed.reveal(), 8 * count, segment), "<u8")
            total[i] = (total[i] + m.sign * int(stream[offset])) % 2**64
    return np.array(total, np.uint64)


def test_aes_256_gives_the_blocks_that_nist_printed() -> None:
    counters = [(int.from_bytes(bytes(range(0xF0, 0x100)), "big") + i).to_bytes(16, "big") for i in range(4)]
    assert _ecb(NIST_KEY, b"".join(counters)) == NIST_STREAM


def test_the_generator_starts_where_gcm_test_case_14_says() -> None:
    assert keystream(bytes(32), 16) == GCM_KEY_STREAM


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**40), st.integers(1, 200))
@settings(max_examples=tries(50), deadline=None)
def test_fast_path_and_reference_and_block_cipher_agree(seed: bytes, segment: int, length: int) -> None:
    fast = module._gcm(seed, segment).update(bytes(length))
    by_hand = _ecb(seed, _rfc_order_counter_blocks(segment, -(-length // 16)))[:length]
    assert fast == keystream(seed, length, segment) == by_hand


@pytest.mark.parametrize("count", [1, 3, CHUNK_WORDS - 1, CHUNK_WORDS, CHUNK_WORDS + 1])
def test_masks_are_the_reference_stream_with_their_signs(count: int) -> None:
    words = _words(count)
    masks = [Mask(Secret(secrets.token_bytes(32)), sign) for sign in (1, -1, -1)]
    assert np.array_equal(mask(words, masks).words, _reference(words, masks))


def test_a_segment_can_be_masked_on_its_own() -> None:
    words = np.zeros(2 * SEGMENT_WORDS + 5, np.uint64)
    masks = [Mask(Secret(b"a" * 32), 1), Mask(Secret(b"b" * 32), -1)]
    whole = mask(words, masks).words
    for number in (2, 0, 1):  # in any order: nothing is carried from one segment to the next
        part = words[number * SEGMENT_WORDS : (number + 1) * SEGMENT_WORDS].copy()
        add_masks(part, masks, first_segment=number)
        assert np.array_equal(part, whole[number * SEGMENT_WORDS : (number + 1) * SEGMENT_WORDS])
    added, taken = (np.frombuffer(keystream(seed * 32, 40, 2), "<u8") for seed in (b"a", b"b"))
    assert np.array_equal(whole[2 * SEGMENT_WORDS :], added - taken)


@given(st.integers(2, 6), st.integers(1, 50))
@settings(max_examples=tries(25), deadline=None)
def test_pair_masks_cancel_in_the_sum(hospitals: int, count: int) -> None:
    plain = [_words(count) for _ in range(hospitals)]
    pairs = itertools.combinations(range(hospitals), 2)
    seeds = {pair: Secret(secrets.token_bytes(32)) for pair in pairs}
    total = np.zeros(count, np.uint64)
    for h, words in enumerate(plain):
        mine = [Mask(s, 1 if h == i else -1) for (i, j), s in seeds.items() if h in (i, j)]
        total += mask(words, mine).words
    assert np.array_equal(total, sum(plain, np.zeros(count, np.uint64)))


def test_masked_words_look_uniform() -> None:
    """Chi-square over bytes: 255 degrees of freedom, a good stream exceeds 400 about once in 10^8 runs."""
    masked = mask(np.zeros(2**15, np.uint64), [Mask(Secret(b"k" * 32), 1)])
    counts = np.bincount(masked.words.view(np.uint8), minlength=256)
    expected = 8 * 2**15 / 256
    assert ((counts - expected) ** 2 / expected).sum() < 400


def test_a_segment_is_16_mib_of_whole_chunks() -> None:
    assert 8 * SEGMENT_WORDS == 16 * 1024 * 1024
    assert SEGMENT_WORDS % CHUNK_WORDS == 0


def test_a_machine_with_wrong_aes_masks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_fast_path_agrees", lambda: False)
    with pytest.raises(SelfTestFailed):
        mask(_words(4), [Mask(Secret(b"s" * 32), 1)])
