"""The exact sampler of discrete noise against exact chances, and the noise against what it must hide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from privacy.dp import accounting, discrete
from privacy.dp.accounting import Event
from privacy.dp.discrete import LARGEST, SPARE, below, decays, deviation_for, discrete_gaussian
from privacy.dp.noise import NoiseSource

KEY = bytes(range(32))


def scripted(*given: int) -> discrete.Words:
    """A stream of these words; asking for more is a fault of the test."""
    left: Iterator[int] = iter(given)
    return lambda count: np.array([next(left) for _ in range(count)], np.uint64)


@pytest.mark.parametrize("deviation", [1, 2, 3, 7])
def test_values_have_the_chances_of_the_discrete_gaussian(deviation: int) -> None:
    count = 60_000
    values = NoiseSource(KEY).discrete(count, deviation)
    places = np.arange(-12 * deviation, 12 * deviation + 1)
    law = np.exp(-(places**2) / (2 * deviation**2))
    expected, seen = count * law / law.sum(), np.bincount(values - places[0], minlength=len(places))
    often = expected > 10
    statistic = ((seen - expected)[often] ** 2 / expected[often]).sum()
    assert 1e-3 < chi2.sf(statistic, often.sum() - 1) < 1 - 1e-3


def test_large_deviations_fill_all_whole_numbers_alike() -> None:
    """Lowest bits are fair, and 20 cells of equal chance fill equally: no lattice within the lattice."""
    deviation, count = 2**26 + 1, 60_000
    values = NoiseSource(KEY).discrete(count, deviation)
    edges = deviation * np.array([float(mpmath.sqrt(2) * mpmath.erfinv(k / 10 - 1)) for k in range(1, 20)])
    for seen in (
        np.bincount(values & 7, minlength=8),
        np.bincount(np.searchsorted(edges, values), minlength=20),
    ):
        expected = count / len(seen)
        assert 1e-3 < chi2.sf(((seen - expected) ** 2 / expected).sum(), len(seen) - 1) < 1 - 1e-3


def test_a_proposal_by_hand() -> None:
    """Deviation 3, k = 1 and j = 2 with a sign: -5 is taken with chance exp(-2 (6 + 2) / 18) = exp(-8/9).

    k is 1 between the chances of 0 and of at most 1: 1 / 1.7533 = .5704 and .9163. j and sign are a number
    below 6, of three bits: 5 is j = 2, negative; 7 is drawn anew. A number below 18, of five bits, goes on
    below 16, and stops at 17: at the first place, which is odd, the proposal is taken.
    """
    one = 2**64
    k, seven, five, stops = int(0.7 * one), 7 << 61, 5 << 61, 17 << 59
    assert discrete_gaussian(scripted(k, *[0] * 8, seven, *[0] * 8, five, stops, *[0] * 200), 1, 3)[0] == -5


def test_a_word_that_cannot_tell_is_given_more_digits() -> None:
    """The edge between k = 0 and k = 1 is 1 / sum exp(-k^2 / 2), computed here to 60 digits by others'
    means."""
    with mpmath.workdps(60):
        edge = 1 / mpmath.nsum(lambda k: mpmath.exp(-k * k / 2), [0, mpmath.inf])
        digits = int(mpmath.floor(edge * 2**128))
        first, second = digits >> 64, digits & (2**64 - 1)
        ranks = [
            int(discrete._ranks(scripted(first, after), 1, discrete._wholes)[0])
            for after in (second - 3, second + 3, 0, 2**64 - 1)
        ]
        assert ranks == [0, 1, 0, 1]
        near = [
            int(discrete._ranks(scripted(w, 2**63), 1, discrete._wholes)[0]) for w in (first - 1, first + 1)
        ]
        assert near == [0, 1]


@pytest.mark.parametrize(("edges", "law"), [("_wholes", "wholes"), ("_decays", "decays")])
def test_edges_are_the_chances_to_the_last_digit(edges: str, law: str) -> None:
    with mpmath.workdps(90):
        whole = mpmath.nsum(lambda k: mpmath.exp(-k * k / 2), [0, mpmath.inf])
        for digits in (64, 128):
            for place, edge in enumerate(getattr(discrete, edges)(digits)[:12]):
                if law == "decays":
                    true = 1 - mpmath.exp(-(place + 1))
                else:
                    true = sum(mpmath.exp(-k * k / mpmath.mpf(2)) for k in range(place + 1)) / whole
                assert abs(true * 2**digits - edge) < 2


def test_coins_fall_with_a_chance_of_exp_of_minus_a_fraction() -> None:
    source = NoiseSource(KEY)
    for numerator, denominator in ((0, 7), (1, 7), (7, 7), (2**40, 2**41 + 1)):
        seen = decays(source._words, np.full(40_000, numerator), denominator).mean()
        assert seen == pytest.approx(math.exp(-numerator / denominator), abs=0.01)
    numbers: NDArray[np.int64] = below(source._words, 5, 50_000)
    assert set(numbers) == set(range(5))
    assert np.bincount(numbers) == pytest.approx(np.full(5, 10_000), abs=450)


def test_the_discrete_gaussian_by_hand() -> None:
    """exp(-x^2 / 2) over sum of it, 2.50663: .3989, .2420, .0540, .0044 for x = 0, 1, 2, 3."""
    values = NoiseSource(KEY).discrete(60_000, 1)
    for place, chance in ((0, 0.39894), (1, 0.24197), (-2, 0.05399), (3, 0.00443)):
        assert (values == place).mean() == pytest.approx(chance, abs=5 * math.sqrt(chance / 60_000))


@pytest.mark.parametrize(("scale", "step"), [(0.8, 1e-4), (2.5, 2.0**-20), (1e5, 1.0), (0.805404, 2.0**-14)])
def test_the_deviation_is_what_the_proof_takes_and_hardly_more(scale: float, step: float) -> None:
    deviation, exact = deviation_for(scale, step), Fraction(scale) / Fraction(step)
    assert deviation**2 >= exact**2 * (1 + SPARE) + 9
    assert deviation <= exact * (1 + 1e-5) + 2


@pytest.mark.parametrize(("scale", "step"), [(1.0, 1.0), (1e9, 1.0)])
def test_deviations_that_the_proof_does_not_cover_are_refused(scale: float, step: float) -> None:
    with pytest.raises(ValueError, match="64 to"):
        deviation_for(scale, step)
    with pytest.raises(ValueError, match="whole number"):
        discrete_gaussian(scripted(), 1, LARGEST + 1)


def test_a_discrete_gaussian_is_a_blurred_smaller_gaussian() -> None:
    """Lemma 1 of decision 66 with numbers: N(0, s^2 - 9), then whole numbers about it with chances ~
    exp(-(k - y)^2 / 18), is N_Z(0, s^2), point by point. Here s = 5; sums over y every 1/32 are integrals."""
    y, k = np.arange(-60, 60, 1 / 32), np.arange(-90, 91)
    kernel = np.exp(-((k[:, None] - y) ** 2) / 18)
    blurred = (kernel / kernel.sum(0)) @ np.exp(-(y**2) / (2 * 16))
    law = np.exp(-(k**2) / (2 * 25))
    likely = law > 1e-20
    np.testing.assert_allclose((blurred / blurred.sum())[likely], (law / law.sum())[likely], rtol=1e-12)


def test_sums_of_discrete_gaussians_are_one_to_more_than_a_hundred_digits() -> None:
    """Lemma 2: of two with deviation 8, the sum's chances differ from N_Z(0, 128)'s by less than 4 exp(-64
    pi^2)."""
    with mpmath.workdps(320):
        one = [mpmath.exp(-mpmath.mpf(k * k) / 128) for k in range(-400, 401)]
        far = {
            total: sum(
                one[k] * one[800 + total - k]
                for k in range(max(0, total), 801 + min(0, total))
                if 0 <= 800 + total - k <= 800
            )
            for total in (0, 3)
        }
        ratio = far[3] / far[0] / mpmath.exp(-mpmath.mpf(9) / 256)
        assert abs(ratio - 1) < 4 * mpmath.exp(-64 * mpmath.pi**2)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("steps", [1, 60, 1000])
def test_the_spare_noise_pays_for_draws_that_find_no_room(epsilon: float, steps: int) -> None:
    """At delta less what a million weights, ten hospitals and all steps can miss, the larger noise costs no
    more."""
    delta = 1e-6
    sigma = accounting.calibrate(epsilon, delta, sample_rate=1.0, steps=steps)
    missed = 10**6 * 10 * steps * math.erfc(discrete.FARTHEST / math.sqrt(2))
    with_spare = Event(sigma * math.sqrt(1 + float(SPARE)), 1.0, steps)
    assert accounting.epsilon([with_spare], delta - missed) < accounting.epsilon(
        [Event(sigma, 1.0, steps)], delta
    )
