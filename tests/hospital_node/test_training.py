"""Training and evaluation of one hospital, from the global vector to the update and the sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hospital_node.ledger import Charge, ChargeUsed, Ledger
from hospital_node.training import (
    Diverged,
    FeatureCache,
    NoCharge,
    NoiseCut,
    NotSafe,
    TrainingRound,
    checks,
    evaluate,
    run,
    train,
)
from hospital_node.training import features as features_module
from medveil.metrics import layout, summarise
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from privacy.dp.ledger import State
from privacy.dp.noise import NoiseSource

CPU = torch.device("cpu")
KEY = bytes(range(32))
SIZE = {"small_cnn": (16, 16), "wavelet_head": (32, 32), "unet3d": (16, 16, 8)}
LOCAL = {
    "kind": "local",
    "clip_norm": 0.5,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 50.0,
}


def make_study(model: str = "wavelet_head", **changes: Any) -> tuple[Study, Float32]:
    film = model != "unet3d"
    task = "classification" if film else "segmentation"
    classes = ("normal", "abnormal") if film else ("background", "front", "back")
    spec, vector = initial_vector(model, ModelShape(SIZE[model], outputs_for(task, classes)), {}, seed=3)
    content: dict[str, Any] = {
        "name": "study",
        "task": task,
        "classes": classes,
        "model": {"name": model, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {
            "profile": "xray" if film else "mri",
            "size": SIZE[model],
            "spacing_mm": () if film else (1.0, 1.0, 1.0),
        },
        "training": {"rounds": 4, "local_steps": 3, "learning_rate": 1.0},
        "privacy": {"kind": "none"},
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    return Study.model_validate(content | changes), vector


def films(count: int, *, model: str = "wavelet_head", seed: int = 0) -> tuple[PatientImages, ...]:
    """Stripes along one axis or the other in noise: easy to tell apart."""
    g = torch.Generator().manual_seed(seed)
    edge = SIZE[model][0]
    wave = torch.sin(torch.arange(edge) * 1.5).expand(edge, edge)
    patients = []
    for index in range(count):
        label, k = index % 2, 1 + index % 3
        picture = (wave if label else wave.T) + torch.randn(k, 1, edge, edge, generator=g)
        patients.append(PatientImages(f"p{index}", picture, torch.full((k,), label)))
    return tuple(patients)


def volumes(count: int) -> tuple[PatientImages, ...]:
    g = torch.Generator().manual_seed(0)
    patients = []
    for index in range(count):
        labels = torch.zeros(1 + index % 2, *SIZE["unet3d"], dtype=torch.long)
        labels[:, 4:8, 4:12, 2:6], labels[:, 8:12, 4:12, 2:6] = 1, 2
        images = labels[:, None].float() + 0.3 * torch.randn(len(labels), 1, *SIZE["unet3d"], generator=g)
        patients.append(PatientImages(f"v{index}", images, labels))
    return tuple(patients)


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger.open(tmp_path / "ledger.jsonl") as opened:
        yield opened


def paid(ledger: Ledger, study: Study, round_number: int = 1) -> Charge:
    ledger.register(study, plan_id=study.name, dataset="films", cap=1e18)
    return ledger.charge(study, plan_id=study.name, round_number=round_number, attempt=1)


def private(
    ledger: Ledger, study: Study, vector: Float32, patients: Any, key: bytes | None = KEY, **options: Any
) -> Float32:
    noise = NoiseSource.fresh() if key is None else NoiseSource(key)
    given = {"number": 1, "declared_patients": 20, "noise": noise, "device": CPU}
    given |= {"charge": paid(ledger, study)} | options
    return train(TrainingRound(study, vector, patients, **given)).values  # type: ignore[arg-type]


def plain(study: Study, vector: Float32, patients: Any, **options: Any) -> Float32:
    given: dict[str, Any] = {"number": 1, "declared_patients": 20, "noise": None, "charge": None}
    return train(TrainingRound(study, vector, patients, device=CPU, **(given | options))).values


def test_private_training_without_a_charge_or_noise_source_is_refused(ledger: Ledger) -> None:
    study, vector = make_study(privacy=LOCAL)
    for missing in ({"charge": None}, {"noise": None}):
        with pytest.raises(NoCharge) as caught:
            private(ledger, study, vector, films(4), **missing)
        assert caught.value.code == "no-charge"


def test_a_charge_for_another_round_or_other_noise_is_refused_and_stays_unused(ledger: Ledger) -> None:
    study, vector = make_study(privacy=LOCAL)
    charge = paid(ledger, study, round_number=2)
    with pytest.raises(NoCharge):
        private(ledger, study, vector, films(4), charge=charge)
    other, _ = make_study(privacy=LOCAL | {"noise_multiplier": 3.0}, name="other")
    with pytest.raises(NoCharge):
        private(ledger, study, vector, films(4), charge=paid(ledger, other))
    assert charge.entry.state is State.RESERVED


def test_a_charge_pays_for_one_training_only(ledger: Ledger) -> None:
    study, vector = make_study(privacy=LOCAL)
    charge = paid(ledger, study)
    private(ledger, study, vector, films(4), charge=charge)
    assert ledger.rows()[-1].entry.state is State.RUNNING
    with pytest.raises(ChargeUsed):
        private(ledger, study, vector, films(4), charge=charge)


def test_an_unsafe_model_stops_training_before_the_charge_begins(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, vector = make_study(privacy=LOCAL, name="unsafe")
    charge = paid(ledger, study)

    def refuse(*_: object, **__: object) -> None:
        raise NotSafe(check="noise", problem="planted")

    monkeypatch.setattr(checks, "self_check", refuse)
    with pytest.raises(NotSafe):
        private(ledger, study, vector, films(4), charge=charge)
    assert charge.entry.state is State.RESERVED


def test_noise_comes_from_the_noise_source_and_from_no_global_seed(ledger: Ledger) -> None:
    study, vector = make_study(privacy=LOCAL)
    updates = []
    for seed, key in [(1, KEY), (2, KEY), (1, None), (1, None)]:
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            updates.append(private(ledger, study, vector, films(6), key))
    assert np.array_equal(updates[0], updates[1])
    assert not np.array_equal(updates[2], updates[3])
    assert abs(np.corrcoef(updates[2], updates[3])[0, 1]) < 0.5


def test_a_hospital_without_drawn_patients_sends_noise_of_the_promised_size(ledger: Ledger) -> None:
    study, vector = make_study(
        "small_cnn", privacy=LOCAL, training={"rounds": 2, "local_steps": 4, "learning_rate": 0.5}
    )
    for patients in ((), films(3, model="small_cnn")):
        rare = study.model_copy(
            update={
                "privacy": study.privacy.model_copy(update={"sample_rate": 1.0 if not patients else 1e-12})
            }
        ).model_copy(update={"name": "empty" if not patients else "rare"})
        rate = 1.0 if not patients else 1e-12
        update = private(ledger, rare, vector, patients, declared_patients=20 / rate)
        expected = 0.5 * np.sqrt(4) * 2.0 * 0.5 / 20
        assert update.std() == pytest.approx(expected, rel=0.03)


def test_private_training_learns_when_noise_is_small(ledger: Ledger) -> None:
    quiet = LOCAL | {"noise_multiplier": 0.01, "evaluation_multiplier": 2.0, "epsilon": 1e12}
    study, vector = make_study(
        privacy=quiet, training={"rounds": 2, "local_steps": 10, "learning_rate": 20.0}
    )
    update = private(ledger, study, vector, films(20))
    assert auroc(study, vector + update, films(20, seed=1)) > 0.9


@pytest.mark.slow
def test_private_training_of_volumes_gives_a_finite_update(ledger: Ledger) -> None:
    study, vector = make_study(
        "unet3d",
        privacy=LOCAL | {"clipping": "unit"},
        training={"rounds": 1, "local_steps": 1, "learning_rate": 0.1},
    )
    update = private(ledger, study, vector, volumes(3))
    assert np.isfinite(update).all()
    assert update.std() > 0


def test_updates_are_saturated_at_the_studys_clip(ledger: Ledger) -> None:
    bounds = {"update_clip": 0.01, "max_weight": 100}
    study, vector = make_study(privacy=LOCAL, secure_aggregation=bounds)
    update = private(ledger, study, vector, films(6))
    assert np.abs(update).max() == np.float32(0.01)
    assert update.dtype == np.float32
    open_study, vector = make_study(secure_aggregation=bounds)
    assert np.abs(plain(open_study, vector, films(6))).max() <= np.float32(0.01)


def test_an_update_is_the_exact_difference_rounded_once() -> None:
    study, _ = make_study(secure_aggregation={"update_clip": 1e9, "max_weight": 100})
    random = np.random.default_rng(0)
    before, after = (
        (random.standard_normal(20_000) * 2.0 ** random.integers(-149, 20, 20_000)).astype(np.float32)
        for _ in range(2)
    )
    after[::2] = before[::2] * np.float32(1 + 2**-20)  # as near as weights are after a step
    exact = (after.astype(np.float64) - before).astype(np.float32)
    assert run._update(study, before, after).values.tobytes() == exact.tobytes()
    after[7] = np.inf
    with pytest.raises(Diverged):
        run._update(study, before, after)


@pytest.mark.parametrize(("unit", "optimizer"), [("local_steps", "sgd"), ("local_epochs", "adam")])
def test_plain_training_learns(unit: str, optimizer: str) -> None:
    rate = 20.0 if optimizer == "sgd" else 0.3
    training = {"rounds": 1, unit: 20, "batch_images": 16, "learning_rate": rate, "optimizer": optimizer}
    study, vector = make_study(training=training)
    assert auroc(study, vector + plain(study, vector, films(24)), films(20, seed=1)) > 0.9


@pytest.mark.slow
def test_plain_training_of_volumes_learns_with_augmentation() -> None:
    training = {
        "rounds": 1,
        "local_epochs": 12,
        "batch_images": 2,
        "learning_rate": 6e-3,
        "optimizer": "adam",
        "augment": True,
    }
    study, vector = make_study("unet3d", training=training)
    update = plain(study, vector, volumes(6))
    dice = [
        summarise(study, evaluate(study, v, volumes(4), device=CPU))["dice"]
        for v in (vector, vector + update)
    ]
    assert dice[1] > dice[0] + 0.2


def test_augmented_training_works_with_fixed_features_and_under_privacy(ledger: Ledger) -> None:
    training = {"rounds": 1, "local_steps": 2, "learning_rate": 1.0, "augment": True}
    for privacy, run_one in ((LOCAL, True), ({"kind": "none"}, False)):
        study, vector = make_study(privacy=privacy, training=training)
        update = private(ledger, study, vector, films(4)) if run_one else plain(study, vector, films(4))
        assert np.abs(update).max() > 0


@pytest.mark.parametrize(
    ("count", "images", "epochs", "steps", "expected"),
    [(10, 4, 2, None, 6), (10, 4, None, 5, 5), (1, 4, 1, None, 1), (0, 4, 1, None, 0)],
)
def test_batches_cover_every_image_once_a_pass(
    count: int, images: int, epochs: int | None, steps: int | None, expected: int
) -> None:
    training = {
        "rounds": 1,
        "batch_images": images,
        "learning_rate": 1.0,
        "local_epochs": epochs,
        "local_steps": steps,
    }
    study, _ = make_study(training=training)
    found = list(run._batches(study, count, torch.Generator().manual_seed(0)))
    assert len(found) == expected
    assert all(1 <= len(b) <= images for b in found)
    passes = torch.cat(found)[:count].tolist() if found else []
    assert sorted(passes) == list(range(count))


def test_the_linear_schedule_falls_evenly_over_all_rounds() -> None:
    study, _ = make_study(
        training={"rounds": 4, "local_steps": 2, "learning_rate": 8.0, "schedule": "linear"}
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=8.0)
    rates = []
    for round_number in range(1, 5):
        for step in range(2):
            run._set_rate(study, optimizer, round_number, step / 2)
            rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([8, 7, 6, 5, 4, 3, 2, 1])


def test_diverged_weights_are_reported_and_not_sent() -> None:
    study, vector = make_study("small_cnn", training={"rounds": 1, "local_steps": 5, "learning_rate": 1e38})
    with pytest.raises(Diverged):
        plain(study, vector, films(4, model="small_cnn"))


def test_no_patients_without_privacy_gives_a_zero_update_and_zero_sums() -> None:
    study, vector = make_study()
    assert not plain(study, vector, ()).any()
    assert all(not v.any() for v in evaluate(study, vector, (), device=CPU).values())


def test_cached_features_give_the_same_update_and_are_computed_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, vector = make_study(privacy=LOCAL)
    patients, cache, calls = films(6), FeatureCache(), []
    fresh = private(ledger, study, vector, patients)
    real = features_module.features

    def counted(*args: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(features_module, "features", counted)
    for _ in range(2):
        assert np.array_equal(private(ledger, study, vector, patients, cache=cache), fresh)
        evaluate(study, vector, patients, device=CPU, cache=cache)
    assert len(calls) == len(patients)
    private(ledger, study, vector, films(6), cache=cache)  # another object: never mistaken for the first
    assert len(calls) == 2 * len(patients)


@pytest.mark.parametrize("model", ["wavelet_head", "small_cnn", "unet3d"])
def test_evaluation_in_one_pass_equals_evaluation_patient_by_patient(model: str) -> None:
    study, vector = make_study(model)
    patients = volumes(3) if model == "unet3d" else films(7, model=model)
    together = evaluate(study, vector, patients, device=CPU, cache=FeatureCache())
    assert {k: len(v) for k, v in together.items()} == layout(study)
    for name, value in together.items():
        single = sum(evaluate(study, vector, [p], device=CPU)[name] for p in patients)
        np.testing.assert_allclose(value, single, rtol=1e-4, atol=1e-6)
    assert together["patients"][0] == len(patients)


def test_evaluation_counts_at_most_the_agreed_images_of_a_patient() -> None:
    study, vector = make_study(evaluation={"images_per_patient": 2})
    many = PatientImages("x", films(1)[0].images.expand(9, -1, -1, -1), torch.zeros(9, dtype=torch.long))
    assert evaluate(study, vector, [many], device=CPU)["images"][0] == 2


def auroc(study: Study, vector: Float32, patients: tuple[PatientImages, ...]) -> float:
    return summarise(study, evaluate(study, vector, patients, device=CPU))["auroc"]


JOINT = {
    "kind": "joint",
    "clip_norm": 0.5,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 50.0,
    "honest_hospitals": 4,
}
ONE_STEP = {"rounds": 4, "local_steps": 1, "learning_rate": 1.0}
FOUR = {"min_hospitals": 4, "max_hospitals": 5}


def joint_update(tmp_path: Path, key: bytes, **changes: Any) -> np.ndarray[Any, Any]:
    study, vector = make_study(privacy=JOINT, training=ONE_STEP, cohort=FOUR, **changes)
    with Ledger.open(tmp_path / f"{key[:4].hex()}.jsonl") as ledger:
        ledger.register(study, plan_id="p", dataset="d", cap=100.0)
        charge = ledger.charge(study, plan_id="p", round_number=1, attempt=1)
        given = TrainingRound(
            study,
            vector,
            films(8),
            number=1,
            declared_patients=10,
            noise=NoiseSource(key),
            charge=charge,
            device=CPU,
        )
        return train(given).values


def test_four_hospitals_noise_together_is_the_noise_that_the_joint_epsilon_rests_on(tmp_path: Path) -> None:
    """One update is gradient and noise of C * sigma / sqrt(4), over ten declared patients; differences of
    updates are noise alone."""
    updates = [joint_update(tmp_path, bytes([number]) * 32) for number in range(8)]
    first, second = sum(updates[:4]), sum(updates[4:])
    size = len(updates[0])
    expected = 0.5 * 2.0 / 10 * 2**0.5  # the difference of two sums of four
    assert np.std(first - second) == pytest.approx(expected, rel=4 / (2 * size) ** 0.5)


def test_joint_noise_is_never_cut(tmp_path: Path) -> None:
    narrow = {"update_clip": 0.05, "max_weight": 100}
    with pytest.raises(NoiseCut):
        joint_update(tmp_path, KEY, secure_aggregation=narrow)


@pytest.mark.parametrize("privacy", [LOCAL, {"kind": "none"}])
def test_augmentations_are_made_anew_for_every_step_and_features_with_them(
    privacy: dict[str, Any], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"rounds": 1, "local_steps": 3, "learning_rate": 1.0, "batch_images": 64}
    study, vector = make_study(privacy=privacy, training=training | {"augmentations": {"brightness": {}}})
    seen: list[float] = []

    def watched(module: torch.nn.Module, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        seen.extend(images.mean((1, 2, 3)).tolist())
        return features_module.features(module, images, device)

    monkeypatch.setattr(run, "features", watched)
    patients = films(4)
    if privacy is LOCAL:
        private(ledger, study, vector, patients)
    else:
        plain(study, vector, patients)
    assert len(set(seen)) == len(seen) == 3 * sum(len(one) for one in patients)


def test_a_cosine_falls_from_the_whole_rate_to_nothing_over_all_rounds() -> None:
    training = {"rounds": 4, "local_steps": 3, "learning_rate": 2.0, "schedule": "cosine"}
    study, _ = make_study(training=training)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    found = []
    for number, done in ((1, 0.0), (3, 0.0), (4, 0.999)):
        run._set_rate(study, optimizer, number, done)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([2.0, 1.0, 0.0], abs=1e-3)


def test_a_long_gradient_is_shortened_and_weights_decay_where_the_study_says_so() -> None:
    training = {"rounds": 1, "local_steps": 1, "learning_rate": 1.0, "batch_images": 64}
    free, vector = make_study("small_cnn", training=training)
    patients = films(4, model="small_cnn")
    short, _ = make_study("small_cnn", training=training | {"gradient_norm": 1e-3})
    lengths = [float(np.linalg.norm(plain(one, vector, patients))) for one in (free, short)]
    assert lengths[1] == pytest.approx(1e-3, rel=1e-3)
    assert lengths[0] > 0.01
    adamw = training | {"optimizer": "adamw", "learning_rate": 1e-2}
    updates = [
        plain(make_study("small_cnn", training=adamw | decay)[0], vector, patients)
        for decay in ({}, {"weight_decay": 0.5})
    ]
    assert np.allclose(updates[1] - updates[0], -1e-2 * 0.5 * vector, atol=1e-6)
