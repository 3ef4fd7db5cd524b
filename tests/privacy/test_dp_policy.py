"""Policies: a plan that names less than it costs is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from four_weights import four_weights
from medveil.bounds import STORED
from medveil.study import Study
from privacy.dp.accounting import Event, calibrate, epsilon
from privacy.dp.policy import (
    NotPrivate,
    Split,
    UnderstatedEpsilon,
    check_policy,
    cost,
    round_event,
    study_events,
)


def local(**changes: float) -> dict[str, Any]:
    return {
        "kind": "local",
        "clip_norm": 0.3,
        "noise_multiplier": 3.288,
        "evaluation_multiplier": 2.0,
        "epsilon": 8.0,
    } | changes


def test_an_honest_plan_passes_and_both_epsilons_are_equal() -> None:
    found = check_policy(four_weights(local()))
    assert found is not None
    assert found.epsilon_local == found.epsilon_joint == pytest.approx(8.0, abs=0.01)


def test_a_plan_that_understates_epsilon_is_refused() -> None:
    with pytest.raises(UnderstatedEpsilon) as caught:
        check_policy(four_weights(local(epsilon=4.0)))
    assert caught.value.code == "understated-epsilon"
    with pytest.raises(UnderstatedEpsilon):
        check_policy(four_weights(local(epsilon=7.9)))


def test_nothing_is_rounded_down_and_what_the_refusal_says_may_be_stated() -> None:
    computed = cost(four_weights(local())).epsilon_joint
    assert check_policy(four_weights(local(epsilon=computed))) is not None
    with pytest.raises(UnderstatedEpsilon, match=r"costs \d+\.\d+\.") as caught:
        check_policy(four_weights(local(epsilon=computed * (1 - 1e-6))))
    told = float(caught.value.what.rstrip(".").split()[-1])
    assert check_policy(four_weights(local(epsilon=told))) is not None
    assert told - computed <= 1e-4


@pytest.mark.parametrize("steps", [1, 7, 30, 200])
@pytest.mark.parametrize("epsilon_of", [0.3, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("sharers", [2, 3, 4, 7])
def test_what_calibration_finds_is_never_an_understatement(
    steps: int, epsilon_of: float, sharers: int
) -> None:
    """Also through the square roots of a share and of the validation rounds."""
    noise = calibrate(epsilon_of, 1e-5, sample_rate=1.0, steps=steps)
    final = calibrate(epsilon_of, 1e-5, sample_rate=1.0, steps=1)
    content = joint_study().model_dump() | {
        "training": {"rounds": steps, "local_steps": 1, "learning_rate": 1.0},
        "cohort": {"min_hospitals": 8},
        "privacy": joint(
            epsilon=epsilon_of,
            noise_multiplier=noise,
            evaluation_multiplier=final,
            honest_hospitals=sharers,
        ),
    }
    assert check_policy(Study.model_validate(content)) is not None


def test_the_cost_can_be_counted_at_another_delta() -> None:
    """The attack: a schedule that is 9.32 at delta .0099 and 14.7 where deltas mean something."""
    content = four_weights(local()).model_dump() | {
        "training": {"rounds": 20, "local_steps": 10, "learning_rate": 1.0},
        "privacy": local(noise_multiplier=5.2, delta=0.0099, epsilon=9.4, evaluation_multiplier=5.0),
    }
    with pytest.raises(ValidationError, match=r"privacy.delta must not exceed 0\.001"):
        Study.model_validate(content)
    loose = Study.model_validate(content, context=STORED)
    assert check_policy(loose) is not None
    assert cost(loose).epsilon_local == pytest.approx(9.32, abs=0.01)
    assert cost(loose, delta=1e-5).epsilon_local == pytest.approx(14.7, abs=0.05)


def test_a_smaller_delta_costs_more_so_it_cannot_hide_an_understatement() -> None:
    with pytest.raises(UnderstatedEpsilon):
        check_policy(four_weights(local(delta=1e-7)))


def test_a_round_is_its_local_steps_and_a_study_is_all_of_them() -> None:
    assert round_event(four_weights(local()), Split.TRAIN, 1) == Event(3.288, 1.0, 3)
    assert study_events(four_weights(local()))[Split.TRAIN] == (Event(3.288, 1.0, 30),)
    assert cost(four_weights(local()), rounds=5).epsilon_local < cost(four_weights(local())).epsilon_local


def test_a_study_without_privacy_has_no_cost_and_no_events() -> None:
    assert check_policy(four_weights({"kind": "none"})) is None
    with pytest.raises(NotPrivate):
        round_event(four_weights({"kind": "none"}), Split.TRAIN, 1)


def joint(**changes: float) -> dict[str, Any]:
    noise = {
        "kind": "joint",
        "clip_norm": 0.3,
        "noise_multiplier": 3.288,
        "evaluation_multiplier": 2.0,
        "epsilon": 8.0,
    }
    return noise | {"honest_hospitals": 3} | changes


def joint_study(**changes: float) -> Study:
    one_step = {"rounds": 30, "local_steps": 1, "learning_rate": 1.0}
    return Study.model_validate(
        four_weights(local()).model_dump() | {"privacy": joint(**changes), "training": one_step}
    )


def test_joint_noise_states_the_epsilon_of_the_sum_and_shows_that_of_one_hospital() -> None:
    found = check_policy(joint_study())
    assert found is not None
    assert found.epsilon_joint == pytest.approx(8.0, abs=0.01)
    alone = epsilon([Event(3.288 / 3**0.5, 1.0, 30)], 1e-5)
    assert found.epsilon_local == pytest.approx(alone)
    assert found.epsilon_local > 1.5 * found.epsilon_joint


def test_a_joint_plan_that_understates_the_epsilon_of_the_sum_is_refused() -> None:
    with pytest.raises(UnderstatedEpsilon):
        check_policy(joint_study(epsilon=7.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"training": {"rounds": 30, "local_steps": 2, "learning_rate": 1.0}},
        {"training": {"rounds": 30, "local_steps": 1, "learning_rate": 1.0, "momentum": 0.9}},
        {"training": {"rounds": 30, "local_steps": 1, "learning_rate": 1.0, "optimizer": "adam"}},
        {"privacy": joint(honest_hospitals=4)},
        {"cohort": {"min_hospitals": 3, "max_hospitals": 5}, "privacy": joint(honest_hospitals=4)},
    ],
)
def test_noise_that_would_not_add_up_is_no_study(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"joint noise|honest_hospitals"):
        Study.model_validate(joint_study().model_dump() | wrong)


def test_a_study_names_what_it_releases_about_each_split() -> None:
    """A validation round has sqrt(rounds) times the noise: all ten cost what the final evaluation costs."""
    found = study_events(four_weights(local()))
    assert found[Split.TEST] == (Event(2.0, 1.0, 1),)
    assert found[Split.VAL] == (Event(2.0 * 10**0.5, 1.0, 10),)
    assert epsilon(found[Split.VAL], 1e-5) == pytest.approx(epsilon(found[Split.TEST], 1e-5))
    final_only = Study.model_validate(
        four_weights(local()).model_dump() | {"evaluation": {"every_round": False}}
    )
    assert set(study_events(final_only)) == {Split.TRAIN, Split.TEST}
    assert set(study_events(final_only, rounds=3)) == {Split.TRAIN}


def test_a_study_costs_the_dearest_split_and_an_understated_evaluation_is_refused() -> None:
    assert cost(four_weights(local())).epsilon_local == epsilon([Event(3.288, 1.0, 30)], 1e-5)
    dear = four_weights(local(evaluation_multiplier=0.5))
    assert cost(dear).epsilon_local == epsilon([Event(0.5, 1.0, 1)], 1e-5) > 8.1
    with pytest.raises(UnderstatedEpsilon):
        check_policy(dear)


def test_under_joint_noise_a_hospital_has_its_share_of_the_evaluation_noise() -> None:
    found = study_events(joint_study())
    assert found[Split.TEST] == (Event(2.0 / 3**0.5, 1.0, 1),)
    with pytest.raises(UnderstatedEpsilon):
        check_policy(joint_study(evaluation_multiplier=0.5))
