"""What a number of noisy steps costs a patient.

The record is one patient with all images; neighbouring data sets differ by adding or removing one patient.
Epsilon is always computed from the raw events, never by adding (epsilon, delta) pairs: three studies
composed from their events cost about two thirds of the sum of their epsilons.

dp-accounting takes a second to load and only sampled steps need it: everybody in every step is one Gaussian.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medveil.errors import Error

if TYPE_CHECKING:
    from dp_accounting import dp_event

GRID = 1e-3
"""Step of the discretised privacy loss; the discretisation is pessimistic, so epsilon is never too small."""
ORDERS = (*range(2, 65), *range(72, 257, 8), 320, 384, 512, 768, 1024)
"""Renyi orders; whole numbers only, for which the sampled Gaussian has a finite, stable sum."""
COARSE = 20.0
"""Above this epsilon the loss grid would be huge and its last digits useless: the Renyi bound is reported."""
MOST_NOISE = 10**9
"""Thousandths; a plan that would need more is out of reach."""


class EpsilonOutOfReach(Error):
    """No noise makes a schedule as cheap as was asked."""

    code = "epsilon-out-of-reach"

    def __init__(self, *, target: float, steps: int) -> None:
        super().__init__(
            what=f"No noise brings {steps} steps down to epsilon {target:g}.",
            meaning="No plan was made; with so much noise nothing could be learned either.",
            remedy="Ask for a larger epsilon, fewer rounds or steps, or a sample rate of 1.",
        )


@dataclass(frozen=True)
class Event:
    """``steps`` releases of a clipped sum over patients with Gaussian noise.

    Args:
        noise_multiplier: standard deviation of the noise, in units of the clipping norm.
        sample_rate: chance with which each patient enters a step, independently (Poisson sampling); 1 is
        everybody. steps: number of such releases.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError("noise_multiplier must be a positive number")
        if not 0 < self.sample_rate <= 1:
            raise ValueError("sample_rate must lie in (0, 1]")
        if self.steps < 0:
            raise ValueError("steps must not be negative")


def epsilon(events: Iterable[Event], delta: float) -> float:
    """Epsilon of all events together, at ``delta``.

    Gaussian steps without sampling compose exactly (the whole is one Gaussian, solved in closed form); as
    soon as a sampled step is among them, privacy loss distributions are composed on a grid of ``GRID``.

    Guarantees: an upper bound for schedules that are fixed before the first step; exact to 1e-6 without
    sampling.
    Source: Balle and Wang, ICML 2018 (Gaussian); Doroshenko et al., PETS 2022 (pessimistic grid;
    dp-accounting).
    """
    return _epsilon(_merged(events), _valid(delta))


def filter_epsilon(events: Iterable[Event], delta: float, *, cap: float) -> float:
    """Epsilon of events whose order and number were chosen on the way, for a budget of (``cap``, ``delta``).

    Guarantees: studies that are stopped before this passes the cap are (cap, delta) private together, even
        if each was designed after looking at the results of those before. The Renyi order depends on cap and
        delta alone: it is the best one for a single Gaussian of that price.
    Source: Feldman and Zrnic, NeurIPS 2021, theorem 4.3 (a Renyi filter of one order).
    """
    mu = 1 / calibrate(cap, delta, sample_rate=1.0, steps=1)
    order = max(2, 1 + round(math.sqrt(2 * math.log(1 / delta)) / mu))
    return _renyi_epsilon(_merged(events), _valid(delta), (order,))


def calibrate(
    target: float, delta: float, *, sample_rate: float, steps: int, beside: Iterable[Event] = ()
) -> float:
    """Smallest noise multiplier, rounded up to three decimals, whose epsilon does not exceed ``target``.

    Args:
        beside: what the same patients are in already; it counts towards the target.

    Raises:
        EpsilonOutOfReach: no noise is enough.
    """
    if not (target > 0 and steps >= 1):
        raise ValueError("a target epsilon above 0 and at least one step are needed")
    others = tuple(beside)

    def cost(thousandths: int) -> float:
        return epsilon([*others, Event(thousandths / 1000, sample_rate, steps)], delta)

    high = 1000
    while cost(high) > target:
        high *= 2
        if high > MOST_NOISE:
            raise EpsilonOutOfReach(target=target, steps=steps)
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if cost(middle) > target:
            low = middle
        else:
            high = middle
    return high / 1000


def noise_to_signal(
    *, parameters: int, noise_multiplier: float, steps: int, patients: int, sample_rate: float = 1.0
) -> float:
    """Noise of a whole run over the largest possible signal, sqrt(d) / (mu N): .3 is fine, above 1 hopeless.

    At ``sample_rate`` 1 the run is one Gaussian of mu = sqrt(steps) / noise_multiplier. With sampling a
    step's mean carries noise of noise_multiplier * clip_norm / (q N), so mu = q sqrt(steps) /
    noise_multiplier stands in for it; the scatter of the drawn patients themselves is left out. The signal
    assumes gradients that all agree.
    """
    mu = sample_rate * math.sqrt(steps) / noise_multiplier
    return math.sqrt(parameters) / (mu * patients)


def paid_multiplier(noise_multiplier: float, steps: int, patient_mu: float | None) -> float:
    """The noise with which steps at the full norm cost no more than what a filter lets through."""
    return max(noise_multiplier, math.sqrt(steps) / patient_mu if patient_mu else 0.0)


def combined(events: Iterable[Event]) -> tuple[Event, ...]:
    """Events of equal noise and rate as one, each where the first of its kind stood."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        kind = event.noise_multiplier, event.sample_rate
        steps[kind] = steps.get(kind, 0) + event.steps
    return tuple(Event(*kind, count) for kind, count in steps.items())


def fits(taken: Iterable[Event], schedule: Iterable[Event]) -> bool:
    """Whether what was taken of a schedule costs no more than all of it, at any delta.

    Without sampling only mu counts, so a step may be taken twice if another one is left out for it; sampled
    steps are counted by their kind.
    """
    known, whole = _merged(taken), _merged(schedule)
    most = {(noise, rate): count for noise, rate, count in whole}
    sampled_fit = all(count <= most.get((noise, rate), 0) for noise, rate, count in known if rate < 1)
    return sampled_fit and _mu_squared(known) <= _mu_squared(whole)


def mu_squared(events: Iterable[Event]) -> float:
    """mu squared of everything without sampling as one Gaussian; what is sampled is left out."""
    return _mu_squared(_merged(events))


def at_most(events: Sequence[Event], mu: float | None) -> tuple[Event, ...]:
    """The events, or one Gaussian of ``mu`` where they cost more (None: they stand as they are).

    For events without sampling, of which a filter lets through no more than that."""
    if mu is None or mu_squared(events) <= mu**2:
        return tuple(events)
    return (Event(1 / mu, 1.0, 1),)


def largest_mu(target: float, delta: float) -> float:
    """The largest mu of a Gaussian release that costs at most ``target``, rounded down to 1e-9 of it."""
    low, high = 0.0, 1.0
    while _gaussian_epsilon(high, _valid(delta)) <= target:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _gaussian_epsilon(middle, delta) > target else (middle, high)
    return low


def for_use(noise_multiplier: float, use: float, target: float, delta: float) -> tuple[float, float]:
    """Noise and budget of a schedule with a filter for each patient, both on their safe side.

    Args:
        noise_multiplier: with which all steps at the full norm cost ``target``. use: share of the squared
            norms that patients are expected to need, in (0, 1]; whoever needs more is stopped at the budget.
    Returns: the smaller noise, rounded up to three decimals, and mu of the budget, rounded down to six.
    """
    noise = math.ceil(noise_multiplier * math.sqrt(use) * 1e3 - 1e-9) / 1e3
    return noise, math.floor(largest_mu(target, delta) * 1e6) / 1e6


Merged = tuple[tuple[float, float, int], ...]


def _valid(delta: float) -> float:
    if not 0 < delta < 1:
        raise ValueError("delta must lie between 0 and 1")
    return float(delta)


def _merged(events: Iterable[Event]) -> Merged:
    """Events of equal noise and rate as one, in a fixed order: the key of the cache."""
    steps: dict[tuple[float, float], int] = defaultdict(int)
    for event in events:
        steps[event.noise_multiplier, event.sample_rate] += event.steps
    return tuple((noise, rate, count) for (noise, rate), count in sorted(steps.items()) if count)


def _parts(events: Merged) -> tuple[float, Merged]:
    """mu of everything unsampled as one Gaussian, and what is sampled."""
    return math.sqrt(_mu_squared(events)), tuple(one for one in events if one[1] < 1)


def _mu_squared(events: Merged) -> float:
    """Of everything unsampled; rounded once, so that a schedule taken in full equals itself."""
    return math.fsum(count / noise**2 for noise, rate, count in events if rate == 1)


def _composed(events: Merged) -> dp_event.DpEvent:
    from dp_accounting import dp_event

    mu, sampled = _parts(events)
    parts = [
        dp_event.SelfComposedDpEvent(
            dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), count
        )
        for noise, rate, count in sampled
    ]
    return dp_event.ComposedDpEvent([dp_event.GaussianDpEvent(1 / mu), *parts] if mu else parts)


@functools.lru_cache(maxsize=4096)
def _epsilon(events: Merged, delta: float) -> float:
    if not events:
        return 0.0
    mu, sampled = _parts(events)
    if not sampled:
        return _gaussian_epsilon(mu, delta)
    bound = _renyi_epsilon(events, delta, ORDERS)
    if bound > COARSE:
        return bound
    from dp_accounting.pld import pld_privacy_accountant

    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=GRID)
    accountant.compose(_composed(events))
    return float(accountant.get_epsilon(delta))


@functools.lru_cache(maxsize=4096)
def _renyi_epsilon(events: Merged, delta: float, orders: tuple[int, ...]) -> float:
    """By Renyi accounting of these orders, never smaller.

    Source: Mironov, Talwar, Zhang, "Renyi differential privacy of the sampled Gaussian mechanism", 2019;
    Canonne, Kamath, Steinke, NeurIPS 2020, proposition 12 (what a divergence means at delta).
    """
    mu, sampled = _parts(events)
    if not sampled:
        return min(_from_divergence(order, order * mu**2 / 2, delta) for order in orders)
    from dp_accounting.rdp import rdp_privacy_accountant

    accountant = rdp_privacy_accountant.RdpAccountant(orders=orders)
    accountant.compose(_composed(events))
    return float(accountant.get_epsilon(delta))


def _from_divergence(order: int, divergence: float, delta: float) -> float:
    if delta**2 + math.expm1(-divergence) > 0:  # delta <= sqrt(1 - exp(-KL))
        return 0.0
    return max(0.0, divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))


def _gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon >= 0 with Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu) <= delta, rounded up."""
    from scipy.special import log_ndtr  # 27 MiB, which a node without a private study can do without

    def excess(eps: float) -> float:
        first = math.exp(log_ndtr(mu / 2 - eps / mu))
        return first - math.exp(min(eps + log_ndtr(-mu / 2 - eps / mu), 0.0)) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    low = 0.0
    while high - low > 1e-9 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high
