"""Policies: a plan that names less than it costs is refused."""

from __future__ import annotations

from typing import Any

import pytest

from medveil.study import Study
from privacy.dp.accounting import Event
from privacy.dp.policy import (
    NotPrivate,
    UnderstatedEpsilon,
    check_policy,
    cost,
    round_event,
    study_event,
)


def study(privacy: dict[str, Any]) -> Study:
    return Study.model_validate(
        {
            "name": "films",
            "task": "classification",
            "classes": ["normal", "abnormal"],
            "model": {
                "name": "wavelet_head",
                "tensors": [{"name": "w", "shape": [4]}],
                "initial_model": "0" * 64,
            },
            "transforms": {"profile": "xray", "size": [64, 64]},
            "training": {"rounds": 10, "local_steps": 3, "learning_rate": 1.0},
            "privacy": privacy,
            "secure_aggregation": {"update_clip": 1.0, "max_weight": 100},
        }
    )


def local(**changes: float) -> dict[str, Any]:
    return {"kind": "local", "clip_norm": 0.3, "noise_multiplier": 3.288, "epsilon": 8.0} | changes


def test_an_honest_plan_passes_and_both_epsilons_are_equal() -> None:
    found = check_policy(study(local()))
    assert found is not None
    assert found.epsilon_local == found.epsilon_joint == pytest.approx(8.0, abs=0.01)


def test_a_plan_that_understates_epsilon_is_refused() -> None:
    with pytest.raises(UnderstatedEpsilon) as caught:
        check_policy(study(local(epsilon=4.0)))
    assert caught.value.code == "understated-epsilon"
    with pytest.raises(UnderstatedEpsilon):
        check_policy(study(local(epsilon=7.9)))
    assert check_policy(study(local(epsilon=7.95))) is not None  # within one per cent


def test_a_smaller_delta_costs_more_so_it_cannot_hide_an_understatement() -> None:
    with pytest.raises(UnderstatedEpsilon):
        check_policy(study(local(delta=1e-7)))


def test_a_round_is_its_local_steps_and_a_study_is_all_of_them() -> None:
    assert round_event(study(local())) == Event(3.288, 1.0, 3)
    assert study_event(study(local())) == Event(3.288, 1.0, 30)
    assert cost(study(local()), rounds=5).epsilon_local < cost(study(local())).epsilon_local


def test_a_study_without_privacy_has_no_cost_and_no_events() -> None:
    assert check_policy(study({"kind": "none"})) is None
    with pytest.raises(NotPrivate):
        round_event(study({"kind": "none"}))
