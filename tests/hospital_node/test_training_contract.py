"""The engine's contract: on every registered model and on MONAI's networks it equals a loop over patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from monai.networks import nets
from opacus.validators import ModuleValidator
from torch import nn

from hospital_node.training import self_check
from hospital_node.training.features import features, has_features
from hospital_node.training.gradients import Drawn, Way
from medveil.study import Study
from medveil_imaging.models import MODELS, ModelShape, UnsafeModel, build, make_safe, spec_of
from per_patient import worst_error

CPU = torch.device("cpu")


class FirstOutput(nn.Module):
    """MONAI's ViT gives its hidden states too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)[0]
        return logits


@dataclass(frozen=True)
class Case:
    """A network, an input it takes, and what ``make_safe`` says of it as MONAI builds it."""

    make: Callable[[], nn.Module]
    size: tuple[int, ...]
    refused: str = ""
    task: str = "segmentation"
    slow: bool = False


BATCH, BUFFERS, TWICE = "batch norm", "stores buffers", "under two names"
FINDING = "classification"
NETWORKS = {
    "DenseNet121 2-D": Case(lambda: nets.DenseNet121(2, 1, 1), (32, 32), BATCH, FINDING, slow=True),
    "DenseNet121 3-D": Case(lambda: nets.DenseNet121(3, 1, 1), (32, 32, 32), BATCH, FINDING, slow=True),
    "EfficientNet-b0": Case(
        lambda: nets.EfficientNetBN("efficientnet-b0", False, spatial_dims=2, in_channels=1, num_classes=1),
        (32, 32),
        BATCH,
        FINDING,
        slow=True,
    ),
    "ResNet18 2-D": Case(
        lambda: nets.resnet18(spatial_dims=2, n_input_channels=1, num_classes=1),
        (32, 32),
        BATCH,
        FINDING,
        slow=True,
    ),
    "ResNet18 3-D": Case(
        lambda: nets.resnet18(spatial_dims=3, n_input_channels=1, num_classes=1),
        (16, 16, 16),
        BATCH,
        FINDING,
        slow=True,
    ),
    "UNet, instance norm": Case(lambda: nets.UNet(3, 1, 2, (4, 8, 16), (2, 2)), (8, 8, 8)),
    "UNet, batch norm": Case(lambda: nets.UNet(3, 1, 2, (4, 8, 16), (2, 2), norm="BATCH"), (8, 8, 8), BATCH),
    "BasicUNet": Case(lambda: nets.BasicUNet(3, 1, 2, features=(4, 4, 8, 8, 8, 4)), (32, 16, 16)),
    "SegResNet": Case(lambda: nets.SegResNet(3, 8, 1, 2), (8, 8, 8), slow=True),
    "DynUNet": Case(
        lambda: nets.DynUNet(3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8]), (8, 8, 8), TWICE
    ),
    "AttentionUnet": Case(lambda: nets.AttentionUnet(3, 1, 2, (4, 8, 16), (2, 2)), (8, 8, 8), BATCH),
    "UNETR": Case(
        lambda: nets.UNETR(1, 2, (16, 16, 16), feature_size=4, hidden_size=24, mlp_dim=32, num_heads=2),
        (16, 16, 16),
    ),
    "SwinUNETR": Case(
        lambda: nets.SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
        (64, 32, 32),
        BUFFERS,
        slow=True,
    ),
    "ViT": Case(
        lambda: FirstOutput(
            nets.ViT(
                1,
                (16, 16),
                (8, 8),
                hidden_size=24,
                mlp_dim=32,
                num_layers=2,
                num_heads=2,
                classification=True,
                num_classes=1,
                spatial_dims=2,
                post_activation=None,
            )
        ),
        (16, 16),
        task=FINDING,
    ),
    "AutoEncoder": Case(lambda: nets.AutoEncoder(2, 1, 2, (4, 8), (2, 2)), (16, 16)),
}
"""MONAI's networks for pictures and volumes, as small as their builders allow."""
FLAT, SOLID = ModelShape((32, 32), 1), ModelShape((16, 16, 16), 2)
MODEL_CASES = [
    pytest.param("densenet121", FLAT, marks=pytest.mark.slow),
    pytest.param("densenet121", ModelShape((32, 32, 32), 1), marks=pytest.mark.slow),
    ("hippocampus_head", SOLID),
    ("lenet", FLAT),
    ("mobilenet", FLAT),
    ("on_top", SOLID),
    ("position_head", SOLID),
    ("depth_head", ModelShape((16, 16, 16), 1)),
    ("segresnet3d", ModelShape((8, 8, 8), 2)),
    ("small_cnn", FLAT),
    ("small_cnn", ModelShape((16, 16, 16), 1)),
    ("unet3d", ModelShape((16, 16, 8), 2)),
    ("wavelet_head", ModelShape((40, 32), 1)),
]
WAYS: tuple[Way, ...] = ("together", "single")
TELLING = {"UNet, instance norm", "DynUNet", "ViT"}
"""Convolutions, a layer under two names, attention; the others in ``make test-all``."""
by_name = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in TELLING else pytest.mark.slow) for n in NETWORKS]
)


def network(name: str) -> nn.Module:
    """As a node would have to use it: batch norm replaced, nothing random left in the forward pass."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        net = NETWORKS[name].make()
        if NETWORKS[name].refused == BATCH:
            net = ModuleValidator.fix(net)
    for layer in net.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0
        if hasattr(layer, "drop_connect_rate"):
            layer.drop_connect_rate = 0.0  # type: ignore[assignment]
    return net.double()


def some_patients(size: Sequence[int], task: str, counts: Sequence[int] = (1, 2, 3)) -> list[Drawn]:
    g = torch.Generator().manual_seed(1)
    shape = tuple(size) if task == "segmentation" else ()
    return [
        Drawn(
            torch.randn(k, 1, *size, generator=g, dtype=torch.float64),
            torch.randint(2, (k, *shape), generator=g),
        )
        for k in counts
    ]


ONE_BY_ONE = {"lenet", "small_cnn", "wavelet_head"}


@pytest.mark.parametrize(
    ("name", "shape", "way"),
    [
        pytest.param(
            *getattr(case, "values", case),
            way,
            marks=[
                *getattr(case, "marks", ()),
                *(
                    [pytest.mark.slow]
                    * (way == "single" and getattr(case, "values", case)[0] not in ONE_BY_ONE)
                ),
            ],
        )
        for case in MODEL_CASES
        for way in WAYS
    ],
)
def test_both_ways_equal_a_loop_over_patients_for_every_registered_model(
    name: str, shape: ModelShape, way: Way
) -> None:
    task = "segmentation" if shape.outputs > 1 else "classification"
    net = build(name, shape, {}, seed=3).double()
    drawn = some_patients(shape.size, task)
    if has_features(net):
        drawn = [Drawn(features(net, one.images, CPU), one.labels) for one in drawn]
    assert worst_error(net, task, drawn, way) < 1e-5


def test_every_registered_model_is_in_the_contract() -> None:
    elsewhere = {"frozen_encoder"}  # needs a file; test_training_frozen_encoder.py has it
    elsewhere |= {name for name in MODELS if name.startswith("monai:")}  # test_monai_networks.py has them
    assert {getattr(case, "values", case)[0] for case in MODEL_CASES} | elsewhere == set(MODELS)


@pytest.mark.parametrize("way", WAYS)
@by_name
def test_both_ways_equal_a_loop_over_patients_for_monais_networks(name: str, way: Way) -> None:
    case = NETWORKS[name]
    drawn = some_patients(case.size, case.task, (1, 2))
    assert worst_error(network(name), case.task, drawn, way) < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (c.slow and c.refused != BUFFERS))
        for n, c in sorted(NETWORKS.items())
    ],
)
def test_what_could_mix_or_remember_patients_is_refused_by_name(name: str) -> None:
    case = NETWORKS[name]
    if not case.refused:
        make_safe(case.make())
        return
    with pytest.raises(UnsafeModel, match=case.refused):
        make_safe(case.make())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n == "AutoEncoder" else pytest.mark.slow)
        for n, case in NETWORKS.items()
        if not case.slow  # the check runs a network forty times
    ],
)
def test_monais_networks_pass_the_self_check(name: str) -> None:
    """Any patient less changes the sum by at most the clip, and copies of a patient count once."""
    case = NETWORKS[name]
    self_check(study_for(case), network(name))


def study_for(case: Case) -> Study:
    """Any study with the case's task and size; a real one outlines volumes only, the check takes pictures."""
    film = len(case.size) == 2
    content: dict[str, Any] = {
        "name": "contract",
        "task": "classification",
        "classes": ("background", "front"),
        "model": {"name": "any", "tensors": spec_of(nn.Linear(1, 1)), "initial_model": "0" * 64},
        "transforms": {
            "profile": "xray" if film else "mri",
            "size": case.size,
            "spacing_mm": () if film else (1.0, 1.0, 1.0),
        },
        "training": {"rounds": 1, "local_steps": 1, "learning_rate": 1.0},
        "privacy": {
            "kind": "local",
            "clip_norm": 0.3,
            "noise_multiplier": 2.0,
            "evaluation_multiplier": 2.0,
            "epsilon": 99,
        },
        "secure_aggregation": {"update_clip": 1.0, "max_weight": 100},
    }
    return Study.model_validate(content).model_copy(update={"task": case.task})


class Shared(nn.Module):
    """One layer under two names, as in DynUNet, and one weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.again = self.first
        self.other = nn.Linear(16, 16)
        self.other.weight = self.first.weight
        self.last = nn.Linear(16, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = torch.tanh(self.again(torch.tanh(self.first(images.flatten(1)))))
        logits: torch.Tensor = self.last(torch.tanh(self.other(inner)))
        return logits


@pytest.mark.parametrize("way", WAYS)
def test_weights_under_two_names_count_once_and_stay_in_their_place(way: Way) -> None:
    net = Shared().double()
    drawn = some_patients((4, 4), "classification")
    for _ in range(2):
        assert worst_error(net, "classification", drawn, way) < 1e-9
    assert net.again.weight is net.other.weight
    with pytest.raises(UnsafeModel, match=TWICE):
        make_safe(net)
