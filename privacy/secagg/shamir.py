"""Shamir's secret sharing of 32-byte secrets over the prime field of 2^256 + 297.

The prime is the smallest above 2^256, so every 32-byte secret is a field element; a share takes 33 bytes.

For many holders the random coefficients are those of the products 1, x, x(x-1), x(x-1)(x-2) … instead of the
powers of x. Both are ways to write every polynomial, and the first coefficient is the value at 0 in both, so
what is drawn is uniform among the polynomials with the secret at 0 either way. But with factorials divided
out the values at 1, 2, 3 … are one convolution then, which one product of two long numbers gives.
Source: Shamir, "How to share a secret", CACM 1979.
"""

from __future__ import annotations

import decimal
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from medveil.errors import RemoteProtocolError
from medveil.identity import Secret

PRIME = 2**256 + 297
SHARE_BYTES = 33
WORTH_IT = 48
"""Threshold from which on one long product is faster than a point after the other."""
RandomBytes = Callable[[int], bytes]


class BadShares(RemoteProtocolError):
    """Shares that do not rebuild a 32-byte secret."""

    code = "bad-shares"

    def __init__(self) -> None:
        super().__init__(
            what="The shares that came back do not rebuild a secret.",
            meaning="A hospital dealt or returned a wrong share; the round ends and nothing is revealed.",
            remedy="Repeat the round; if it stays so, look in the log for the hospital that is named.",
        )


def split(
    secret: Secret, threshold: int, holders: Iterable[int], random_bytes: RandomBytes
) -> dict[int, Secret]:
    """Deal a secret so that any ``threshold`` holders rebuild it and fewer learn nothing.

    Args:
        secret: 32 bytes.
        holders: different x-coordinates, each at least 1.
        random_bytes: a cryptographic source.
    Returns: holder → share of 33 bytes.
    """
    points = list(holders)
    value = secret.reveal()
    if len(value) != 32 or len(set(points)) != len(points) or min(points, default=0) < 1:
        raise ValueError("a 32-byte secret and different holders from 1 are needed")
    if not 1 <= threshold <= len(points):
        raise ValueError("the threshold must lie between 1 and the number of holders")
    # 48 random bytes reduced mod a 257-bit prime: distance from uniform below 2^-127.
    polynomial = [int.from_bytes(value, "big")]
    polynomial += [int.from_bytes(random_bytes(48), "big") % PRIME for _ in range(threshold - 1)]
    largest = max(points)
    if threshold >= WORTH_IT and largest <= 2 * len(points):
        values = values_from_one(polynomial, largest)
        return {x: Secret(values[x - 1].to_bytes(SHARE_BYTES, "big")) for x in points}
    return {x: Secret(evaluate(polynomial, x).to_bytes(SHARE_BYTES, "big")) for x in points}


def evaluate(polynomial: Sequence[int], x: int, prime: int = PRIME) -> int:
    """The polynomial (constant term first) at ``x``, in the field of ``prime``."""
    y = 0
    for step, coefficient in enumerate(reversed(polynomial)):
        y = y * x + coefficient
        if not step % 8:  # x is small: one reduction for eight steps
            y %= prime
    return y % prime


def values_from_one(polynomial: Sequence[int], last: int) -> list[int]:
    """A polynomial at 1, 2, … ``last``, all at once.

    With p(x) = sum of b_k x! / (x - k)!, p(x) / x! is the convolution of b with 1 / 0!, 1 / 1!, 1 / 2! …;
    each is written as one long number whose slots are too wide for a sum of products to leave them
    (Kronecker, 1882).

    Args:
        polynomial: coefficients of 1, x, x(x-1), x(x-1)(x-2) …, the constant term first.
    """
    width = len(str(len(polynomial) * PRIME * PRIME))
    exact = decimal.Context(
        prec=width * (len(polynomial) + last + 2),
        Emax=decimal.MAX_EMAX,
        Emin=decimal.MIN_EMIN,
        traps=[decimal.Inexact, decimal.InvalidOperation, decimal.Overflow],
    )
    product = exact.multiply(_slots(polynomial, width), _inverse_factorials(last, width))
    digits = f"{product:f}".zfill(width * (last + 1))
    values, factorial, end = [], 1, len(digits)
    for x in range(1, last + 1):
        factorial = factorial * x % PRIME
        slot = digits[end - width * (x + 1) : end - width * x]
        values.append(int(slot) * factorial % PRIME)
    return values


def _slots(values: Sequence[int], width: int) -> decimal.Decimal:
    """Numbers side by side in decimal digits, the first one last."""
    return decimal.Decimal("".join(str(value).zfill(width) for value in reversed(values)))


@functools.lru_cache(4)
def _inverse_factorials(last: int, width: int) -> decimal.Decimal:
    """1 / 0!, 1 / 1! … 1 / last! in the field, side by side."""
    factorial = 1
    for x in range(2, last + 1):
        factorial = factorial * x % PRIME
    inverses = [pow(factorial, -1, PRIME)]
    for x in range(last, 0, -1):
        inverses.append(inverses[-1] * x % PRIME)
    return _slots(inverses[::-1], width)


def lagrange_at_zero(points: Iterable[int], prime: int = PRIME) -> dict[int, int]:
    """Coefficients that turn the values at ``points`` into the value at 0; once per set of holders.

    Raises: BadShares if there is no point, one below 1 or one twice.
    """
    xs = sorted(points)
    if len(set(xs)) != len(xs) or not xs or xs[0] < 1:
        raise BadShares()
    coefficients = {}
    for i in xs:
        above, below = 1, 1
        for j in xs:
            if j != i:
                above = above * j % prime
                below = below * (j - i) % prime
        coefficients[i] = above * pow(below, -1, prime) % prime
    return coefficients


def combine(shares: Mapping[int, Secret], coefficients: Mapping[int, int]) -> Secret:
    """Rebuild a secret from the shares of exactly the holders in ``coefficients``.

    Raises: BadShares if one is missing or malformed or the result is no 32-byte secret. A wrong share of
        the right form gives a wrong secret: the caller checks it against a public key or a commitment.
    """
    total = 0
    for x, coefficient in coefficients.items():
        share = shares.get(x)
        y = int.from_bytes(share.reveal(), "big") if share is not None else PRIME
        if share is None or len(share.reveal()) != SHARE_BYTES or y >= PRIME:
            raise BadShares()
        total = (total + y * coefficient) % PRIME
    if total >= 2**256:
        raise BadShares()
    return Secret(total.to_bytes(32, "big"))
