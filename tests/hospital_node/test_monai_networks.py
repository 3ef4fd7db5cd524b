"""MONAI's networks by name: each keeps the contract of per-patient training; what does not fit is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.networks import nets
from monai.networks.layers import DropPath
from torch import nn

from hospital_node.training.gradients import Drawn
from medveil.errors import UnknownName
from medveil.study import ModelChoice
from medveil_imaging.models import (
    MODELS,
    BadModel,
    ModelShape,
    build,
    initial_vector,
    monai_networks,
    spec_of,
)
from medveil_imaging.models.monai_networks import NETWORKS
from medveil_imaging.per_image import fit
from per_patient import worst_error
from small_networks import QUICK, SMALL, size_for
from tries import leading

ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(NETWORKS)]
LARGER = {
    *("DenseNet169", "DenseNet201", "DenseNet264", "SEResNet101", "SEResNet152", "SEResNeXt101", "SENet154"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"),
}


def some_patients(shape: ModelShape, *, outlines: bool) -> list[Drawn]:
    g = torch.Generator().manual_seed(1)
    labels = shape.size if outlines else ()
    return [
        Drawn(
            torch.randn(k, shape.channels, *shape.size, generator=g, dtype=torch.float64),
            torch.randint(shape.outputs, (k, *labels), generator=g),
        )
        for k in (1, 2)
    ]


@pytest.mark.parametrize("name", [p for p in ALL if p.values[0] not in LARGER])
def test_both_ways_to_a_patients_gradient_equal_a_loop(name: str) -> None:
    """Two channels, two outputs; of networks that differ in depth only, the smallest."""
    outlines = NETWORKS[name].outlines
    shape = ModelShape(size_for(name), 2, 2)
    net = build(f"monai:{name}", shape, SMALL.get(name, {})).double()
    drawn = some_patients(shape, outlines=outlines)
    for way in ("together", "single"):
        assert worst_error(net, "segmentation" if outlines else "classification", drawn, way) < 1e-5


@pytest.mark.parametrize("name", ALL)
def test_an_image_gets_its_own_logits_whatever_else_is_in_the_batch(name: str) -> None:
    shape = ModelShape(size_for(name), 3)
    net = build(f"monai:{name}", shape, SMALL.get(name, {})).double()
    images = torch.randn(3, 1, *shape.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        together, again = net(images), net(images)
        assert torch.equal(together, again)
        assert torch.allclose(together[:1], net(images[:1]), rtol=1e-9, atol=1e-9)
    assert together.shape == (3, 3, *(shape.size if NETWORKS[name].outlines else ()))
    assert not set(net.state_dict()) - {weight for weight, _ in net.named_parameters()}


@pytest.mark.parametrize("name", sorted(QUICK - {"DenseNet"}))
def test_networks_take_volumes_of_several_channels(name: str) -> None:
    shape = ModelShape((32, 16, 32), 2, 4)
    spec, start = initial_vector(f"monai:{name}", shape, SMALL[name], seed=3)
    assert spec.size == start.size
    assert (start == initial_vector(f"monai:{name}", shape, SMALL[name], seed=3)[1]).all()


def test_every_network_of_the_list_is_registered_under_its_own_name() -> None:
    assert {f"monai:{name}" for name in NETWORKS} == {name for name in MODELS if name.startswith("monai:")}
    for name in NETWORKS:
        chosen = ModelChoice(name=f"monai:{name}", tensors=spec_of(nn.Linear(1, 1)), initial_model="0" * 64)
        assert chosen.name == f"monai:{name}"


def test_what_is_not_on_the_list_cannot_be_reached() -> None:
    for name in ("monai:Discriminator", "monai:HyenaNDUNETR", "monai:os", "monai:densenet121"):
        with pytest.raises(UnknownName):
            build(name, ModelShape((32, 32), 1), {})
    with pytest.raises(ValueError, match="pattern"):
        ModelChoice(name="monai:nets.UNet", tensors=spec_of(nn.Linear(1, 1)), initial_model="0" * 64)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("UNet", {"depth": 3}, r"no option 'depth' .options: act, batch_norm, channels, kernel_size"),
        ("UNet", {"channels": "4-x"}, "must look like '16-32-64'"),
        ("UNet", {"channels": "4-99999"}, "from 0 to 8192"),
        ("UNet", {"channels": "-".join(["2"] * 17)}, "at most 16"),
        ("UNet", {"channels": "4-8-8", "num_res_units": True}, "must be int"),
        ("UNet", {"channels": "4-8-8", "norm": "INSTANCE_NVFUSER"}, "one of INSTANCE, BATCH"),
        ("UNet", {"channels": "4-8-8-8-8-8-8"}, "MONAI refuses|of an image it gives"),
        ("UNet", {"dropout": 0.1}, "dropout is off"),
        ("DenseNet121", {"pretrained": True}, "no option 'pretrained' .options: batch_norm"),
        ("ViT", {"hidden_size": 24, "num_heads": 5}, "MONAI refuses"),
        ("SwinUNETR", {}, "MONAI refuses"),
        ("SwinUNETR", {"feature_size": 6000}, "feature_size up to 192"),
        ("ViT", {**SMALL["ViT"], "batch_norm": "fixed"}, "has no batch norm"),
        ("EfficientNetBN", {"model_name": "efficientnet-b99"}, "MONAI refuses"),
    ],
)
def test_options_and_sizes_that_do_not_suit_are_refused_by_name(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadModel, match=said) as caught:
        build(f"monai:{name}", ModelShape((32, 32), 2), options)
    assert f"monai:{name}" in str(caught.value)


def test_a_network_of_too_many_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monai_networks, "MOST_WEIGHTS", 1000)
    with pytest.raises(BadModel, match="more than 1,000 weights"):
        build("monai:Classifier", ModelShape((32, 32), 2), {"channels": "8"})


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 1), (3, 1), (7, 1), (12, 6), (18, 6), (64, 8)])
def test_batch_norm_becomes_group_norm_whose_groups_divide_the_channels(channels: int, groups: int) -> None:
    for batch in (nn.BatchNorm2d(channels), nn.SyncBatchNorm(channels)):
        nn.init.normal_(batch.weight)
        norm: Any = fit(nn.Sequential(batch))[0]
        assert type(norm) is nn.GroupNorm
        assert norm.num_groups == groups
        assert norm.weight is batch.weight
        assert list(norm.buffers()) == []


def test_nothing_is_drawn_and_nothing_is_remembered() -> None:
    net = fit(
        nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.InstanceNorm2d(4, track_running_stats=True),
            nn.Dropout2d(0.5),
            DropPath(0.5),
        )
    )
    images = torch.randn(2, 1, 8, 8)
    state = torch.get_rng_state()
    assert torch.equal(net(images), net(images))
    assert torch.equal(state, torch.get_rng_state())
    assert list(net.buffers()) == []


def test_weights_keep_the_names_and_shapes_that_monai_gives_them() -> None:
    """So weights that were trained elsewhere fit by name."""
    shape = ModelShape((32, 32), 1)
    theirs = dict(nets.DenseNet121(2, 1, 1).named_parameters())
    ours = {t.name: t.shape for t in spec_of(build("monai:DenseNet121", shape, {})).root}
    assert ours == {name: tuple(weight.shape) for name, weight in theirs.items()}


def test_dynunet_without_its_second_names_gives_the_same_output() -> None:
    ours = build("monai:DynUNet", ModelShape((32, 32), 2), SMALL["DynUNet"])
    theirs = nets.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8])
    assert set(theirs.load_state_dict(ours.state_dict(), strict=False).unexpected_keys) == set()
    images = torch.randn(2, 1, 32, 32)
    assert torch.allclose(ours(images), theirs(images))


def test_fixed_batch_norm_is_what_it_was_in_evaluation_and_its_statistics_are_not_trained() -> None:
    theirs = nets.DenseNet(2, 1, 2, init_features=8, growth_rate=4, block_config=(1, 1))
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    ours = fit(copy.deepcopy(theirs), "fixed")
    statistics = {name for name in theirs.state_dict() if name.endswith(("running_mean", "running_var"))}
    assert ours.load_state_dict(theirs.state_dict(), strict=False).missing_keys == []
    assert {n for n, weight in ours.named_parameters() if not weight.requires_grad} == statistics
    assert list(ours.buffers()) == []
    images = torch.randn(3, 1, 32, 32)
    expected = theirs.eval()(images)
    for training in (False, True):
        assert torch.allclose(ours.train(training)(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", leading(["mobilenet", "monai:DenseNet"], 1))
def test_statistics_of_batch_norm_come_from_a_file_or_the_network_is_refused(name: str) -> None:
    with pytest.raises(BadModel, match="base_weights"):
        build(name, ModelShape((32, 32), 1), {"batch_norm": "fixed"})
    with pytest.raises(BadModel, match="one of group, fixed"):
        build(name, ModelShape((32, 32), 1), {"batch_norm": "batch"})
