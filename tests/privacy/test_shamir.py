"""Shamir's sharing: any threshold of holders rebuilds, fewer know nothing, malformed input is refused."""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections import Counter
from math import isqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medveil.identity import Secret
from privacy.secagg.shamir import (
    PRIME,
    BadShares,
    combine,
    evaluate,
    lagrange_at_zero,
    split,
    values_from_one,
)
from tries import tries


def _is_prime(n: int) -> bool:
    """Trial division, then Miller-Rabin with forty bases (2^-80 for a composite that slips through)."""
    if any(n % p == 0 for p in range(2, min(1000, isqrt(n) + 1))):
        return False
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(40):
        x = pow(2 + secrets.randbelow(n - 3), odd, n)
        if x not in (1, n - 1) and all((x := x * x % n) != n - 1 for _ in range(twos - 1)):
            return False
    return True


def test_the_prime_is_the_smallest_above_2_to_256() -> None:
    assert _is_prime(PRIME)
    assert not any(_is_prime(n) for n in range(2**256 + 1, PRIME))


@given(st.binary(min_size=32, max_size=32), st.data())
@settings(max_examples=tries(60), deadline=None)
def test_any_threshold_of_holders_rebuilds_the_secret(secret: bytes, data: st.DataObject) -> None:
    holders = data.draw(st.sets(st.integers(1, 10_000), min_size=1, max_size=12))
    threshold = data.draw(st.integers(1, len(holders)))
    shares = split(Secret(secret), threshold, holders, secrets.token_bytes)
    chosen = data.draw(st.permutations(sorted(holders)))[:threshold]
    assert combine(shares, lagrange_at_zero(chosen)) == Secret(secret)


def test_every_subset_of_five_holders_at_the_threshold_and_above_rebuilds() -> None:
    secret = Secret(b"\xff" * 32)
    shares = split(secret, 3, range(1, 6), secrets.token_bytes)
    for size in (3, 4, 5):
        for chosen in itertools.combinations(shares, size):
            assert combine(shares, lagrange_at_zero(chosen)) == secret


@pytest.mark.parametrize(
    ("prime", "threshold", "holders"), [(7, 2, (1, 3, 6)), (7, 3, (1, 2, 3, 5)), (5, 4, (1, 2, 3, 4))]
)
def test_fewer_shares_than_the_threshold_say_nothing_about_the_secret(
    prime: int, threshold: int, holders: tuple[int, ...]
) -> None:
    """By enumeration: whatever the secret, t - 1 shares take every value exactly once."""
    for known in itertools.combinations(holders, threshold - 1):
        for secret in range(prime):
            seen = Counter(
                tuple(evaluate((secret, *rest), x, prime) for x in known)
                for rest in itertools.product(range(prime), repeat=threshold - 1)
            )
            assert seen == Counter(itertools.product(range(prime), repeat=threshold - 1))


def test_small_prime_and_large_prime_rebuild_by_the_same_arithmetic() -> None:
    for secret, slope in itertools.product(range(11), repeat=2):
        coefficients = lagrange_at_zero((2, 9), 11)
        rebuilt = sum(evaluate((secret, slope), x, 11) * c for x, c in coefficients.items()) % 11
        assert rebuilt == secret


@pytest.mark.parametrize(
    ("secret", "threshold", "holders"),
    [
        (b"s" * 31, 1, (1, 2)),
        (b"s" * 33, 1, (1, 2)),
        (b"s" * 32, 0, (1, 2)),
        (b"s" * 32, 3, (1, 2)),
        (b"s" * 32, 1, (0, 1)),
        (b"s" * 32, 1, (1, 1)),
        (b"s" * 32, 1, (-1, 1)),
        (b"s" * 32, 1, ()),
    ],
)
def test_a_sharing_that_could_not_be_safe_is_never_dealt(
    secret: bytes, threshold: int, holders: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"must|needed"):
        split(Secret(secret), threshold, holders, secrets.token_bytes)


@pytest.mark.parametrize("points", [(), (0, 1), (1, 1), (-1, 2)])
def test_holders_without_a_polynomial_are_refused(points: tuple[int, ...]) -> None:
    with pytest.raises(BadShares):
        lagrange_at_zero(points)


@pytest.mark.parametrize(
    "bad", [None, b"", b"\x00" * 32, b"\x00" * 34, PRIME.to_bytes(33, "big"), b"\xff" * 33]
)
def test_a_missing_or_malformed_share_is_refused(bad: bytes | None) -> None:
    shares = split(Secret(b"s" * 32), 2, (1, 2, 3), secrets.token_bytes)
    coefficients = lagrange_at_zero((1, 2))
    del shares[2]
    if bad is not None:
        shares[2] = Secret(bad)
    with pytest.raises(BadShares):
        combine(shares, coefficients)


def test_too_few_shares_rebuild_something_else() -> None:
    secret = Secret(secrets.token_bytes(32))
    shares = split(secret, 3, (1, 2, 3), secrets.token_bytes)
    with contextlib.suppress(BadShares):  # what they rebuild may also lie above 2^256
        assert combine(shares, lagrange_at_zero((1, 2))) != secret


def test_a_value_that_is_no_32_byte_secret_is_refused() -> None:
    with pytest.raises(BadShares):
        combine({1: Secret((2**256).to_bytes(33, "big"))}, lagrange_at_zero((1,)))


def test_shares_are_33_bytes_and_hidden_in_repr() -> None:
    shares = split(Secret(b"s" * 32), 2, (1, 2), secrets.token_bytes)
    assert {len(s.reveal()) for s in shares.values()} == {33}
    assert repr(shares[1]) == "Secret(33 bytes)"


@given(st.lists(st.integers(0, PRIME - 1), min_size=1, max_size=60), st.integers(1, 80))
@settings(max_examples=30, deadline=None)
def test_values_of_falling_products_all_at_once_are_those_of_one_after_the_other(
    polynomial: list[int], last: int
) -> None:
    def at(x: int) -> int:
        y, product = 0, 1
        for place, coefficient in enumerate(polynomial):
            y, product = y + coefficient * product, product * (x - place)
        return y % PRIME

    assert values_from_one(polynomial, last) == [at(x) for x in range(1, last + 1)]


def test_a_secret_dealt_to_many_is_rebuilt_by_any_who_are_enough_and_by_no_fewer() -> None:
    holders, threshold = [*range(1, 150), 190], 76
    secret = Secret(secrets.token_bytes(32))
    shares = split(secret, threshold, holders, secrets.token_bytes)
    assert sorted(shares) == holders
    for chosen in (holders[:threshold], holders[-threshold:]):
        dealt = {x: shares[x] for x in chosen}
        assert combine(dealt, lagrange_at_zero(chosen)) == secret
        fewer = chosen[1:]  # one more than these is wanted: the values lie on no shorter polynomial
        with contextlib.suppress(BadShares):
            assert combine({x: shares[x] for x in fewer}, lagrange_at_zero(fewer)) != secret
