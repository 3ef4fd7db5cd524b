"""The self-check: shipped models pass, planted faults are found and named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from torch import nn
from torch.nn import functional

from hospital_node.training import NoCharge, NotSafe, TrainingRound, checked, checks, clipped_sum, self_check
from hospital_node.training import optimizer as optimizer_module
from hospital_node.training.optimizer import PatientOptimizer
from medveil.noise_policies import LocalNoise, NoPrivacy
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_imaging.models import MODELS, ModelShape, build, outputs_for, spec_of
from privacy.dp.noise import NoiseSource
from tries import leading

LABELLED: dict[str, tuple[int, ...]] = {
    "densenet121": (32, 32),
    "depth_head": (24, 24, 24),
    "lenet": (16, 16),
    "mobilenet": (32, 32),
    "small_cnn": (16, 16),
    "wavelet_head": (32, 32),
}
"""Models that give logits for the image; the others outline."""
LARGE = ("densenet121", "mobilenet")
VOLUMES = {
    "unet3d": (16, 16, 8),
    "segresnet3d": (8, 8, 8),
    "position_head": (16, 16, 16),
    "on_top": (16, 16, 16),
    "hippocampus_head": (16, 16, 16),
}


def study_for(name: str, clipping: str = "flat") -> tuple[Study, nn.Module]:
    labelled = name in LABELLED
    task = "classification" if labelled else "segmentation"
    size = LABELLED[name] if labelled else VOLUMES[name]
    film = len(size) == 2
    classes = ("normal", "abnormal") if labelled else ("background", "front", "back")
    module = build(name, ModelShape(size, outputs_for(task, classes)), {}, seed=1)
    content: dict[str, Any] = {
        "name": "check",
        "task": task,
        "classes": classes,
        "model": {"name": name, "tensors": spec_of(module), "initial_model": "0" * 64},
        "transforms": {
            "profile": "xray" if film else "mri",
            "size": size,
            "spacing_mm": () if film else (1.0, 1.0, 1.0),
        },
        "training": {"rounds": 1, "local_steps": 1, "learning_rate": 1.0},
        "privacy": {
            "kind": "local",
            "clip_norm": 0.3,
            "clipping": clipping,
            "noise_multiplier": 2.0,
            "evaluation_multiplier": 2.0,
            "epsilon": 99,
        },
        "secure_aggregation": {"update_clip": 1.0, "max_weight": 100},
    }
    return Study.model_validate(content), module


def failed(study: Study, module: nn.Module, **options: Any) -> str:
    with pytest.raises(NotSafe) as caught:
        self_check(study, module, **options)
    assert caught.value.code == "not-safe"
    return caught.value.check


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "lenet"))
        for name in sorted({*LABELLED, *VOLUMES}.difference(LARGE))
    ],
)
@pytest.mark.parametrize("clipping", ["flat", pytest.param("unit", marks=pytest.mark.slow)])
def test_shipped_models_pass(name: str, clipping: str) -> None:
    """Three more pass in test_planted_faults.py."""
    study, module = study_for(name, clipping)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    self_check(study, module)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert next(module.parameters()).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_largest_shipped_models_pass(name: str) -> None:
    self_check(*study_for(name))


def test_every_shipped_model_is_checked_here() -> None:
    elsewhere = {name for name in MODELS if name.startswith("monai:")} | {
        "frozen_encoder"
    }  # files of their own
    assert set(MODELS) == {*LABELLED, *VOLUMES, *elsewhere}


def wrong_shape(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return TASKS["segmentation"].loss(logits, labels)[:, None, None, None]


def coupled(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    own = TASKS["segmentation"].loss(logits, labels)
    return own * 0.5 + own.mean() * 0.5


def averaged(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return TASKS["segmentation"].loss(logits, labels).mean()


def batch_dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """MONAI's Dice with sums over the batch, handed to every image of it."""
    dice = DiceLoss(softmax=True, to_onehot_y=True, batch=True, reduction="none")
    return dice(logits, labels[:, None]).mean().expand(len(labels))


def monai_dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """MONAI's Dice of one structure, one number an image but of shape (k, 1, 1, 1, 1)."""
    dice: torch.Tensor = DiceLoss(sigmoid=True, reduction="none")(logits[:, 1:2], labels[:, None] == 1)
    return dice


@pytest.mark.parametrize("fault", [wrong_shape, coupled, averaged, batch_dice, monai_dice])
def test_a_loss_of_the_wrong_shape_or_over_the_batch_is_found(
    fault: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    study, module = study_for("segresnet3d")
    assert failed(study, module, loss=fault) == "loss"


def weighted_mean(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with class weights and its own mean: a batch with more rare labels weighs each less."""
    both, weights = torch.cat([-logits, logits], 1), torch.tensor([1.0, 5.0], dtype=logits.dtype)
    return functional.cross_entropy(both, labels, weights)


def weighted_share(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same, written as one number an image."""
    both, weights = torch.cat([-logits, logits], 1), torch.tensor([1.0, 5.0], dtype=logits.dtype)
    return functional.cross_entropy(both, labels, weights, reduction="none") / weights[labels].mean()


@pytest.mark.parametrize("fault", [weighted_mean, weighted_share])
def test_cross_entropy_with_weights_over_the_batch_is_found(
    fault: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    study, module = study_for("small_cnn")
    assert failed(study, module, loss=fault) == "loss"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_found(dtype: torch.dtype) -> None:
    study, module = study_for("small_cnn")
    assert failed(study, module.to(dtype)) == "precision"


OPACUS_WARNS = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def opacus_hooks(model: nn.Module, loss: Any, drawn: Any, *, device: torch.device) -> Any:
    """An engine on Opacus' hooks: per-image gradients, averaged over each patient's images."""
    hooked = GradSampleModule(model, loss_reduction="sum")
    for one in drawn:
        loss(hooked(one.images), one.labels).sum().backward()
        yield {w: w.grad_sample.mean(0, keepdim=True) for w in model.parameters()}
        hooked.zero_grad()
    hooked.to_standard_module()


def opacus_ghost(self: Any, patients: Any) -> torch.Tensor:
    """An engine on Opacus' two passes; every image is a patient to it."""
    model = copy.deepcopy(self.model)
    hooked = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", max_grad_norm=self.clip)
    images, labels = torch.cat([one.images for one in patients]), torch.cat([one.labels for one in patients])
    losses = self.loss(hooked(images), labels)
    losses.sum().backward(retain_graph=True)
    factors = hooked.get_clipping_coef()
    model.zero_grad()
    hooked.disable_hooks()
    (factors * losses).sum().backward()
    return torch.cat(
        [torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in model.parameters()]
    )


def reflecting(module: nn.Module) -> nn.Module:
    first = module[0]  # type: ignore[index]
    module[0] = nn.Conv2d(1, first.out_channels, 7, 2, 3, padding_mode="reflect")  # type: ignore[index, operator]
    return module


class Twice(nn.Module):
    """Holds its first layer under a second name, as DynUNet does; the forward pass uses it once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.again = network, network[0]  # type: ignore[index]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return logits


@OPACUS_WARNS
@pytest.mark.parametrize("change", leading([reflecting, Twice], 1))
def test_what_opacus_hooks_get_wrong_is_found_and_our_engine_gets_right(
    change: Callable[[nn.Module], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, module = study_for("small_cnn")
    self_check(study, change(copy.deepcopy(module)))
    monkeypatch.setattr(checks, "patient_gradients", opacus_hooks)
    self_check(study, module)  # so it is not the way the engine is planted
    assert failed(study, change(module)) == "clipped-sum"


@OPACUS_WARNS
def test_what_opacus_ghost_norms_get_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    study, module = study_for("small_cnn")
    monkeypatch.setattr(checks._Engine, "clipped_sum", opacus_ghost)
    assert failed(study, module) == "clipped-sum"  # an image is no patient
    monkeypatch.setattr(checks, "IMAGES", (1, 1, 1))
    assert failed(study, module) == "copies"  # and many images of one count as many patients
    assert failed(study, reflecting(module)) == "clipped-sum"


class BatchCentred(nn.Module):
    """Subtracts the batch mean: every image's output depends on its company."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values - 0.5 * values.mean(0, keepdim=True)


class Remembers(nn.Module):
    """Keeps a running mean of what it saw, as batch norm does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.get_buffer("seen").mul_(0.9).add_(values.detach().mean())
        return values


def with_layer(module: nn.Module, layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, *module.children())


def test_a_layer_that_couples_the_batch_is_found() -> None:
    study, module = study_for("small_cnn")
    assert failed(study, with_layer(module, BatchCentred())) == "loss"


def test_a_layer_that_remembers_data_is_found() -> None:
    study, module = study_for("small_cnn")
    assert failed(study, with_layer(module, Remembers())) == "buffers"


def test_doubled_gradients_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    study, module = study_for("small_cnn")
    real = checks.patient_gradients

    def doubled(*args: Any, **options: Any) -> Any:
        for chunk in real(*args, **options):
            yield {weight: 2 * gradient for weight, gradient in chunk.items()}

    monkeypatch.setattr(checks, "patient_gradients", doubled)
    assert failed(study, module) == "clipped-sum"


def test_norms_that_are_too_small_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    study, module = study_for("small_cnn")
    real = optimizer_module.clip_factors
    monkeypatch.setattr(optimizer_module, "clip_factors", lambda norms, policy: real(norms / 2, policy))
    assert failed(study, module) == "clipped-sum"


def test_a_factor_that_depends_on_company_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check can fail by itself: here the reference loop is left out and sensitivity must notice."""
    study, module = study_for("small_cnn")
    real = optimizer_module.clip_factors
    monkeypatch.setattr(checks, "_check_sum", lambda *_: None)
    monkeypatch.setattr(
        optimizer_module, "clip_factors", lambda norms, policy: len(norms) * real(norms, policy)
    )
    assert failed(study, module) == "sensitivity"


def test_copies_that_count_and_company_that_matters_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    study, module = study_for("small_cnn")
    real = checks.patient_gradients
    for name in ("_check_sum", "_check_sensitivity"):
        monkeypatch.setattr(checks, name, lambda *_: None)

    def by_count(model: Any, loss: Any, drawn: Any, *, device: Any) -> Any:
        for one in drawn:
            for chunk in real(model, loss, [one], device=device):
                yield {w: g.clamp(-1e-3, 1e-3) * len(one.images) ** (w.ndim - 2) for w, g in chunk.items()}

    def by_company(model: Any, loss: Any, drawn: Any, *, device: Any) -> Any:
        for chunk in real(model, loss, drawn, device=device):
            yield {w: g + g.mean(0, keepdim=True) for w, g in chunk.items()}

    monkeypatch.setattr(clipped_sum, "patient_gradients", by_count)
    assert failed(study, module) == "copies"
    monkeypatch.setattr(clipped_sum, "patient_gradients", real)
    monkeypatch.setattr(checks, "patient_gradients", by_company)
    assert failed(study, module) == "independence"


def test_noise_of_the_wrong_size_or_the_same_at_two_nodes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    study, module = study_for("small_cnn")
    real = NoiseSource.gaussian
    with monkeypatch.context() as patch:
        patch.setattr(NoiseSource, "gaussian", lambda self, size, scale: real(self, size, scale * 0.9))
        assert failed(study, module) == "noise"
    with monkeypatch.context() as patch:
        patch.setattr(NoiseSource, "fresh", classmethod(lambda cls: cls(bytes(32))))
        assert failed(study, module) == "noise"


def test_an_optimiser_that_adds_no_noise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    study, module = study_for("small_cnn")

    def silent(self: PatientOptimizer) -> None:
        for weight in self.params:
            weight.grad = weight.summed_grad

    monkeypatch.setattr(PatientOptimizer, "add_noise", silent)
    assert failed(study, module) == "noise"


def test_a_study_without_privacy_needs_no_check() -> None:
    study, module = study_for("small_cnn")
    assert isinstance(study.privacy, LocalNoise)
    self_check(study.model_copy(update={"privacy": NoPrivacy()}), with_layer(module, Remembers()))


def test_nobody_trains_past_the_self_check_but_the_check_itself_and_the_audit() -> None:
    root = Path(__file__).resolve().parents[2]
    folders = ("platform", "hospital_node", "aggregator", "privacy")
    sources = [path for folder in folders for path in (root / folder).rglob("*.py")]
    named = {path.relative_to(root).as_posix() for path in sources if "train_unchecked" in path.read_text()}
    assert named == {
        "hospital_node/training/checked.py",
        "hospital_node/training/rehearsal_round.py",
        "hospital_node/training/run.py",
        "platform/medveil_research/audit.py",
    }


def test_training_begins_with_the_self_check_and_without_a_charge_not_even_with_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, _ = study_for("small_cnn")
    asked: list[str] = []
    monkeypatch.setattr(checked, "require_safe", lambda *_: asked.append("check"))
    monkeypatch.setattr(checked, "train_unchecked", lambda _: asked.append("train"))
    given = TrainingRound(
        study,
        np.zeros(1, np.float32),
        (),
        number=1,
        declared_patients=1,
        noise=None,
        charge=None,
        device=torch.device("cpu"),
    )
    with pytest.raises(NoCharge):
        checked.train(given)
    assert asked == []
    monkeypatch.setattr(checked, "check_paid", lambda _: None)
    checked.train(given)
    assert asked == ["check", "train"]
