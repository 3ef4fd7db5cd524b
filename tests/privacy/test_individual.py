"""A filter for each patient: nobody gives more than the budget; the ledger knows what was really used."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import norm

from four_weights import four_weights
from medveil.study import Study
from privacy.dp import ledger
from privacy.dp.accounting import Event, at_most, epsilon, largest_mu
from privacy.dp.individual import LEAST, SLACK, FilterPassed, PatientFilter, left_of_cap, reserve, unsettled
from privacy.dp.ledger import BadTransition, BudgetExceeded, Entry, Row, State
from privacy.dp.policy import Split, check_policy, cost
from privacy.dp.rows import parse_row, promise

DELTA = 1e-5
STEP = Event(2.0, 1.0, 1)
WHOLE = replace(STEP, steps=8)
MU = {"d": frozenset({("d", Split.TRAIN)})}


def steps_of(filter: PatientFilter, length: float, *, noise: float = 2.0) -> list[float]:
    """What a patient whose gradients have one length adds, step after step, until nothing."""
    found = []
    while len(found) < 1000 and (share := min(length, *filter.shares(["p"], noise))):
        filter.book(["p"], np.array([share]), noise)
        found.append(share)
    return found


def test_a_patient_with_long_gradients_gives_the_budget_in_four_steps_and_with_short_ones_in_many() -> None:
    """By hand: at noise 2 a step at the full norm takes 1/4, one at half the norm 1/16, of a budget of 1."""
    long = PatientFilter({"p": 1.0})
    assert steps_of(long, 1.0) == [1.0] * 4
    assert long.used == {"p": 1.0}
    short = PatientFilter({"p": 1.0})
    half = (0.5 * (1 + SLACK) + SLACK) ** 2 / 4  # 1/16 and what rounding may add
    given = steps_of(short, 0.5)
    assert given[:15] == [0.5] * 15
    assert 0.0625 < half < 0.0629
    rest = 2 * math.sqrt(1 - 15 * half)
    assert given[15:] == [pytest.approx((rest - SLACK) / (1 + SLACK))]  # cut to what is left
    assert 1 - LEAST**2 < short.used["p"] <= 1.0


def test_who_has_nothing_left_takes_part_and_adds_nothing() -> None:
    filter = PatientFilter({"p": 0.0, "q": -1.0, "r": 1e-9, "s": 1.0})
    assert filter.shares(["s", "r", "q", "p"], 2.0).tolist() == [1.0, 0.0, 0.0, 0.0]
    filter.book(["p", "q", "r", "s"], np.array([0.0, 0.0, 0.0, 1.0]), 2.0)
    assert filter.used == {"p": 0.0, "q": 0.0, "r": 0.0, "s": 0.25}
    with pytest.raises(FilterPassed):
        filter.book(["p"], np.array([0.1]), 2.0)
    assert "p" not in repr(filter).replace("patients", "").replace("PatientFilter", "")


def test_patients_who_pay_together_never_give_more_than_one_budget_even_if_they_agree() -> None:
    filter = PatientFilter({"one": 1.0}, {"p": "one", "q": "one"})
    both, taken = ["p", "q"], 0.0
    while (shares := filter.shares(both, 2.0)).any():
        filter.book(both, shares, 2.0)
        taken += float(shares.sum() / 2.0) ** 2
    assert 0.9 < taken <= filter.used["one"] <= 1.0


def test_no_order_of_steps_chosen_on_the_way_shows_more_than_one_gaussian_of_the_budget() -> None:
    """The privacy loss of a run whose lengths follow from earlier noise is that of one release (decision 65).

    An opponent who makes the patient's gradients long where the noise was in its favour, against a filter of
    mu = 1: the sum of log likelihood ratios must have the mean and the tail of a Gaussian of mu 1.
    """
    generator, names = np.random.Generator(np.random.PCG64(5)), [str(run) for run in range(4000)]
    filter, losses = PatientFilter(dict.fromkeys(names, 1.0)), np.zeros(len(names))  # a run for each patient
    while (most := filter.shares(names, 2.0)).any():
        shares = np.minimum(np.where(losses > 0, 1.0, 0.3), most)
        filter.book(names, shares, 2.0)
        losses += (
            shares / 2 * generator.standard_normal(len(names)) + (shares / 2) ** 2 / 2
        )  # drawn with it in
    assert np.mean(losses) == pytest.approx(0.5, abs=4 / math.sqrt(len(names)))
    for level in (1.0, 2.0):
        share = np.mean(losses > level)
        assert share <= norm.sf(level - 0.5) + 4 * math.sqrt(0.25 / len(names))


def test_a_study_with_a_filter_costs_its_budget_and_never_more_than_its_steps() -> None:
    assert at_most([WHOLE], 1.0) == (Event(1.0, 1.0, 1),)  # all eight steps would take mu squared 2
    assert at_most([WHOLE], 1.5) == (WHOLE,)
    mu = largest_mu(1.0, DELTA)
    assert 0 <= 1.0 - epsilon([Event(1 / mu, 1.0, 1)], DELTA) < 1e-6
    study = films(patient_mu=mu, noise_multiplier=4.0)
    assert cost(study).epsilon_local == pytest.approx(1.0)
    assert check_policy(study) is not None
    assert cost(films(noise_multiplier=4.0, epsilon=99.0)).epsilon_local > 8


def test_a_study_without_a_filter_is_written_as_ever_and_a_filter_wants_what_it_is_proven_for() -> None:
    assert "patient_mu" not in films().model_dump(mode="json")["privacy"]
    for wrong in (
        {"sample_rate": 0.5},
        {"clipping": "unit"},
        {"noise": "discrete"},
        {"patient_mu": 0.0},
        {"patient_mu": math.inf},
    ):
        with pytest.raises(ValidationError, match="patient_mu"):
            films(**({"patient_mu": 1.0} | wrong))


def filtered(plan: str = "p", *, mu: float = 1.0, cap: float = 5.0, sharers: int = 1) -> Entry:
    return promise("d", plan, Split.TRAIN, [WHOLE], delta=DELTA, cap=cap, sharers=sharers, patient_mu=mu)


def charged(rows: tuple[Row, ...], plan: str = "p", *, number: int = 1) -> tuple[tuple[Row, ...], Entry]:
    entry = ledger.next_charge(rows, plan=plan, split=Split.TRAIN, round_number=number, attempt=1, event=STEP)
    for state in (State.RESERVED, State.RUNNING, State.RELEASED):
        entry = replace(entry, state=state)
        rows = ledger.append(rows, entry)
    return rows, entry


def test_the_ledger_shows_the_budget_and_what_was_used_is_noted_once_of_a_released_charge() -> None:
    rows = ledger.append((), filtered())
    assert ledger.committed(rows, "d", DELTA) == epsilon([Event(1.0, 1.0, 1)], DELTA)
    rows, entry = charged(rows)
    before = ledger.spent(rows, "d", DELTA)
    assert before == epsilon([STEP], DELTA)
    used = replace(entry, state=State.USED, dataset="use:" + "0" * 64)
    for wrong in (replace(used, charge=2), replace(used, round=3), replace(used, patient_mu=None)):
        with pytest.raises(BadTransition):
            ledger.append(rows, wrong)
    assert unsettled(rows, "p") == (STEP,)
    noted = ledger.append(rows, used)
    assert unsettled(noted, "p", since=1) == ()
    with pytest.raises(BadTransition):
        ledger.append(noted, used)
    assert ledger.spent(noted, "d", DELTA) == before  # what single patients used is shown nowhere
    ledger.verify(noted)
    assert [parse_row(row.as_dict(), number=row.number) for row in noted] == list(noted)
    for number in range(2, 9):
        noted, _ = charged(noted, number=number)
    assert ledger.spent(noted, "d", DELTA) == ledger.committed(noted, "d", DELTA)


def test_rows_of_plans_without_a_filter_are_what_they_were() -> None:
    rows = ledger.append((), promise("d", "p", Split.TRAIN, [WHOLE], delta=DELTA, cap=8.0))
    assert "patient_mu" not in rows[0].as_dict()
    rows, entry = charged(rows)
    with pytest.raises(BadTransition):
        ledger.append(rows, replace(entry, state=State.USED, dataset="use:" + "0" * 64))


def test_a_second_plan_with_a_filter_is_admitted_by_its_own_price_and_takes_what_the_first_left() -> None:
    account = MU["d"]
    whole = largest_mu(5.0, DELTA) ** 2
    rows = ledger.append((), filtered(mu=1.0))
    second = filtered("q", mu=1.0)
    assert ledger.admit(rows, second) == epsilon([Event(1.0, 1.0, 1)], DELTA) <= 5.0
    both = ledger.append(rows, second)
    assert ledger.committed(both, "d", DELTA) <= 5.0
    assert left_of_cap(both, account, delta=1.0) == pytest.approx(whole)
    plain = promise("d", "r", Split.TRAIN, [WHOLE], delta=DELTA, cap=5.0)
    with pytest.raises(BudgetExceeded):  # without a filter the promises count in full
        ledger.admit(both, plain)
    dear = ledger.append((), replace(plain, cap=99.0))
    with pytest.raises(BudgetExceeded):  # and a promise without a filter is never taken back
        ledger.admit(dear, second)
    assert left_of_cap(dear, account, delta=1.0) == pytest.approx(largest_mu(99.0, DELTA) ** 2 - 2.0)


def test_beside_sampled_schedules_every_promise_counts_in_full() -> None:
    sampled = promise("d", "s", Split.TRAIN, [Event(9.0, 0.5, 10)], delta=DELTA, cap=5.0)
    rows = ledger.append(ledger.append((), sampled), filtered(mu=1.0))
    with pytest.raises(BudgetExceeded):
        ledger.admit(rows, filtered("q", mu=1.0))
    assert left_of_cap(rows, MU["d"], delta=1.0) == math.inf


def test_what_rounding_may_show_of_whoever_adds_nothing_is_kept_back() -> None:
    assert reserve([WHOLE]) == pytest.approx(8 * (SLACK / 2) ** 2)


def films(**privacy: Any) -> Study:
    noise = {
        "kind": "local",
        "clip_norm": 0.3,
        "noise_multiplier": 8.0,
        "evaluation_multiplier": 9.0,
        "epsilon": 8.0,
    }
    training = {"rounds": 10, "local_steps": 10, "learning_rate": 1.0}
    return four_weights(noise | privacy, training=training)
