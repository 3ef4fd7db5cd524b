"""Each strategy against its paper's formula, in numbers worked out by hand, and what it asks of a study."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medveil.strategies import STRATEGIES, BadStrategy, State, advance, strategy_of
from medveil.study import Training
from medveil.tensors import Float32
from world import START, make_study

ONE_STEP = {"rounds": 3, "local_steps": 1, "learning_rate": 1.0}


def rounds_of(name: str, updates: list[list[float]], **options: float) -> tuple[list[Float32], State]:
    """The models of every round, from zero."""
    strategy, model, state, models = STRATEGIES[name](options), np.zeros(2, np.float32), State(), []
    for update in updates:
        model, state = strategy.step(model, np.float32(update), state)
        models.append(model)
    return models, state


def test_yogis_second_moment_rises_and_falls_by_steps_of_the_squares_own_size() -> None:
    """Shift 1: before 1. Squares 4 then 1; share 1/2: up 2 to 3, then down 1/2 to 5/2."""
    options = {"rate": 0.5, "momentum": 0.5, "second_momentum": 0.5, "shift": 1.0}
    models, state = rounds_of("fedyogi", [[2.0, 0.0], [1.0, 0.0]], **options)
    assert np.allclose(state["second"], [2.5, 1.0])  # no update, no change
    assert np.allclose(state["first"], [1.0, 0.0])  # 1/2 of 2, then the mean of 1 and 1
    first = 0.5 * 1.0 / (np.sqrt(3.0) + 1)
    assert np.allclose(models[0], [first, 0.0])
    assert np.allclose(models[1], [first + 0.5 * 1.0 / (np.sqrt(2.5) + 1), 0.0])


def test_yogi_forgets_a_large_update_more_slowly_than_adam() -> None:
    updates = [[8.0, 8.0]] + [[0.1, 0.1]] * 30
    _, yogi = rounds_of("fedyogi", updates)
    _, adam = rounds_of("fedadam", updates)
    assert (yogi["second"] > 1.3 * adam["second"]).all()


def test_adagrad_divides_by_the_root_of_all_squares_so_far() -> None:
    """Shift 1 and no momentum: 3 / (sqrt(1 + 9) + 1), then 4 / (sqrt(1 + 9 + 16) + 1)."""
    models, state = rounds_of("fedadagrad", [[3.0, 0.0], [4.0, 0.0]], rate=1.0, shift=1.0)
    assert np.allclose(state["squares"], [26.0, 1.0])
    assert np.allclose(models[1], [3 / (np.sqrt(10) + 1) + 4 / (np.sqrt(26) + 1), 0.0])


def test_adagrad_may_have_momentum() -> None:
    _, state = rounds_of("fedadagrad", [[4.0, 0.0], [2.0, 0.0]], momentum=0.75)
    assert np.allclose(state["first"], [0.75 * 1.0 + 0.25 * 2.0, 0.0])


def test_fedsgd_takes_the_mean_of_the_steps_as_it_is() -> None:
    models, state = rounds_of("fedsgd", [[-0.5, 0.25], [0.5, 0.0]])
    assert np.array_equal(models, np.float32([[-0.5, 0.25], [0.0, 0.25]]))
    assert state == {}


def test_reptile_goes_part_of_the_way_and_less_in_every_round() -> None:
    models, _ = rounds_of("reptile", [[4.0, 0.0], [4.0, 8.0], [0.0, 16.0]], rate=0.5, decay=0.5)
    assert np.array_equal(models, np.float32([[2.0, 0.0], [3.0, 2.0], [3.0, 4.0]]))


def test_reptile_at_rate_one_that_does_not_fall_is_the_mean() -> None:
    updates = [[4.0, -1.0], [0.5, 8.0]]
    reptile, _ = rounds_of("reptile", updates, rate=1.0, decay=1.0)
    fedavg, _ = rounds_of("fedavg", updates)
    assert np.array_equal(reptile, fedavg)


def test_a_strategy_whose_study_suits_it_makes_models() -> None:
    study = make_study(training=ONE_STEP, strategy={"name": "fedsgd"})
    model, _ = advance(study, START, np.float32(np.ones_like(START)), {}, number=1)
    assert np.array_equal(model, START + 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": ONE_STEP | {"local_steps": 5}}, "local_steps = 1 and not 5"),
        (
            {"training": {"rounds": 3, "local_epochs": 1, "learning_rate": 1.0}},
            "local_epochs = None and not 1",
        ),
        ({"training": ONE_STEP | {"momentum": 0.9}}, "momentum = 0.0 and not 0.9"),
        ({"training": ONE_STEP | {"optimizer": "adam"}}, "optimizer = sgd and not adam"),
        ({"training": ONE_STEP, "privacy": {"sample_rate": 0.5}}, "every patient"),
    ],
)
def test_fedsgd_refuses_any_round_but_one_plain_step_on_everybody(changes: dict[str, Any], said: str) -> None:
    noise = {"kind": "local", "clip_norm": 1.0, "noise_multiplier": 1.0, "epsilon": 50.0}
    noise |= {"evaluation_multiplier": 1.0, "images_per_patient": 1}
    if "privacy" in changes:
        changes = changes | {"privacy": noise | changes["privacy"]}
    with pytest.raises(BadStrategy, match=said):
        strategy_of(make_study(strategy={"name": "fedsgd"}, **changes))


def test_reptile_refuses_a_mean_in_which_large_hospitals_count_for_more() -> None:
    with pytest.raises(BadStrategy, match="weights = 'equal' and not 'declared'"):
        strategy_of(make_study(strategy={"name": "reptile"}))


def test_training_that_suits_a_strategy_is_left_alone_and_other_training_becomes_plain_steps() -> None:
    plain = Training(rounds=3, local_steps=1, learning_rate=2.0)
    adam = Training(rounds=3, local_epochs=2, learning_rate=1e-3, optimizer="adamw", weight_decay=0.1)
    fedsgd = STRATEGIES["fedsgd"]({})
    assert fedsgd.suited(plain) == plain  # type: ignore[attr-defined]
    suited = fedsgd.suited(adam)  # type: ignore[attr-defined]
    assert (suited.optimizer, suited.local_steps, suited.local_epochs) == ("sgd", 1, None)
    assert suited.learning_rate > 10 * adam.learning_rate  # adam's says nothing to sgd
    assert suited == fedsgd.suited(suited)  # type: ignore[attr-defined]
