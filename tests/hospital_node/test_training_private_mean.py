"""The private-mean round: its release, its price, and that nothing else of training touches the mean."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from hospital_node.ledger import Charge, Ledger
from hospital_node.training import NotSafe, TrainingRound, checks, mean, train
from hospital_node.training.checks import self_check
from hospital_node.training.features import with_features
from medveil.noise_policies import JointNoise
from medveil.strategies import advance
from medveil.study import CENTRE, Study
from medveil.tensors import Float32, unflatten
from medveil_imaging.models import ModelShape, build_model, initial_vector
from medveil_imaging.patients import PatientImages
from privacy.dp.accounting import Event, epsilon
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split, mean_policy, round_event

CPU = torch.device("cpu")
SIZE, OPTIONS = (16, 16), {"scales": 1, "grid": 4, "centred": True}
WIDTH = 7 * 16
NOISE = {
    "kind": "local",
    "clip_norm": 0.3,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 90.0,
}


def make_study(**changes: Any) -> tuple[Study, Float32]:
    spec, vector = initial_vector("wavelet_head", ModelShape(SIZE, 1), OPTIONS, seed=0)
    content: dict[str, Any] = {
        "name": "centred",
        "task": "classification",
        "classes": ("normal", "abnormal"),
        "model": {
            "name": "wavelet_head",
            "options": OPTIONS,
            "tensors": spec,
            "initial_model": "0" * 64,
        },
        "transforms": {"profile": "xray", "size": SIZE},
        "training": {"rounds": 4, "local_steps": 9, "learning_rate": 1.0},
        "privacy": NOISE,
        "secure_aggregation": {"update_clip": 1000.0, "max_weight": 100},
        "strategy": {"name": "fedavgm", "options": {"momentum": 0.9}, "average": 0.5},
    }
    return Study.model_validate(content | changes), vector


def films(count: int, *, flip: bool = False) -> tuple[PatientImages, ...]:
    """Patients with one to three films."""
    g = torch.Generator().manual_seed(0)
    return tuple(
        PatientImages(
            f"p{i}", torch.randn(1 + i % 3, 1, *SIZE, generator=g), torch.full((1 + i % 3,), (i + flip) % 2)
        )
        for i in range(count)
    )


def update(
    folder: Path,
    study: Study,
    vector: Float32,
    patients: Any,
    *,
    number: int = 1,
    key: int = 7,
    declared: int = 10,
) -> dict[str, Float32]:
    """What one hospital sends, by tensor."""
    with Ledger.open(folder / "ledger.jsonl") as ledger:
        ledger.register(study, plan_id="p", dataset="d", cap=100.0)
        charge: Charge = ledger.charge(study, plan_id="p", round_number=number, attempt=1)
        given = TrainingRound(
            study,
            vector,
            patients,
            number=number,
            declared_patients=declared,
            noise=NoiseSource(bytes([key]) * 32),
            charge=charge,
            device=CPU,
        )
        found = train(given)
        charge.end()
    return unflatten(found.values, study.model.tensors)


def test_the_first_round_releases_the_mean_over_patients_of_their_mean_features(tmp_path: Path) -> None:
    study, vector = make_study()
    patients = films(10)
    module = build_model(study)
    seen = torch.stack([module.features(p.images).mean(0)[:WIDTH] for p in patients])  # type: ignore[operator]
    found = update(tmp_path, study, vector, patients)
    off = found[CENTRE] - seen.mean(0).numpy()
    assert np.std(off) == pytest.approx(2.0 / math.sqrt(9) / 10, rel=4 / math.sqrt(2 * WIDTH))
    assert not found["head.weight"].any()
    silent, _ = make_study(privacy=NOISE | {"noise_multiplier": 1e-4, "epsilon": 1e12})
    exact = mean.noisy_mean(
        silent,
        with_features(module, patients, CPU),
        width=WIDTH,
        declared_patients=10,
        noise=NoiseSource.fresh(),
        device=CPU,
    )
    assert torch.allclose(exact, seen.mean(0), atol=2e-3)


def test_labels_have_no_part_in_the_mean(tmp_path: Path) -> None:
    study, vector = make_study()
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one = update(tmp_path / "a", study, vector, films(6))
    other = update(tmp_path / "b", study, vector, films(6, flip=True))
    assert np.array_equal(one[CENTRE], other[CENTRE])


def test_later_rounds_train_the_head_and_leave_the_mean_alone(tmp_path: Path) -> None:
    study, vector = make_study()
    vector = vector + np.float32(0.01)
    found = update(tmp_path, study, vector, films(6), number=2)
    assert not found[CENTRE].any()
    assert found["head.weight"].any()


def test_the_next_model_takes_the_mean_as_it_is_and_keeps_no_momentum_of_it() -> None:
    study, vector = make_study()
    release = np.linspace(-1, 1, len(vector), dtype=np.float32)
    centred, state = advance(study, vector, release, {}, number=1)
    assert np.array_equal(centred, vector + release)
    assert state == {}
    trained, state = advance(study, centred, np.zeros_like(vector), state, number=2)
    assert np.array_equal(trained, centred)
    plain = study.model_copy(update={"model": study.model.model_copy(update={"options": {}})})
    assert advance(plain, vector, release, {}, number=1)[1].keys() == {"velocity", "average"}


def test_several_released_means_are_averaged() -> None:
    options = OPTIONS | {"mean_rounds": 3}
    study, vector = make_study()
    study = study.model_copy(update={"model": study.model.model_copy(update={"options": options})})
    means, model, state = [0.5, -1.0, 2.0], vector, {}
    for number, released in enumerate(means, start=1):
        update = np.where(vector == vector, np.float32(released) - model, 0).astype(np.float32)
        model, state = advance(study, model, update, state, number=number)
        assert state == {}
        assert model == pytest.approx(np.full(len(model), np.mean(means[:number])), abs=1e-6)
    assert advance(study, model, np.zeros_like(model), state, number=4)[1].keys() == {"velocity", "average"}


@pytest.mark.parametrize("changes", [{}, {"augment": True}, {"augmentations": {"brightness": {}}}])
def test_without_noise_the_mean_is_exact(changes: dict[str, Any]) -> None:
    training = {"rounds": 4, "local_steps": 9, "learning_rate": 1.0} | changes
    study, vector = make_study(privacy={"kind": "none"}, training=training)
    patients = films(6)
    given = TrainingRound(
        study, vector, patients, number=1, declared_patients=10, noise=None, charge=None, device=CPU
    )
    found = unflatten(train(given).values, study.model.tensors)
    module = build_model(study)
    means = [module.features(p.images).double().mean(0) for p in patients]  # type: ignore[operator]
    assert found[CENTRE] == pytest.approx(torch.stack(means).mean(0)[:WIDTH].numpy(), abs=1e-6)
    assert not found["head.weight"].any()


def test_the_head_scores_what_is_left_of_the_features_and_keeps_its_bias() -> None:
    study, _ = make_study()
    module = build_model(study)
    head = module.get_submodule("head")
    values = torch.randn(5, WIDTH + 1)
    with torch.no_grad():
        head.get_parameter("weight").normal_()
        head.get_parameter("centre").normal_()
        expected = (values - functional.pad(head.get_parameter("centre"), (0, 1))) @ head.get_parameter(
            "weight"
        ).T
        assert torch.allclose(module(values), expected, atol=1e-5)
    assert [p.numel() for p in module.parameters() if p.requires_grad] == [WIDTH + 1]
    assert study.trained_weights == WIDTH + 1
    assert study.model.tensors.size == 2 * WIDTH + 1


@pytest.mark.parametrize("steps", [1, 20])
def test_the_mean_costs_what_any_other_round_costs(steps: int) -> None:
    study, _ = make_study(training={"rounds": 4, "local_steps": steps, "learning_rate": 1.0})
    policy = mean_policy(study)
    assert (policy.clip_norm, policy.clipping) == (1.0, "flat")
    once = epsilon([Event(policy.own_multiplier, 1.0, 1)], 1e-5)
    assert once == pytest.approx(epsilon([round_event(study, Split.TRAIN, 2)], 1e-5), rel=1e-6)


def test_under_joint_noise_each_hospital_adds_its_share_to_the_mean() -> None:
    joint = NOISE | {"kind": "joint", "honest_hospitals": 4}
    one_step = {"rounds": 4, "local_steps": 1, "learning_rate": 1.0}
    four = {"min_hospitals": 4, "max_hospitals": 5}
    study, _ = make_study(privacy=joint, training=one_step, cohort=four)
    policy = mean_policy(study)
    assert isinstance(policy, JointNoise)
    assert policy.own_multiplier == 1.0


def test_a_centred_model_passes_the_self_check() -> None:
    study, _ = make_study()
    self_check(study, build_model(study))


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (lambda scores, labels: -scores[:, 0].mean().expand(len(scores)), "loss"),
        (lambda scores, labels: -scores[:, 0] * len(scores), "loss"),
        (lambda scores, labels: -scores.sum(), "loss"),
    ],
    ids=["mean over the batch", "by the number of images", "one number"],
)
def test_a_fault_in_the_release_of_the_mean_is_found(
    monkeypatch: pytest.MonkeyPatch, fault: Any, check: str
) -> None:
    study, _ = make_study()
    monkeypatch.setattr(checks, "mean_loss", fault)
    with pytest.raises(NotSafe) as caught:
        self_check(study, build_model(study))
    assert caught.value.check == check


@pytest.mark.parametrize(
    "change",
    [
        {"privacy": NOISE | {"sample_rate": 0.5}},
        {"training": {"rounds": 1, "local_steps": 9, "learning_rate": 1.0}},
    ],
    ids=["sampled", "no round left"],
)
def test_a_mean_that_the_accounting_does_not_cover_is_no_study(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="centred"):
        make_study(**change)


@pytest.mark.parametrize("rounds", [0, -1, 4, True, 1.5, math.inf, math.nan, "1"])
def test_rounds_of_the_mean_are_a_whole_number_that_leaves_one_to_train(rounds: Any) -> None:
    study, _ = make_study()
    content = study.model_dump()
    content["model"]["options"]["mean_rounds"] = rounds
    with pytest.raises(ValidationError, match="centred"):
        Study.model_validate(content)
