"""Exact discrete Gaussian noise: whole numbers only, from the words of a key stream.

N_Z(0, s^2) gives each whole number x a chance proportional to exp(-x^2 / 2 s^2). With chances that are
exactly those, nothing is assumed of floating-point noise. No float has a part in a draw: where a uniform
number meets an irrational chance, more of its digits are drawn until it lies on one side.

How many words of the stream a draw takes is chance, since proposals are refused; it depends on the noise
alone and never on what the noise is added to.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Words = Callable[[int], NDArray[np.uint64]]
"""The next so many uniform 64-bit words."""
LARGEST = 2**28
"""Largest deviation that can be drawn: all products of a draw stay below 2^63."""
SMALLEST = 64
"""Smallest deviation, in steps, that a study may ask for."""
SMOOTH = 16
"""Steps squared that are added to the variance; 9 of them are what the proof takes (decision 66)."""
SPARE = Fraction(1, 2**16)
"""Share of the variance that is added: pays for draws so far out that a hospital sends nothing."""
FARTHEST = 9.5
"""Deviations of one hospital's noise that always find room in its lanes; farther out are 2 in 10^21."""
_WHOLES = 30
"""exp(-k^2 / 2) is looked up for k below it; beyond lies less than 2^-600."""
_GUARD = 64
"""Binary digits that are computed beyond those that are used."""


def deviation_for(scale: float, step: float) -> int:
    """The deviation, in whole steps, of discrete noise that hides no less than a Gaussian of ``scale`` does.

    Guarantees: its square is at least (scale / step)^2 (1 + SPARE) + SMOOTH. Computed in exact fractions.
    Raises: ValueError if it lies outside ``SMALLEST`` to ``LARGEST``.
    """
    variance = (Fraction(scale) / Fraction(step)) ** 2 * (1 + SPARE) + SMOOTH
    deviation = math.isqrt(math.ceil(variance)) + 1
    if not SMALLEST <= deviation <= LARGEST:
        raise ValueError(f"discrete noise wants a deviation of {SMALLEST} to {LARGEST} steps")
    return deviation


def discrete_gaussian(words: Words, size: int, deviation: int) -> Integers:
    """Independent values of N_Z(0, deviation^2); int64, shape (size,).

    With s the deviation: k >= 0 is drawn with chance ~ exp(-k^2 / 2), j uniformly below s, and s k + j is
    taken with chance exp(-j (2 s k + j) / 2 s^2), so that it has a chance ~ exp(-(s k + j)^2 / 2 s^2). It
    gets a sign, and minus zero is refused. About 7 in 10 proposals are taken.

    Args:
        words: a cryptographic source. deviation: s, a whole number from 1 to ``LARGEST``.
    Source: Karney, "Sampling exactly from the normal distribution", ACM TOMS 2016, algorithm D; chances
        exp(-x) as in Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy", NeurIPS
        2020.
    """
    if not 1 <= deviation <= LARGEST:
        raise ValueError(f"the deviation must be a whole number from 1 to {LARGEST}")
    found, have = np.empty(size, np.int64), 0
    while have < size:
        proposed = _proposed(words, (size - have) * 3 // 2 + 8, deviation)[: size - have]
        found[have : have + len(proposed)] = proposed
        have += len(proposed)
    return found


def _proposed(words: Words, count: int, s: int) -> Integers:
    """Those of ``count`` proposals that are taken."""
    k = _ranks(words, count, _wholes)
    drawn = below(words, 2 * s, count)
    j, sign = drawn >> 1, drawn & 1
    exponents, whole = j * (2 * s * k + j), 2 * s * s
    taken = ~((k == 0) & (j == 0) & (sign == 1))
    wholes = exponents // whole
    large = np.flatnonzero(taken & (wholes > 0))
    taken[large] = _ranks(words, len(large), _decays) >= wholes[large]
    rest = np.flatnonzero(taken)
    taken[rest] = decays(words, exponents[rest] % whole, whole)
    values = s * k + j
    signed: Integers = np.where(sign == 1, -values, values)[taken]
    return signed


def below(words: Words, limit: int, count: int) -> Integers:
    """Uniform whole numbers below ``limit`` (at most 2^63): the highest bits of words, drawn anew from it
    on."""
    bits = (limit - 1).bit_length()
    if bits == 0:
        return np.zeros(count, np.int64)
    found = (words(count) >> np.uint64(64 - bits)).astype(np.int64)
    while (again := np.flatnonzero(found >= limit)).size:
        found[again] = (words(len(again)) >> np.uint64(64 - bits)).astype(np.int64)
    return found


def decays(words: Words, numerators: Integers, denominator: int) -> NDArray[np.bool_]:
    """Shape (n,): each True with chance exp(-numerator / denominator), for numerators from 0 to the
    denominator.

    Of coins with chance x / 1, x / 2, x / 3, …, the first that fails has an odd place with chance exp(-x).
    Source: von Neumann, 1951; Canonne, Kamath, Steinke, NeurIPS 2020, algorithm 1.
    """
    odd = np.zeros(len(numerators), np.bool_)
    left, place = np.arange(len(numerators)), 1
    while left.size:
        goes_on = below(words, denominator, len(left)) < numerators[left]
        if place > 1:
            goes_on &= below(words, place, len(left)) == 0
        odd[left[~goes_on]] = place % 2 == 1
        left, place = left[goes_on], place + 1
    return odd


def _ranks(words: Words, count: int, edges: Callable[[int], tuple[int, ...]]) -> Integers:
    """For each of ``count`` uniform numbers of [0, 1): how many edges lie at or below it, exactly.

    Args:
        edges: binary digits → ascending edges as whole numbers of so many digits, each less than 2 from the
            true one. Where a word cannot tell, digits are added, to the number and to the edges.
    """
    first, drawn = np.array(edges(64), np.uint64), words(count)
    found = np.searchsorted(first, drawn + np.uint64(1), side="right").astype(np.int64)
    sure = found == np.searchsorted(
        first, drawn - np.uint64(2), side="right"
    )  # at the ends it wraps: not sure
    for place in np.flatnonzero(~sure):
        value, digits = int(drawn[place]), 64
        while any(-2 < edge - value < 2 for edge in edges(digits)):
            value, digits = value << 64 | int(words(1)[0]), digits + 64
        found[place] = sum(edge < value for edge in edges(digits))
    return found


@functools.lru_cache(maxsize=8)
def _wholes(digits: int) -> tuple[int, ...]:
    """Edges between the values of k, whose chances are ~ exp(-k^2 / 2)."""
    parts = [_exponential(Fraction(k * k, 2), digits + _GUARD) for k in range(_WHOLES + digits // 64)]
    whole, last = sum(parts), (1 << digits) - 1
    return tuple(min((one << digits) // whole, last) for one in itertools.accumulate(parts[:-1]))


@functools.lru_cache(maxsize=8)
def _decays(digits: int) -> tuple[int, ...]:
    """1 - exp(-n) for n = 1, 2, …: a uniform number lies above it with chance exp(-n)."""
    whole, last = 1 << digits + _GUARD, (1 << digits) - 1
    tails = (_exponential(Fraction(n), digits + _GUARD) for n in range(1, _WHOLES + digits))
    return tuple(min((whole - one) >> _GUARD, last) for one in tails)


def _exponential(x: Fraction, digits: int) -> int:
    """exp(-x) in whole units of 2^-digits, within one; the series of 1 / exp(x), whose terms are positive."""
    room = digits + 32 + 2 * math.ceil(x)
    term, total, place = 1 << room, 0, 0
    while term:
        total, place = total + term, place + 1
        term = term * x.numerator // (x.denominator * place)
    return (1 << room + digits) // total
