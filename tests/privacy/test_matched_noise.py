"""Matched noise: the price of equal noise to the last digit, and less of it in the final model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from four_weights import four_weights
from medveil.study import Study, Training
from medveil_imaging.recipes import RECIPES, REGRESSION
from privacy.dp import matched
from privacy.dp.accounting import calibrate, epsilon
from privacy.dp.matched import Course, UnmatchedNoise, course_of, gain, round_weights
from privacy.dp.policy import Split, check_policy, cost, round_event, round_policy, study_events
from tries import tries

NOISE: dict[str, Any] = {
    "kind": "local", "clip_norm": 0.3, "noise_multiplier": 4.0, "evaluation_multiplier": 2.0, "epsilon": 50.0,
    "matched": True,
}  # fmt: skip
LARGE: dict[str, Any] = {
    "name": "wavelet_head", "tensors": [{"name": "w", "shape": [64, 64]}], "initial_model": "0" * 64
}  # fmt: skip
SGD: dict[str, Any] = {"rounds": 8, "local_steps": 3, "learning_rate": 2.0, "schedule": "linear"}


def study(**changes: Any) -> Study:
    return four_weights(**{"privacy": NOISE, "training": SGD} | changes)


def noises(chosen: Study) -> list[float]:
    rounds = range(1, chosen.training.rounds + 1)
    return [round_policy(chosen, number).noise_multiplier for number in rounds]


def test_two_rounds_by_hand() -> None:
    """Rates 1 and 1/2: noise 4 sqrt(.75 / 1), 4 sqrt(.75 / .5), upwards; deviation sqrt(2 * 1.25) / 1.5."""
    chosen = study(training={"rounds": 2, "local_steps": 1, "learning_rate": 1.0, "schedule": "linear"})
    assert noises(chosen) == [3.465, 4.899]
    assert sum(1 / noise**2 for noise in noises(chosen)) <= 2 / 4.0**2
    assert gain(course_of(chosen)) == pytest.approx(1.0541, abs=1e-4)


@given(st.lists(st.floats(0.2, 5), min_size=8, max_size=8))
@settings(max_examples=tries(40), deadline=None)
def test_no_other_noise_of_this_price_leaves_less_in_the_final_model(factors: list[float]) -> None:
    weights = np.array(round_weights(course_of(study())))
    own = np.array(noises(study()))
    other = np.array(factors) * own
    other *= math.sqrt(np.sum(1 / other**2) / np.sum(1 / own**2))
    assert np.sum((weights * own) ** 2) <= np.sum((weights * other) ** 2) * (1 + 1e-3)


@pytest.mark.parametrize("price", [8.0, 3.0, 1.0])
def test_no_shipped_schedule_costs_more_than_with_equal_noise_or_noticeably_less(price: float) -> None:
    gains = {}
    for shelf in (RECIPES, REGRESSION):
        for (model, kind), (_, rounds, make) in shelf.items():
            if kind == "none":
                continue
            made = make(rounds)
            steps = made.training.local_steps or 0
            noise = calibrate(price, 1e-5, sample_rate=1.0, steps=rounds * steps)
            chosen = study(
                training=made.training, strategy=made.strategy, privacy=NOISE | {"noise_multiplier": noise}
            )
            spent = epsilon(study_events(chosen)[Split.TRAIN], 1e-5)
            assert price * 0.9995 < spent <= price
            gains[model, kind] = gain(course_of(chosen))
    assert gains["wavelet_head", "local"] == pytest.approx(1.172, abs=2e-3)
    assert gains["wavelet_head", "joint"] == pytest.approx(1.183, abs=2e-3)
    assert gains["position_head", "joint"] == pytest.approx(1.218, abs=2e-3)


def test_an_early_end_costs_what_its_rounds_cost() -> None:
    """The first rounds of a falling rate have less noise than equal noise would: they cost more."""
    chosen = study()
    early = [round_event(chosen, Split.TRAIN, number) for number in (1, 2)]
    assert cost(chosen, rounds=2).epsilon_local == epsilon(early, 1e-5)
    even = study(privacy=NOISE | {"matched": False})
    assert cost(chosen, rounds=2).epsilon_local > cost(even, rounds=2).epsilon_local
    assert cost(chosen).epsilon_local <= cost(even).epsilon_local
    assert check_policy(chosen) == cost(chosen)


def test_every_hospital_has_its_share_of_each_rounds_joint_noise() -> None:
    joint = NOISE | {"kind": "joint", "honest_hospitals": 3}
    chosen = study(
        privacy=joint,
        training=SGD | {"local_steps": 1},
        cohort={"min_hospitals": 3, "max_hospitals": 5},
    )
    for number, noise in enumerate(noises(chosen), start=1):
        assert round_event(chosen, Split.TRAIN, number).noise_multiplier == noise / math.sqrt(3)


def test_the_rounds_of_the_mean_keep_the_equal_noise() -> None:
    chosen = study()
    chosen = chosen.model_copy(
        update={"model": chosen.model.model_copy(update={"options": {"centred": True, "mean_rounds": 2}})}
    )
    assert noises(chosen)[:2] == [4.0, 4.0]
    assert sum(1 / noise**2 for noise in noises(chosen)[2:]) <= 6 / 4.0**2


def test_a_constant_rate_without_momentum_has_equal_noise() -> None:
    assert set(noises(study(training=SGD | {"schedule": "constant"}))) == {4.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": SGD | {"optimizer": "adam"}}, "'adam' are no sum"),
        ({"strategy": {"name": "fedadam"}}, "fedadam does not add up"),
        ({"strategy": {"name": "fedprox"}}, "fedprox does not add up"),
        ({"privacy": NOISE | {"sample_rate": 0.5}}, "sample_rate = 1"),
        ({"compression": {"kind": "sparse", "share": 0.5}, "model": LARGE}, "compression"),
    ],
)
def test_noise_that_cannot_be_matched_is_named(changes: dict[str, Any], words: str) -> None:
    chosen = study(**changes)
    for asked in (check_policy, study_events, noises):
        with pytest.raises(UnmatchedNoise, match=words):
            asked(chosen)


def test_a_round_that_counts_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Training, "rate_at", lambda self, gone: 1.0 if gone < 0.8 else 0.0)
    course = Course.of(study().training, study().strategy, mean_rounds=0)
    with pytest.raises(UnmatchedNoise, match="no part in the final model"):
        matched.round_weights.__wrapped__(course)


def test_equal_noise_leaves_no_trace_in_a_study_so_that_its_hash_holds() -> None:
    even = study(privacy={key: value for key, value in NOISE.items() if key != "matched"})
    assert "matched" not in even.model_dump(mode="json")["privacy"]
    assert even == study(privacy=NOISE | {"matched": False})
    assert even.hash != study().hash
