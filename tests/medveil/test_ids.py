"""Equal values give equal bytes; different lists never do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medveil.ids import NAME, canonical, digest, fingerprint, join

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), values, max_size=5), st.randoms(use_true_random=False))
def test_the_order_in_which_a_mapping_was_filled_does_not_matter(
    value: dict[str, object], draw: object
) -> None:
    keys = list(value)
    draw.shuffle(keys)  # type: ignore[attr-defined]
    assert canonical({k: value[k] for k in keys}) == canonical(value)


@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_different_lists_are_joined_and_hashed_differently(a: list[bytes], b: list[bytes]) -> None:
    assert (join(*a) == join(*b)) == (a == b)
    assert (digest("x", *a) == digest("x", *b)) == (a == b)


def test_a_digest_belongs_to_its_label() -> None:
    assert digest("plan", b"x") != digest("study", b"x")
    assert digest("plan", b"x") != digest("plan", b"x", b"")
    assert len(digest("plan")) == 32


def test_a_fingerprint_can_be_read_aloud() -> None:
    assert fingerprint(b"key") == "2C70-E12B-7A06-46F9-2279-F427-C7B3-8E73"


@pytest.mark.parametrize("name", ["a", "st-marys", "hospital-12", "a" * 48])
def test_names_of_hospitals(name: str) -> None:
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a/b", "..", "a_b", "é", "a\n", "a" * 49])
def test_what_is_no_name(name: str) -> None:
    assert not NAME.fullmatch(name)
