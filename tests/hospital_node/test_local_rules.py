"""A strategy's word in local steps is obeyed after each, and under noise it works on released steps only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hospital_node.training import TrainingRound, self_check, train
from hospital_node.training.unbooked import unbooked_charge
from medveil.strategies import STRATEGIES, BadStrategy, Courses, LocalHalf, strategy_of
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.models import ModelShape, build_model, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from tries import leading

CPU = torch.device("cpu")
SIZE, STEPS, RATE = (16, 16), 5, 0.5
OPTIONS = {"scales": 1, "grid": 4}
LOCAL = {
    "kind": "local",
    "clip_norm": 0.5,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 50.0,
}
JOINT = LOCAL | {"kind": "joint", "honest_hospitals": 3}
TRAINING = {"rounds": 4, "local_steps": STEPS, "learning_rate": RATE}
STEERED: dict[str, Any] = {
    "strategy": {"name": "scaffold"},
    "secure_aggregation": {"update_clip": 100.0, "max_weight": 100, "weights": "equal"},
}
PROX = {"name": "fedprox", "options": {"pull": 0.8}}
HALVES = [name for name in STRATEGIES if isinstance(STRATEGIES[name]({}), LocalHalf)]


def make(model: str = "wavelet_head", **changes: Any) -> tuple[Study, Float32]:
    classes, options = ("normal", "abnormal"), OPTIONS if model == "wavelet_head" else {}
    shape = ModelShape(SIZE, outputs_for("classification", classes))
    spec, vector = initial_vector(model, shape, options, seed=1)
    content: dict[str, Any] = {
        "name": "prox",
        "task": "classification",
        "classes": classes,
        "model": {"name": model, "options": options, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {"profile": "xray", "size": SIZE},
        "training": TRAINING,
        "privacy": {"kind": "none"},
        "strategy": PROX,
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    return Study.model_validate(content | changes), vector


def patients(count: int = 4) -> tuple[PatientImages, ...]:
    g = torch.Generator().manual_seed(0)
    return tuple(
        PatientImages(f"p{i}", torch.randn(1, 1, *SIZE, generator=g), torch.tensor([i % 2]))
        for i in range(count)
    )


def trained(study: Study, vector: Float32, noise: NoiseSource | None = None, count: int = 4) -> Float32:
    private = study.privacy.kind != "none"
    charge = unbooked_charge(study, round_number=1, split=Split.TRAIN) if private else None
    given = TrainingRound(
        study,
        vector,
        patients(count),
        number=1,
        declared_patients=10,
        noise=noise,
        charge=charge,
        device=CPU,
    )
    return train(given).values


@pytest.fixture
def gradients() -> Iterator[list[torch.Tensor]]:
    """What each step of a base optimiser is taken with: under noise, the released sums."""
    seen: list[torch.Tensor] = []

    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        seen.append(torch.cat([w.grad.flatten() for w in optimizer.param_groups[0]["params"]]))

    handle = register_optimizer_step_pre_hook(before_step)
    yield seen
    handle.remove()


def by_hand(vector: Float32, gradients: list[torch.Tensor], pull: float) -> Float32:
    """SGD and the pull, written out in NumPy."""
    weights = vector
    for gradient in gradients:
        stepped = weights - np.float32(RATE) * gradient.numpy()
        weights = vector + (stepped - vector) / np.float32(1 + RATE * pull)
    return weights - vector


@pytest.mark.parametrize("private", [False, True])
def test_an_update_is_what_the_rule_makes_of_the_steps(gradients: list[torch.Tensor], private: bool) -> None:
    """Under noise the gradients written down here are the released sums, and nothing else enters."""
    study, vector = make(**({"privacy": LOCAL} if private else {}))
    if private:
        self_check(study, build_model(study))
    gradients.clear()
    found = trained(study, vector, NoiseSource(bytes(32)))
    steps = gradients[-STEPS:]
    assert np.allclose(found, by_hand(vector, steps, 0.8), atol=1e-6)
    assert not np.allclose(found, by_hand(vector, steps, 0.0), atol=1e-3)


def test_the_rule_comes_after_the_noise_of_its_step_and_sees_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, vector = make(privacy=LOCAL)
    self_check(study, build_model(study))
    order: list[str] = []
    real = STRATEGIES["fedprox"]

    class Watched(real):  # type: ignore[misc, valid-type]
        def local(self, weights: Any, start: Any, rate: float) -> Any:
            assert weights.shape == start.shape
            assert weights.grad is None
            assert not any(hasattr(weights, name) for name in ("grad_sample", "summed_grad"))
            order.append("rule")
            return super().local(weights, start, rate)

    class Source(NoiseSource):
        def gaussian(self, size: int, scale: float) -> Any:
            order.append("noise")
            return super().gaussian(size, scale)

    monkeypatch.setitem(STRATEGIES._entries, "fedprox", Watched)
    trained(study, vector, Source(bytes(32)))
    assert order == ["noise", "rule"] * STEPS


@pytest.mark.parametrize("model", leading(["wavelet_head", "small_cnn"], 1))
@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_self_check_walks_through_every_local_half(name: str, model: str, optimizer: str) -> None:
    """Among its facts: what leaves is made of noised sums and of nothing else about the patients."""
    study, _ = make(
        model,
        privacy=LOCAL | {"sample_rate": 0.5},
        training=TRAINING | {"optimizer": optimizer},
        strategy={"name": name},
    )
    self_check(study, build_model(study))


@pytest.mark.parametrize("name", HALVES)
def test_a_rule_needs_no_library_and_gives_tensors_what_it_gives_arrays(name: str) -> None:
    rule = STRATEGIES[name]({}).local  # type: ignore[attr-defined]
    weights, start = np.linspace(-2, 3, 7, dtype=np.float32), np.linspace(1, -1, 7, dtype=np.float32)
    moved = rule(weights, start, 0.25)
    assert moved.dtype == np.float32
    assert torch.equal(
        rule(torch.from_numpy(weights), torch.from_numpy(start), 0.25), torch.from_numpy(moved)
    )
    assert np.array_equal(weights, np.linspace(-2, 3, 7, dtype=np.float32))


def test_no_rate_and_no_pull_make_it_overshoot() -> None:
    rule = STRATEGIES["fedprox"]({"pull": 100.0}).local  # type: ignore[attr-defined]
    weights, start = np.float32([5.0]), np.float32([1.0])
    assert 1.0 <= float(rule(weights, start, 1e6)[0]) < 1.001
    assert np.array_equal(STRATEGIES["fedprox"]({"pull": 0.0}).local(weights, start, 1e6), weights)  # type: ignore[attr-defined]


def test_a_strategy_without_a_local_half_changes_nothing_here(gradients: list[torch.Tensor]) -> None:
    study, vector = make(strategy={"name": "fedavg"})
    found = trained(study, vector)
    assert np.allclose(found, by_hand(vector, gradients, 0.0), atol=1e-6)


@pytest.mark.parametrize("name", HALVES)
def test_joint_noise_takes_no_local_half(name: str) -> None:
    """The sum of what a rule makes of single noisy steps is not what it makes of their sum."""
    study, _ = make(
        privacy=JOINT,
        training=TRAINING | {"local_steps": 1},
        strategy={"name": name},
        cohort={"min_hospitals": 3},
    )
    with pytest.raises(BadStrategy, match="joint"):
        strategy_of(study)


def test_fedsgds_step_is_on_all_images_however_many_are_in_memory_at_once(
    gradients: list[torch.Tensor],
) -> None:
    def update(batch: int) -> Float32:
        training = TRAINING | {"local_steps": 1, "batch_images": batch, "gradient_norm": 0.1}
        study, vector = make(training=training, strategy={"name": "fedsgd"})
        return trained(study, vector, count=5)

    whole, pieces = update(100), update(2)  # the same five in one piece, and as 2 + 2 + 1
    assert len(gradients) == 2
    assert np.allclose(whole, pieces, atol=1e-6)
    assert np.allclose(np.linalg.norm(whole), RATE * 0.1, atol=1e-4)  # shortened once, as a whole


@pytest.mark.parametrize("private", [False, True])
def test_each_step_is_the_optimisers_and_a_share_of_the_difference_of_the_courses(
    gradients: list[torch.Tensor], private: bool
) -> None:
    """Under noise the gradients written down are the released sums: the courses come after them."""
    study, vector = make(**STEERED | ({"privacy": LOCAL} if private else {}))
    if private:
        self_check(study, build_model(study))
    gradients.clear()
    draw = np.random.default_rng(5)
    own, common = (draw.normal(size=vector.size).astype(np.float32) for _ in range(2))
    given = TrainingRound(
        study,
        vector,
        patients(),
        number=1,
        declared_patients=10,
        noise=NoiseSource(bytes(32)) if private else None,
        charge=unbooked_charge(study, round_number=1, split=Split.TRAIN) if private else None,
        device=torch.device("cpu"),
        courses=Courses(common=common, own=own),
    )
    found = train(given).values
    expected = vector
    for gradient in gradients[-STEPS:]:
        expected = expected - np.float32(RATE) * gradient.numpy() + (common - own) / STEPS
    assert np.allclose(found, expected - vector, atol=1e-5)
