"""The rounds of a study with matched noise, through the product's own optimisers and its own training."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from hospital_node.training import NotSafe, run, self_check
from hospital_node.training.unbooked import unbooked_charge
from medveil.strategies import State, advance
from medveil.study import Study, Training
from medveil_imaging.models import ModelShape, build_model, initial_vector, outputs_for
from planting import plant
from privacy.dp import matched
from privacy.dp.matched import course_of, round_weights
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split, round_policy

ROUNDS, STEPS, DECLARED = 8, 3, 10
SGD: dict[str, Any] = {"rounds": ROUNDS, "local_steps": STEPS, "learning_rate": 2.0, "schedule": "linear"}


def study(**changes: Any) -> Study:
    spec, _ = initial_vector(
        "wavelet_head",
        ModelShape((32, 32), outputs_for("classification", ("normal", "abnormal"))),
        {},
        seed=1,
    )
    content: dict[str, Any] = {
        "name": "films",
        "task": "classification",
        "classes": ["normal", "abnormal"],
        "model": {"name": "wavelet_head", "tensors": spec, "initial_model": "0" * 64},
        "transforms": {"profile": "xray", "size": [32, 32]},
        "training": SGD,
        "privacy": {
            "kind": "local",
            "clip_norm": 0.3,
            "noise_multiplier": 4.0,
            "evaluation_multiplier": 2.0,
            "epsilon": 50.0,
            "matched": True,
        },
        "secure_aggregation": {"update_clip": 1000.0, "max_weight": 100},
    }
    return Study.model_validate(content | changes)


@pytest.mark.parametrize(
    ("strategy", "training", "options"),
    [
        ({"name": "fedavg"}, {}, {}),
        ({"name": "fedavg"}, {"momentum": 0.9, "schedule": "cosine"}, {}),
        ({"name": "fedavgm", "options": {"momentum": 0.8}}, {"momentum": 0.5}, {}),
        ({"name": "fedavgm", "average": 0.7}, {}, {}),
        ({"name": "fedavgm", "average": 0.7}, {"schedule": "constant"}, {"centred": True, "mean_rounds": 3}),
    ],
)
def test_a_round_counts_what_the_optimisers_really_make_of_its_steps(
    strategy: dict[str, Any], training: dict[str, Any], options: dict[str, Any]
) -> None:
    """torch's SGD and the product's own step are given one gradient at a time."""
    chosen = study(strategy=strategy, training=SGD | training)
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update={"options": options})})
    rounds, steps = range(chosen.mean_rounds + 1, ROUNDS + 1), STEPS
    found = []
    for number in rounds:
        updates = [_update(chosen.training, number, step) for step in range(steps)]
        model, state = np.zeros(1, np.float32), State()
        for other in rounds:
            update = np.full(1, float(other == number), np.float32)
            model, state = advance(chosen, model, update, state, number=other)
        found.append(math.sqrt(sum(u * u for u in updates) / steps) * float(model[0]))
    assert np.array(found) / 2.0 == pytest.approx(round_weights(course_of(chosen)), rel=1e-5)
    assert len(found) + chosen.mean_rounds == ROUNDS


def _update(training: Training, number: int, gradient_in: int) -> float:
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=training.momentum)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = training.rate_at((number - 1 + step / STEPS) / training.rounds)
        weight.grad = torch.full((1,), float(step == gradient_in), dtype=torch.float64)
        optimizer.step()
    return -float(weight.detach())


@pytest.mark.parametrize("number", [1, ROUNDS])
def test_a_round_without_patients_is_noise_of_the_size_of_that_round(number: int) -> None:
    """By hand: steps of rate r add noise of r sigma clip / declared each, and their squares add up."""
    chosen = study()
    size = chosen.model.tensors.size
    given = run.TrainingRound(
        chosen,
        np.zeros(size, np.float32),
        (),
        number=number,
        declared_patients=DECLARED,
        noise=NoiseSource(bytes(32)),
        charge=unbooked_charge(chosen, round_number=number, split=Split.TRAIN),
        device=torch.device("cpu"),
    )
    found = run.train_unchecked(given).values
    rates = [2.0 * (1 - (number - 1 + step / STEPS) / ROUNDS) for step in range(STEPS)]
    noise = round_policy(chosen, number).noise_multiplier
    wanted = math.sqrt(sum(rate**2 for rate in rates)) * noise * 0.3 / DECLARED
    assert float(found.std()) == pytest.approx(wanted, rel=4 / math.sqrt(2 * size))
    assert (noise < 4.0) == (number == 1)


FAULTS: dict[str, tuple[Any, str, str, str]] = {
    "a round has the even noise": (
        run,
        "_train_private",
        "round_policy(given.study, given.number)",
        "given.study.privacy",
    ),
    "rounds cost more together": (
        matched,
        "multipliers",
        "matched_multipliers(policy.noise_multiplier, course)",
        "tuple(.999 * one for one in matched_multipliers(policy.noise_multiplier, course))",
    ),
    "matched without the average": (matched, "_in_final_model", "if not average", "if True"),
    "matched without the momentum of steps": (matched, "_in_update", "rate + momentum * still", "rate"),
}


def planted() -> Study:
    return study(
        training=SGD | {"momentum": 0.5, "rounds": 4},
        strategy={"name": "fedavgm", "average": 0.5},
    )


def test_without_a_fault_the_self_check_lets_matched_noise_pass() -> None:
    self_check(planted(), build_model(planted()))


@pytest.mark.parametrize("name", FAULTS)
def test_the_self_check_refuses_noise_that_is_not_what_the_plan_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build_model(planted())
    for kept in (matched.round_weights, matched.matched_multipliers):
        monkeypatch.setattr(matched, kept.__name__, lru_cache(kept.__wrapped__))
    plant(monkeypatch, *FAULTS[name])
    with pytest.raises(NotSafe) as caught:
        self_check(planted(), module)
    assert caught.value.check == "noise"
