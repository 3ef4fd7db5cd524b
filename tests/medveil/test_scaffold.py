"""SCAFFOLD in courses is the paper's algorithm in gradients, with nothing but updates on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medveil.strategies import (
    COMMON,
    STRATEGIES,
    BadStrategy,
    Courses,
    State,
    advance,
    is_steered,
    own_course,
    strategy_of,
)
from medveil.study import Study
from medveil.tensors import Float32
from world import SPEC, START, make_study

STEPS, RATE, HOSPITALS = 4, 0.1, 3
TRAINING = {"rounds": 9, "local_steps": STEPS, "learning_rate": RATE}
EQUAL = {"update_clip": 2.0, "max_weight": 100, "weights": "equal"}
SLOPES = np.linspace(0.2, 3.0, HOSPITALS * SPEC.size).reshape(HOSPITALS, SPEC.size)
LOWEST = np.sin(np.arange(HOSPITALS * SPEC.size)).reshape(HOSPITALS, SPEC.size)


def study_with(**changes: Any) -> Study:
    content = {"training": TRAINING, "strategy": {"name": "scaffold"}, "secure_aggregation": EQUAL}
    return make_study(**content | changes)


def gradient(i: int, at: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Of hospital i's loss, a bowl of its own shape with its own lowest point."""
    return SLOPES[i] * (at - LOWEST[i])


def by_the_paper(rounds: list[tuple[int, ...]], global_rate: float) -> list[np.ndarray]:  # type: ignore[type-arg]
    """Algorithm 1 with option II in float64: c and c_i are gradients, and c_i's change is sent."""
    x, c, own = np.float64(START), np.zeros(SPEC.size), np.zeros((HOSPITALS, SPEC.size))
    models = []
    for present in rounds:
        moved, changed = [], []
        for i in present:
            y = x.copy()
            for _ in range(STEPS):
                y = y - RATE * (gradient(i, y) - own[i] + c)
            after = own[i] - c + (x - y) / (STEPS * RATE)
            moved.append(y - x)
            changed.append(after - own[i])
            own[i] = after
        x = x + global_rate * np.mean(moved, axis=0)
        c = c + len(present) / HOSPITALS * np.mean(changed, axis=0)
        models.append(x)
    return models


def here(study: Study, rounds: list[tuple[int, ...]]) -> tuple[list[Float32], State, list[Float32]]:
    """The same with what a node and the aggregator call; models, last state, own courses."""
    strategy = strategy_of(study)
    model, state = START, State()
    own, models = [np.zeros(SPEC.size, np.float32) for _ in range(HOSPITALS)], []
    for number, present in enumerate(rounds, 1):
        common, updates = state.get(COMMON, np.zeros_like(START)), []
        for i in present:
            y = model
            for _ in range(STEPS):
                y = np.float32(y - RATE * gradient(i, y))
                y = strategy.steered(y, own[i], common, STEPS)  # type: ignore[attr-defined]
            updates.append(y - model)
            own[i] = own_course(study, Courses(common=common, own=own[i]), updates[-1])
        mean = np.mean(updates, axis=0, dtype=np.float32)
        share = len(present) / HOSPITALS
        model, state = advance(study, model, mean, state, number=number, present=share)
        models.append(model)
    return models, state, own


EVERYBODY = (0, 1, 2)
DROPOUTS = [EVERYBODY, (0, 2), EVERYBODY, (1, 2), (0, 1), EVERYBODY]


@pytest.mark.parametrize("rounds", [[EVERYBODY] * 5, DROPOUTS], ids=["everybody", "dropouts"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_the_models_are_those_of_the_papers_algorithm(rounds: list[tuple[int, ...]], rate: float) -> None:
    study = study_with(strategy={"name": "scaffold", "options": {"rate": rate}})
    models, _, _ = here(study, rounds)
    assert np.allclose(models, by_the_paper(rounds, rate), atol=1e-5)


def test_the_common_course_stays_the_mean_of_all_own_ones_also_of_absent_hospitals() -> None:
    _, state, own = here(study_with(), DROPOUTS)
    assert np.allclose(state[COMMON], np.mean(own, axis=0), atol=1e-6)


def test_unlike_hospitals_meet_at_the_lowest_point_of_the_mean_loss_where_averaging_does_not() -> None:
    lowest = (SLOPES * LOWEST).sum(0) / SLOPES.sum(0)
    scaffold = here(study_with(), [EVERYBODY] * 60)[0][-1]
    model = START
    for _ in range(60):
        ends = []
        for i in EVERYBODY:
            y = np.float64(model)
            for _ in range(STEPS):
                y = y - RATE * gradient(i, y)
            ends.append(y)
        model = np.mean(ends, axis=0)
    assert np.abs(scaffold - lowest).max() < 0.003
    assert np.abs(model - lowest).max() > 0.02


def test_by_hand() -> None:
    """Two of three hospitals are in the sum. Common 3, mean update 6: up by 2/3 of 3."""
    scaffold = STRATEGIES["scaffold"]({"rate": 0.5})
    common, update = np.float32([3.0]), np.float32([6.0])
    assert scaffold.step(np.float32([1.0]), update, {}) == (np.float32([4.0]), {})
    after = scaffold.common_after(common, update, np.float32([2 / 3]))  # type: ignore[attr-defined]
    assert np.allclose(after, [5.0])
    own = scaffold.own_after(np.float32([1.0]), common, np.float32([8.0]))  # type: ignore[attr-defined]
    assert np.array_equal(own, [6.0])  # 1 + (8 - 3)
    steered = scaffold.steered(np.float32([10.0]), np.float32([1.0]), common, 4)  # type: ignore[attr-defined]
    assert np.array_equal(steered, [10.5])  # 10 + (3 - 1) / 4
    assert steered.dtype == np.float32


def test_no_course_is_kept_of_a_round_that_releases_a_mean() -> None:
    model = make_study().model.model_copy(update={"options": {"centred": True}})
    study = study_with(model=model.model_dump())
    _, state = advance(study, START, START, {}, number=1)
    assert state == {}
    assert not is_steered(study, 1)
    _, state = advance(study, START, START, state, number=2)
    assert state.keys() == {COMMON}
    assert is_steered(study, 2)
    assert not is_steered(make_study(), 2)


NOISE = {"clip_norm": 1.0, "noise_multiplier": 5.0, "evaluation_multiplier": 5.0, "epsilon": 9.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"secure_aggregation": EQUAL | {"weights": "declared"}}, "weights = 'equal'"),
        ({"training": TRAINING | {"schedule": "linear"}}, "schedule = constant and not linear"),
        ({"compression": {"kind": "sparse", "share": 0.5}}, "whole updates"),
        ({"training": TRAINING | {"momentum": 0.5}}, "momentum = 0.0"),
        ({"training": TRAINING | {"optimizer": "adam"}}, "optimizer = sgd"),
        ({"training": {"rounds": 3, "local_epochs": 1, "learning_rate": 0.1}}, "local_epochs = None"),
        (
            {
                "privacy": NOISE | {"kind": "joint", "honest_hospitals": 3},
                "training": TRAINING | {"local_steps": 1},
                "secure_aggregation": EQUAL | {"weights": "declared"},
            },
            "scaffold",
        ),
    ],
)
def test_a_study_in_which_courses_would_not_add_up_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadStrategy, match=said):
        strategy_of(study_with(**changes))


def test_local_noise_is_taken() -> None:
    study = study_with(privacy=NOISE | {"kind": "local"}, evaluation={"every_round": False})
    assert strategy_of(study) is not None
