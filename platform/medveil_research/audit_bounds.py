"""From the scores of canaries to what their privacy can be at most: two lower bounds and a fit.

Each canary was in or out by its own fair coin. A score says how much a result looks as if it was in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr
from scipy.stats import beta, binom

CONFIDENCE = 0.95
GUESSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Shares of the canaries that are guessed about; each is a test of its own, so the error is shared out."""
PLACES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Quantiles of the scores of those who were out, taken from one half of the canaries, at which the other half
is cut in two."""
DEVIATIONS = 3.0
"""Standard errors that a fit must lie above the claim before it counts against it."""

Scores = NDArray[np.float64]
Inside = NDArray[np.bool_]


@dataclass(frozen=True)
class Fit:
    """The scores as two Gaussians of one width: an estimate of epsilon, not a bound.

    ``mu`` is their distance in units of the width; one Gaussian release of it costs ``epsilon`` at delta.
    """

    mu: float
    error: float
    """Standard error of mu."""
    epsilon: float
    low: float
    """Epsilon at mu less ``DEVIATIONS`` standard errors."""
    high: float


@dataclass(frozen=True)
class Finding:
    """What one kind of release gave away about its canaries."""

    split: str
    claim: float
    """Epsilon that the study states for these patients."""
    delta: float
    canaries: int
    runs: int
    theory: float
    """mu of the claimed noise, where everybody enters every step."""
    fit: Fit
    one_run: float
    """Lower bound by the one-run theorem."""
    threshold: float
    """Lower bound by one threshold: rates of hits and false alarms with Clopper-Pearson intervals."""

    @property
    def bound(self) -> float:
        """The better of the two lower bounds; the confidence is shared out between them."""
        return max(self.one_run, self.threshold)

    @property
    def violated(self) -> bool:
        """Whether the claim cannot be true (a bound) or hardly is (the fit)."""
        return self.bound > self.claim or self.fit.low > self.claim


def examine(
    scores: Scores, inside: Inside, *, split: str, claim: float, delta: float, runs: int, theory: float
) -> Finding:
    """All three figures; the two bounds hold together with ``CONFIDENCE``."""
    share = (1 - CONFIDENCE) / 2
    return Finding(
        split=split,
        claim=claim,
        delta=delta,
        canaries=len(scores),
        runs=runs,
        theory=theory,
        fit=fit(scores, inside, delta),
        one_run=one_run_bound(scores, inside, delta, error=share),
        threshold=threshold_bound(scores, inside, delta, error=share),
    )


def fit(scores: Scores, inside: Inside, delta: float) -> Fit:
    """mu from the means and the common width of both groups, and what a Gaussian release of it costs."""
    groups = scores[inside], scores[~inside]
    if min(map(len, groups)) < 2:
        raise ValueError("canaries are needed on both sides")
    degrees = len(scores) - 2
    width = math.sqrt(sum(float(np.square(g - g.mean()).sum()) for g in groups) / degrees)
    apart = float(groups[0].mean() - groups[1].mean())
    mu = apart / width if width > 0 else math.inf if apart else 0.0
    if not math.isfinite(mu):
        return Fit(math.inf, 0.0, math.inf, math.inf, math.inf)
    error = math.sqrt(sum(1 / len(g) for g in groups) + mu * mu / (2 * degrees))
    room = DEVIATIONS * error
    return Fit(mu, error, *(_cost(value, delta) for value in (mu, mu - room, mu + room)))


def _cost(mu: float, delta: float) -> float:
    """Epsilon of one Gaussian release whose signal is mu times its noise.

    Computed here and not by the accountant, which is among what an audit looks at.
    Source: Balle and Wang, ICML 2018, theorem 8.
    """

    def excess(eps: float) -> float:
        return float(ndtr(mu / 2 - eps / mu) - math.exp(eps + log_ndtr(-mu / 2 - eps / mu))) - delta

    if mu <= 0 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu * mu / 2 + 9 * mu, xtol=1e-6))


def one_run_bound(scores: Scores, inside: Inside, delta: float, *, error: float) -> float:
    """The largest epsilon that the number of right guesses rules out; 0 if it rules out none.

    The canaries with the highest and with the lowest scores are guessed to be in and out. Canaries of several
    runs count as those of one: all runs together are a mechanism in which each canary has its own coin.

    Args:
        error: chance of a bound above the truth.
    Source: Steinke, Nasr, Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023, theorem 5.2.
    """
    order, best = np.argsort(scores, kind="stable"), 0.0
    for share in GUESSES:
        half = max(1, int(len(scores) * share / 2))
        right = int(inside[order[-half:]].sum() + (~inside[order[:half]]).sum())
        best = max(best, _ruled_out(len(scores), 2 * half, right, delta, error / len(GUESSES)))
    return best


def _ruled_out(canaries: int, guesses: int, right: int, delta: float, error: float) -> float:
    counts = np.arange(1, right + 1)

    def chance(eps: float) -> float:
        """Of so many right guesses, if (eps, delta) were true."""
        accuracy = 1 / (1 + math.exp(-eps))
        below = np.cumsum(binom.pmf(right - counts, guesses, accuracy))
        alpha = float((below / counts).max(initial=0.0))
        return float(binom.sf(right - 1, guesses, accuracy)) + 2 * canaries * delta * alpha

    if chance(0.0) > error:
        return 0.0
    low, high = 0.0, 50.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) <= error else (low, middle)
    return low


def threshold_bound(scores: Scores, inside: Inside, delta: float, *, error: float) -> float:
    """The largest epsilon that hits and false alarms at one threshold rule out; 0 if they rule out none.

    Args:
        error: chance of a bound above the truth; shared out over thresholds, directions and the two rates.
    Source: Kairouz, Oh, Viswanath, ICML 2015, theorem 2.1; intervals by Clopper and Pearson.
    """
    first = np.arange(len(scores)) % 2 == 0
    if not all((half & group).any() for half in (first, ~first) for group in (inside, ~inside)):
        return 0.0
    seen, own = scores[first & ~inside], ~first
    each, best = error / (4 * len(PLACES)), 0.0
    for sign in (1.0, -1.0):
        here, there = (inside, ~inside) if sign > 0 else (~inside, inside)
        known = seen if sign > 0 else scores[first & inside]
        for place in PLACES:
            cut = float(np.quantile(sign * known, place))
            above = sign * scores[own] > cut
            hits = _least(int(above[here[own]].sum()), int(here[own].sum()), each)
            alarms = 1 - _least(int((~above[there[own]]).sum()), int(there[own].sum()), each)
            if hits > delta and alarms > 0:
                best = max(best, math.log((hits - delta) / alarms))
    return best


def _least(found: int, total: int, error: float) -> float:
    """Lower end of the chance behind ``found`` of ``total``."""
    return 0.0 if found == 0 else float(beta.ppf(error, found, total - found + 1))
