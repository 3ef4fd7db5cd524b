"""Accounting: what steps cost, against closed forms and against Opacus' accountants."""

from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import GaussianAccountant, PRVAccountant, RDPAccountant
from opacus.accountants.analysis.rdp import compute_rdp

from medveil.bounds import default_delta
from privacy.dp import accounting
from privacy.dp.accounting import (
    COARSE,
    EpsilonOutOfReach,
    Event,
    calibrate,
    epsilon,
    filter_epsilon,
    noise_to_signal,
)
from renyi import rdp_epsilon
from tries import tries

DELTA = 1e-5
SAMPLED = [
    (2.0, 0.05, 500),
    pytest.param(1.0, 0.05, 400, marks=pytest.mark.slow),
    (0.8, 0.01, 2000),
    pytest.param(4.0, 0.2, 1000, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("noise", "rate", "steps"), SAMPLED)
def test_epsilon_agrees_with_opacus_prv_accountant(noise: float, rate: float, steps: int) -> None:
    other = PRVAccountant()
    other.history = [(noise, rate, steps)]
    ours = epsilon([Event(noise, rate, steps)], DELTA)
    assert ours == pytest.approx(other.get_epsilon(DELTA, eps_error=0.01), abs=0.02)


@pytest.mark.parametrize(("noise", "rate", "steps"), SAMPLED)
def test_renyi_epsilon_agrees_with_opacus_and_lies_above_epsilon(
    noise: float, rate: float, steps: int
) -> None:
    other = RDPAccountant()
    other.history = [(noise, rate, steps)]
    ours = rdp_epsilon([Event(noise, rate, steps)], DELTA)
    assert ours == pytest.approx(other.get_epsilon(DELTA, alphas=list(range(2, 65))), rel=0.02)
    assert ours > epsilon([Event(noise, rate, steps)], DELTA)


@pytest.mark.parametrize("mu", [0.1, pytest.param(0.27, marks=pytest.mark.slow), 1.66])
def test_unsampled_steps_agree_with_the_loss_distribution_of_one_gaussian(mu: float) -> None:
    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(dp_event.GaussianDpEvent(1 / mu))
    steps = 30
    ours = epsilon([Event(math.sqrt(steps) / mu, 1.0, steps)], DELTA)
    assert ours == pytest.approx(accountant.get_epsilon(DELTA), abs=2e-3)


def test_published_figures_for_full_participation_hold() -> None:
    for target, mu in [(8, 1.66), (3, 0.72), (1, 0.27)]:
        noise = calibrate(target, DELTA, sample_rate=1.0, steps=60)
        assert math.sqrt(60) / noise == pytest.approx(mu, abs=0.006)


@given(
    target=st.floats(0.3, 10),
    steps=st.integers(1, 200),
    patients=st.sampled_from([100, 10_000, 1_000_000]),
)
@settings(max_examples=tries(30), deadline=None)
def test_calibrated_noise_never_understates_and_is_tight(target: float, steps: int, patients: int) -> None:
    delta = default_delta(patients)
    noise = calibrate(target, delta, sample_rate=1.0, steps=steps)
    assert epsilon([Event(noise, 1.0, steps)], delta) <= target
    assert epsilon([Event(noise - 0.001, 1.0, steps)], delta) > target
    assert round(noise, 3) == noise


def test_calibrated_noise_never_understates_with_sampling() -> None:
    noise = calibrate(3.0, DELTA, sample_rate=0.25, steps=60)
    assert epsilon([Event(noise, 0.25, 60)], DELTA) <= 3.0 < epsilon([Event(noise - 0.001, 0.25, 60)], DELTA)


def test_composition_from_events_costs_less_than_the_sum_of_epsilons_and_more_than_each() -> None:
    first, second = Event(4.0, 1.0, 30), Event(2.0, 0.05, 300)
    apart = [epsilon([first], DELTA), epsilon([second], DELTA)]
    assert max(apart) < epsilon([first, second], DELTA) < sum(apart)
    assert epsilon([second, first], DELTA) == epsilon([first, second], DELTA)


def test_a_split_schedule_costs_the_same_as_a_whole_one() -> None:
    assert epsilon([Event(3.0, 1.0, 10)] * 3, DELTA) == epsilon([Event(3.0, 1.0, 30)], DELTA)


def test_more_steps_and_less_noise_cost_more_and_nothing_costs_nothing() -> None:
    assert epsilon([], DELTA) == epsilon([Event(1.0, 1.0, 0)], DELTA) == 0.0
    costs = [
        epsilon([Event(noise, 1.0, steps)], DELTA) for noise, steps in [(9, 10), (9, 30), (3, 30), (0.1, 30)]
    ]
    assert costs == sorted(costs)
    assert len(set(costs)) == 4
    assert all(map(math.isfinite, costs))


def test_huge_costs_are_reported_by_the_renyi_bound() -> None:
    event = Event(0.5, 0.05, 1000)
    assert epsilon([event], DELTA) == rdp_epsilon([event], DELTA) > COARSE


def test_delta_lies_far_below_one_patient_in_all() -> None:
    assert default_delta(50) == 1e-5
    assert default_delta(1_000_000) == 1e-7


def test_noise_to_signal_matches_the_published_table() -> None:
    def ratio(weights: int, patients: int, target: float) -> float:
        noise = calibrate(target, DELTA, sample_rate=1.0, steps=60)
        return noise_to_signal(parameters=weights, noise_multiplier=noise, steps=60, patients=patients)

    assert ratio(1217, 1546, 8) == pytest.approx(0.014, abs=5e-4)
    assert ratio(1217, 1546, 1) == pytest.approx(0.084, abs=2e-3)
    assert ratio(123_000, 75, 8) == pytest.approx(2.8, abs=0.05)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [(0.0, 1.0, 1), (math.nan, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (1.0, 1.0, -1)],
)
def test_impossible_events_are_refused(noise: float, rate: float, steps: int) -> None:
    with pytest.raises(ValueError, match=r"noise_multiplier|sample_rate|steps"):
        Event(noise, rate, steps)


@pytest.mark.parametrize(("noise", "rate", "steps"), SAMPLED)
def test_the_central_limit_accountant_reports_less_than_the_truth_and_is_not_offered(
    noise: float, rate: float, steps: int
) -> None:
    with pytest.warns(UserWarning, match="underestimate"):
        other = GaussianAccountant()
    other.history = [(noise, rate, steps)]
    assert other.get_epsilon(DELTA) < epsilon([Event(noise, rate, steps)], DELTA)
    assert not [name for name in vars(accounting) if "gdp" in name.lower() or "clt" in name.lower()]


@pytest.mark.parametrize(("noise", "rate", "steps"), SAMPLED)
def test_the_filter_is_a_renyi_bound_of_one_order_that_only_cap_and_delta_decide(
    noise: float, rate: float, steps: int
) -> None:
    events = [Event(noise, rate, steps), Event(noise * 2, 1.0, 10)]
    cap = epsilon(events, DELTA)
    bound = filter_epsilon(events, DELTA, cap=cap)
    # Both reckon with floats: an equal bound may differ in its last digit.
    assert rdp_epsilon(events, DELTA) <= bound * (1 + 1e-12)
    assert bound < 1.3 * cap
    one_gaussian = calibrate(cap, DELTA, sample_rate=1.0, steps=1)
    order = max(2, 1 + round(math.sqrt(2 * math.log(1 / DELTA)) * one_gaussian))
    renyi = sum(
        compute_rdp(q=e.sample_rate, noise_multiplier=e.noise_multiplier, steps=e.steps, orders=[order])[0]
        for e in events
    )
    other = renyi + math.log1p(-1 / order) - math.log(DELTA * order) / (order - 1)
    assert bound == pytest.approx(other, rel=0.02)


@pytest.mark.parametrize("cap", [0.1, 1.0, 8.0, 60.0])
def test_without_sampling_the_filter_is_that_of_dp_accounting(cap: float) -> None:
    order = max(
        2, 1 + round(math.sqrt(2 * math.log(1 / DELTA)) * calibrate(cap, DELTA, sample_rate=1.0, steps=1))
    )
    for noise, steps in [(1e7, 1), (40.0, 3), (2.0, 10), (0.5, 40)]:
        known = RdpAccountant(orders=[order])
        known.compose(dp_event.GaussianDpEvent(noise), steps)
        bound = filter_epsilon([Event(noise, 1.0, steps)], DELTA, cap=cap)
        assert bound == pytest.approx(known.get_epsilon(DELTA), rel=1e-12)
    assert filter_epsilon([], DELTA, cap=cap) == 0.0


def test_noise_beside_other_events_uses_what_they_leave() -> None:
    first = Event(4.0, 1.0, 10)
    noise = calibrate(8.0, DELTA, sample_rate=1.0, steps=5, beside=[first])
    assert epsilon([first, Event(noise, 1.0, 5)], DELTA) <= 8.0
    assert epsilon([first, Event(noise - 0.001, 1.0, 5)], DELTA) > 8.0


@pytest.mark.parametrize(
    ("target", "beside"),
    [
        pytest.param(1e-6, [], id="too small"),
        pytest.param(1.0, [Event(1.0, 1.0, 1)], id="taken already"),
    ],
)
@pytest.mark.parametrize("rate", [1.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_an_epsilon_that_no_noise_reaches_is_refused_by_name(
    target: float, beside: list[Event], rate: float
) -> None:
    with pytest.raises(EpsilonOutOfReach) as caught:
        calibrate(target, 1e-9, sample_rate=rate, steps=10, beside=beside)
    assert caught.value.remedy
