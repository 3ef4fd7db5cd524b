"""Every registered model keeps the promises that per-patient privacy rests on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from opacus.validators import ModuleValidator
from torch import nn

from medveil.errors import UnknownName
from medveil.noise_policies import NoPrivacy
from medveil.study import ModelChoice, SecureAggregation, Study, Training, Transforms
from medveil.tensors import ModelSpec, TensorSpec
from medveil_imaging.models import (
    MODELS,
    BadModel,
    ModelMismatch,
    ModelShape,
    UnsafeModel,
    build,
    build_model,
    initial_vector,
    load_vector,
    make_safe,
    outputs_for,
    spec_of,
    vector_of,
)
from medveil_imaging.models.wavelet_head import cosines

FLAT, SOLID = ModelShape((32, 32), 1), ModelShape((16, 16, 16), 3)
CASES = [
    pytest.param("densenet121", FLAT, marks=pytest.mark.slow),
    pytest.param("densenet121", ModelShape((32, 32, 32), 2), marks=pytest.mark.slow),
    ("depth_head", SOLID),
    ("hippocampus_head", SOLID),
    ("lenet", FLAT),
    ("mobilenet", ModelShape((32, 32), 10, channels=3)),
    ("on_top", SOLID),
    ("position_head", SOLID),
    ("segresnet3d", SOLID),
    ("small_cnn", FLAT),
    ("small_cnn", SOLID),
    ("small_cnn", ModelShape((32, 32), 1, channels=3)),
    ("unet3d", SOLID),
    ("unet3d", ModelShape((16, 16, 16), 3, channels=4)),
    ("wavelet_head", FLAT),
    ("wavelet_head", ModelShape((32, 32), 1, channels=3)),
    ("wavelet_head", ModelShape((40, 32), 3)),
]


def test_every_registered_model_is_in_the_contract_test() -> None:
    elsewhere = {"frozen_encoder"}  # needs a file; test_training_frozen_encoder.py has it
    elsewhere |= {name for name in MODELS if name.startswith("monai:")}  # test_monai_networks.py has them
    assert {getattr(case, "values", case)[0] for case in CASES} | elsewhere == set(MODELS)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_one_images_output_does_not_depend_on_the_others(name: str, shape: ModelShape) -> None:
    model = build(name, shape, {}, seed=0).double()
    load_vector(model, np.random.default_rng(0).normal(scale=0.05, size=spec_of(model).size).astype("f4"))
    images = torch.randn(
        3, shape.channels, *shape.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    with torch.no_grad():
        assert torch.allclose(model(images)[:1], model(images[:1]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_opacus_finds_nothing_to_object_to(name: str, shape: ModelShape) -> None:
    assert ModuleValidator.validate(build(name, shape, {}), strict=False) == []


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_the_seed_alone_decides_the_initial_weights_and_global_randomness_is_left_alone(
    name: str, shape: ModelShape
) -> None:
    state = torch.get_rng_state()
    spec, first = initial_vector(name, shape, {}, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(7)  # whatever else draws from the global generator
    again = initial_vector(name, shape, {}, seed=5)[1]
    other = initial_vector(name, shape, {}, seed=6)[1]
    assert first.dtype == np.float32
    assert first.shape == (spec.size,)
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (
        name in {"depth_head", "hippocampus_head", "position_head", "wavelet_head"}
    )


def test_a_vector_survives_loading() -> None:
    model = build("small_cnn", FLAT, {"width": 8})
    vector = np.random.default_rng(0).normal(size=spec_of(model).size).astype(np.float32)
    load_vector(model, vector)
    assert np.array_equal(vector_of(model), vector)


def test_the_wavelet_head_has_1217_weights_and_starts_at_zero() -> None:
    spec, vector = initial_vector("wavelet_head", ModelShape((64, 64), 1), {}, seed=0)
    assert spec.size == 1217
    assert not vector.any()


def test_wavelet_features_computed_once_give_the_same_logits() -> None:
    model = build("wavelet_head", FLAT, {})
    load_vector(model, np.random.default_rng(1).normal(size=1217).astype(np.float32))
    images = torch.randn(130, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    features = model.features(images)
    assert features.shape == (130, 1217)
    assert torch.allclose(features[:, :-1].norm(dim=1), torch.ones(130), atol=1e-5)
    assert torch.equal(model(features), model(images))
    assert model.features(images[:0]).shape == (0, 1217)
    assert torch.isfinite(model.features(torch.zeros(1, 1, 32, 32))).all()


@pytest.mark.parametrize("equalised", [False, True])
def test_wavelet_features_are_the_same_numbers_on_every_machine(equalised: bool) -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    picture = torch.sin(rows / 3) + torch.cos(columns / 5)
    features = build("wavelet_head", FLAT, {"equalised": equalised}).features(
        ((picture - picture.mean()) / picture.std())[None, None]
    )
    chosen = features[0, [1, 100, 500, 900, 1215, 1216]].tolist()
    assert chosen == pytest.approx(EXPECTED_FEATURES[equalised], abs=2e-5)


def test_equalised_features_are_cosine_coefficients_that_no_longer_fall_off_with_their_frequency() -> None:
    plain, equalised = (build("wavelet_head", FLAT, {"equalised": on}) for on in (False, True))
    falling = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(3)).cumsum(2).cumsum(3)
    falling = (falling - falling.mean((2, 3), keepdim=True)) / falling.std((2, 3), keepdim=True)
    waves = torch.from_numpy(cosines(8)).float()
    assert torch.allclose(waves @ waves.T, torch.eye(8), atol=1e-6)
    energies = plain.energies(falling[:, 0])
    assert torch.allclose(equalised.energies(falling[:, 0]), waves @ energies @ waves.T, atol=1e-4)
    # the geometric mean of a channel's deviation and the coefficient's own, which is a quarter at least
    channel, coefficient = (model.get_buffer("deviation") for model in (plain, equalised))
    assert bool((coefficient >= channel / 2 - 1e-6).all())
    before, after = (
        (waves @ energies @ waves.T / channel).std(0)[1:],
        (equalised.energies(falling[:, 0]) / coefficient).std(0)[1:],
    )
    assert float(after[:, 1, 1].mean() / after[:, 7, 7].mean()) < 0.7 * float(
        before[:, 1, 1].mean() / before[:, 7, 7].mean()
    )
    features = equalised.features(falling)
    assert features.shape == (64, 1217)
    assert torch.allclose(features[:, :-1].norm(dim=1), torch.ones(64), atol=1e-5)


EXPECTED_FEATURES = {
    False: [0.020278, -0.010861, -0.034771, -0.010039, -0.001676, 0.3],
    True: [0.006756, -0.001244, 0.000529, 0.018282, 2.2e-05, 0.3],
}


@pytest.mark.parametrize(
    "bad",
    [
        nn.BatchNorm2d(3),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.Sequential(nn.BatchNorm3d(3))),
    ],
)
def test_networks_that_remember_data_are_refused(bad: nn.Module) -> None:
    with pytest.raises(UnsafeModel):
        make_safe(bad)


def test_a_trained_buffer_is_refused() -> None:
    layer = nn.Linear(2, 2)
    layer.register_buffer("mean", torch.zeros(2))
    with pytest.raises(UnsafeModel):
        make_safe(layer)


def test_in_place_activations_are_switched_off() -> None:
    model = make_safe(nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)))
    assert not model[1].inplace


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("small_cnn", FLAT, {"depth": 3}),
        ("small_cnn", FLAT, {"width": "16"}),
        ("small_cnn", FLAT, {"width": 6}),
        ("small_cnn", ModelShape((8, 64), 1), {}),
        ("wavelet_head", SOLID, {}),
        ("wavelet_head", ModelShape((16, 16), 1), {}),
        ("densenet121", ModelShape((16, 16), 1), {}),
        ("unet3d", FLAT, {}),
        ("unet3d", ModelShape((20, 16, 16), 3), {}),
        ("unet3d", SOLID, {"channels": "8"}),
        ("segresnet3d", ModelShape((16, 16, 20), 3), {}),
        ("segresnet3d", SOLID, {"width": 6}),
        ("position_head", ModelShape((16, 16, 16), 3, channels=2), {}),
        ("lenet", SOLID, {}),
        ("lenet", ModelShape((12, 28), 10), {}),
        ("lenet", ModelShape((28, 224), 10), {}),
        ("lenet", FLAT, {"width": 9}),
        ("mobilenet", SOLID, {}),
        ("mobilenet", ModelShape((28, 28), 1), {}),
        ("mobilenet", FLAT, {"width": 9}),
        ("unet3d", SOLID, {"norm": "batch"}),
        ("unet3d", SOLID, {"units": 9}),
    ],
)
def test_what_a_model_cannot_be_is_a_named_error(
    name: str, shape: ModelShape, options: dict[str, int | str]
) -> None:
    with pytest.raises(BadModel):
        build(name, shape, options)


@pytest.mark.parametrize("name", ["densenet121", "segresnet3d", "small_cnn", "unet3d"])
def test_networks_take_as_many_channels_as_the_study_has(name: str) -> None:
    size = (32, 32, 32)
    one, four = (spec_of(build(name, ModelShape(size, 2, channels), {})) for channels in (1, 4))
    differ = [(a.shape, b.shape) for a, b in zip(one.root, four.root, strict=True) if a != b]
    assert differ
    assert all(few[1:2] == (1,) and many[1:2] == (4,) for few, many in differ)


def test_lenet_has_the_layers_with_which_averaging_was_introduced() -> None:
    """Convolutions 5x5 of 32 and 64, then 120, 84 and 10."""
    spec = spec_of(build("lenet", ModelShape((28, 28), 10), {}))
    shapes = [tensor.shape for tensor in spec.root if len(tensor.shape) > 1]
    assert shapes == [(32, 1, 5, 5), (64, 32, 5, 5), (120, 1024), (84, 120), (10, 84)]
    assert spec.size == 186_110


def test_mobilenet_has_the_weights_of_the_papers_network_at_its_size() -> None:
    """2,236,682 at 224 x 224 x 3 and ten classes, as torchvision's mobilenet_v2, whose names they have."""
    spec = spec_of(build("mobilenet", ModelShape((224, 224), 10, channels=3), {}))
    assert spec.size == 2_236_682
    names = [tensor.name for tensor in spec.root]
    assert names[:2] == ["features.0.0.weight", "features.0.1.weight"]
    assert {"features.1.conv.1.weight", "features.17.conv.3.bias", "classifier.1.weight"} <= set(names)
    half = spec_of(build("mobilenet", ModelShape((32, 32), 10), {"width": 0.5}))
    assert half.size < 0.35 * spec.size


def test_the_larger_unet_has_residual_units_and_either_norm() -> None:
    large = {"channels": "16-32-64-128", "units": 2}
    assert spec_of(build("unet3d", SOLID, large)).size == 1_188_924
    group = build("unet3d", ModelShape((32, 16, 16), 3), {"channels": "4-8-8", "units": 2, "norm": "group"})
    kinds = {type(layer) for layer in group.modules()}
    assert nn.GroupNorm in kinds
    assert nn.InstanceNorm3d not in kinds
    assert spec_of(build("unet3d", SOLID, {})) == spec_of(build("unet3d", SOLID, {"units": 0}))


def test_each_channel_has_wavelet_features_of_its_own() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = build("wavelet_head", ModelShape((32, 32), 1, channels=3), {}).features(images)
    single = build("wavelet_head", FLAT, {})
    parts = torch.stack([single.features(images[:, c : c + 1])[:, :-1] for c in range(3)], 1)
    own = found[:, :-1].unflatten(1, (3, -1))
    assert torch.allclose(own / own.norm(dim=2, keepdim=True), parts, atol=1e-5)
    assert torch.allclose(found[:, :-1].norm(dim=1), torch.ones(2), atol=1e-5)


def test_an_unknown_model_is_a_named_error() -> None:
    with pytest.raises(UnknownName):
        build("resnet9000", FLAT, {})


def study_with(tensors: ModelSpec) -> Study:
    return Study(
        name="contract",
        task="classification",
        classes=("normal", "abnormal"),
        model=ModelChoice(name="small_cnn", tensors=tensors, initial_model="0" * 64),
        transforms=Transforms(profile="xray", size=(32, 32)),
        training=Training(rounds=1, local_epochs=1, learning_rate=0.1),
        privacy=NoPrivacy(),
        secure_aggregation=SecureAggregation(update_clip=1.0, max_weight=10),
    )


def test_a_study_builds_exactly_the_tensors_it_lists() -> None:
    spec, _ = initial_vector("small_cnn", FLAT, {}, seed=0)
    assert spec_of(build_model(study_with(spec))) == spec
    for wrong in (
        ModelSpec(spec.root[:-1]),
        ModelSpec(spec.root[::-1]),
        ModelSpec((*spec.root[:-1], TensorSpec(name="11.bias", shape=(2,)))),
    ):
        with pytest.raises(ModelMismatch):
            build_model(study_with(wrong))


def test_two_classes_need_one_logit_and_segmentation_one_per_class() -> None:
    assert outputs_for("classification", ("a", "b")) == 1
    assert outputs_for("classification", ("a", "b", "c")) == 3
    assert outputs_for("segmentation", ("background", "a")) == 2
