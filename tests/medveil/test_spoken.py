"""A plan's fingerprint is twelve words of a public list, and means one hash only."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medveil.spoken import NotAFingerprint, means, spoken, word_list, words_of

HASHES = st.binary(min_size=32, max_size=32)


def test_the_list_is_the_public_one_byte_for_byte_and_ships_with_its_licence() -> None:
    folder = files("medveil") / "words"
    found = hashlib.sha256((folder / "english.txt").read_bytes()).hexdigest()
    assert found == "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"
    assert "MIT" in (folder / "LICENSE.txt").read_text()
    assert len(set(word_list())) == 2048
    assert len({word[:4] for word in word_list()}) == 2048
    assert all(a < b for a, b in pairwise(word_list()))


def test_the_words_of_a_known_hash_never_change() -> None:
    assert spoken(bytes(32)) == " ".join(["abandon"] * 12)
    assert spoken(b"\xff" * 32) == " ".join(["zoo"] * 12)
    assert words_of(bytes(16) + b"\x30" + bytes(15))[-1] == "about"


@given(HASHES, st.sampled_from([" ", "-", "  ", ", ", "\n"]), st.booleans())
def test_words_in_any_case_and_with_any_separator_mean_their_hash(
    hash_: bytes, between: str, loud: bool
) -> None:
    text = between.join(words_of(hash_))
    typed = text.upper() if loud else text.capitalize()
    assert means([typed], hash_)
    assert means(typed.split(), hash_)
    assert not means([typed], bytes([hash_[0] ^ 1]) + hash_[1:])


@given(HASHES)
def test_the_number_means_its_hash_whole_or_from_132_bits_on(hash_: bytes) -> None:
    digits = hash_.hex()
    assert means([digits], hash_)
    assert means([digits[:33].upper()], hash_)
    assert means(["-".join(digits[i : i + 4] for i in range(0, 64, 4))], hash_)
    assert not means([f"{int(digits[0], 16) ^ 1:x}" + digits[1:]], hash_)
    for short in (digits[:32], digits[:16], digits + "0", digits[:8]):
        with pytest.raises(NotAFingerprint):
            means([short], hash_)


@given(HASHES, st.integers(64, 131))
def test_two_hashes_with_the_same_first_64_bits_are_told_apart_by_their_words(hash_: bytes, bit: int) -> None:
    flipped = (int.from_bytes(hash_, "big") ^ (1 << (255 - bit))).to_bytes(32, "big")
    assert flipped[:8] == hash_[:8]
    assert spoken(flipped) != spoken(hash_)
    assert not means([spoken(hash_)], flipped)
    assert not means([hash_.hex()[:33]], flipped)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "0 words"),
        ("abandon " * 11, "11 words"),
        ("abandon " * 13, "13 words"),
        ("abandon " * 11 + "abandn", "word 12, 'abandn', is not on the list; perhaps 'abandon'"),
        ("\x1b[2J[/] " * 12, "not on the list"),
        ("8774-BAE5-8C02-9CA5", "16 hexadecimal digits"),
    ],
)
def test_what_is_no_fingerprint_is_refused_and_the_slip_is_named(typed: str, words: str) -> None:
    with pytest.raises(NotAFingerprint, match="fingerprint") as refused:
        means([typed], bytes(32))
    assert words in refused.value.what
    assert "\x1b" not in refused.value.what
