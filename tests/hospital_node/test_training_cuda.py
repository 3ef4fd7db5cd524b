"""Training on a GPU: the same gradients, the same promises. Skipped by name where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hospital_node.ledger import Ledger
from hospital_node.training import FeatureCache, TrainingRound, evaluate, self_check, train
from hospital_node.training.gradients import Drawn, Way, patient_gradients, runs_in_bfloat16
from hospital_node.training.optimizer import PatientOptimizer, row_norms
from medveil.augmentations import AUGMENTATIONS, MIRROR
from medveil.noise_policies import LocalNoise
from medveil.study import Study
from medveil.tasks import TASKS
from medveil.tensors import Float32
from medveil_imaging.models import ModelShape, build, build_model, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from privacy.dp.noise import NoiseSource

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured: no CUDA device")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SIZES = {
    "small_cnn": (32, 32),
    "wavelet_head": (32, 32),
    "unet3d": (16, 16, 16),
    "position_head": (16, 16, 16),
}
POLICY = LocalNoise(clip_norm=0.3, noise_multiplier=1.7, evaluation_multiplier=1.0, epsilon=8.0)


def task_of(name: str) -> tuple[str, tuple[str, ...]]:
    if len(SIZES[name]) == 2:
        return "classification", ("normal", "abnormal")
    return "segmentation", ("background", "front", "back")


def make_study(name: str, **training: Any) -> tuple[Study, Float32]:
    task, classes = task_of(name)
    film = len(SIZES[name]) == 2
    spec, vector = initial_vector(name, ModelShape(SIZES[name], outputs_for(task, classes)), {}, seed=3)
    content: dict[str, Any] = {
        "name": "gpu",
        "task": task,
        "classes": classes,
        "model": {"name": name, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {
            "profile": "xray" if film else "mri",
            "size": SIZES[name],
            "spacing_mm": () if film else (1.0, 1.0, 1.0),
        },
        "training": {"rounds": 1, "local_steps": 2, "learning_rate": 0.1} | training,
        "privacy": POLICY,
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    return Study.model_validate(content), vector


def patients_of(name: str, count: int = 4) -> tuple[PatientImages, ...]:
    g = torch.Generator().manual_seed(0)
    outline = SIZES[name] if len(SIZES[name]) == 3 else ()
    return tuple(
        PatientImages(
            f"p{i}",
            torch.randn(1 + i % 3, 1, *SIZES[name], generator=g),
            torch.randint(2, (1 + i % 3, *outline), generator=g),
        )
        for i in range(count)
    )


def rows(name: str, device: torch.device, dtype: torch.dtype, way: Way | None) -> torch.Tensor:
    task, classes = task_of(name)
    net = build(name, ModelShape(SIZES[name], outputs_for(task, classes)), {}, seed=1).to(device, dtype)
    drawn = [Drawn(one.images.to(dtype), one.labels) for one in patients_of(name)]
    drawn.sort(key=lambda one: len(one.images))
    weights = [p for p in net.parameters() if p.requires_grad]
    chunks = patient_gradients(net, TASKS[task].loss, drawn, device=device, way=way)
    return torch.cat([torch.cat([chunk[w].flatten(1) for w in weights], 1) for chunk in chunks]).cpu()


@pytest.mark.parametrize("way", ["together", "single"])
@pytest.mark.parametrize("name", ["small_cnn", "unet3d"])
def test_gradients_on_a_gpu_are_those_of_the_cpu(name: str, way: Way) -> None:
    expected = rows(name, CPU, torch.float64, way)
    assert float((rows(name, CUDA, torch.float64, way) - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("name", sorted(SIZES))
def test_mixed_precision_stays_close_and_gives_float32(name: str) -> None:
    expected, found = rows(name, CPU, torch.float32, None), rows(name, CUDA, torch.float32, None)
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_heads_on_fixed_features_keep_full_precision() -> None:
    assert runs_in_bfloat16(nn.Linear(1, 1), CUDA)
    assert not runs_in_bfloat16(build("wavelet_head", ModelShape((32, 32), 1), {}), CUDA)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_the_self_check_passes_on_a_gpu(name: str) -> None:
    study, _ = make_study(name)
    self_check(study, build_model(study), device=CUDA)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment": True},
        {"augmentations": {name: {"share": 1} for name in AUGMENTATIONS if name != MIRROR}},
    ],
)
@pytest.mark.parametrize("name", sorted(SIZES))
def test_private_training_and_evaluation_run_on_a_gpu(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    study, vector = make_study(name, **changes)
    patients, cache = patients_of(name), FeatureCache()
    with Ledger.open(tmp_path / "ledger.jsonl") as ledger:
        ledger.register(study, plan_id="p", dataset="d", cap=1e18)
        given = TrainingRound(
            study,
            vector,
            patients,
            number=1,
            declared_patients=10,
            noise=NoiseSource.fresh(),
            charge=ledger.charge(study, plan_id="p", round_number=1, attempt=1),
            device=CUDA,
            cache=cache,
        )
        update = train(given)
    assert np.isfinite(update.values).all()
    assert update.values.std() > 0
    sums = evaluate(study, vector + update.values, patients, device=CUDA, cache=cache)
    assert sums["patients"][0] == len(patients)


def test_noise_on_a_gpu_comes_from_no_seed_of_torch_and_has_its_size() -> None:
    steps = []
    for _node in range(2):
        torch.cuda.manual_seed_all(0)
        net = nn.Linear(1_000_000, 1, bias=False).to(CUDA)
        before = net.weight.detach().clone()
        own = PatientOptimizer(
            torch.optim.SGD(net.parameters(), lr=1.0),
            policy=POLICY,
            expected_patients=1.0,
            noise=NoiseSource.fresh(),
        )
        own.finish_step()
        steps.append((net.weight.detach() - before).double().flatten() / (1.7 * 0.3))
    assert abs(float(steps[0].std()) - 1) < 0.005
    assert abs(float((steps[0] * steps[1]).mean())) < 5 / 1000


def test_a_patient_with_broken_values_counts_for_nothing_on_a_gpu() -> None:
    net = nn.Linear(10, 1, bias=False).to(CUDA)
    own = PatientOptimizer(
        torch.optim.SGD(net.parameters(), lr=1.0),
        policy=POLICY,
        expected_patients=1.0,
        noise=NoiseSource.fresh(),
    )
    good = torch.ones(1, 1, 10, device=CUDA)
    own.accumulate({net.weight: torch.cat([good, torch.full_like(good, torch.inf)])})
    summed: Any = net.weight.summed_grad
    assert float(summed.norm()) == pytest.approx(0.3 * (1 - 1e-3), rel=1e-5)
    assert float(row_norms(torch.full((1, 10_000_019), 0.1, device=CUDA))) == pytest.approx(316.228, rel=1e-4)


@pytest.mark.parametrize("name", ["wavelet_head", "position_head"])
def test_cached_features_stay_in_the_nodes_memory(name: str) -> None:
    study, _ = make_study(name)
    module, patients = build_model(study).to(CUDA), patients_of(name)
    found = FeatureCache().get(study, module, patients, CUDA)
    assert {one.images.device.type for one in found} == {"cpu"}
