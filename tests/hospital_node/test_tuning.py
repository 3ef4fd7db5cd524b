"""Only some weights are trained: patterns and low-rank adapters, with the rest frozen from a file."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hospital_node.ledger import Ledger
from hospital_node.training import TrainingRound, evaluate, self_check, train
from hospital_node.training.gradients import Drawn
from medveil.metrics import summarise
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.frozen import FOLDER, BadEncoder, NoEncoder, encoder_path, keep_frozen
from medveil_imaging.models import (
    BadModel,
    ModelShape,
    Options,
    build,
    build_model,
    build_whole,
    freeze,
    initial_vector,
    load_vector,
    spec_of,
    vector_of,
)
from medveil_imaging.models.monai_networks import NETWORKS
from medveil_imaging.patients import PatientImages
from medveil_imaging.tuning import frozen_of, head_of
from per_patient import worst_error
from privacy.dp.noise import NoiseSource
from small_networks import QUICK, SMALL, size_for

CPU = torch.device("cpu")
FILM = ModelShape((32, 32), 1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "encoders"))
    return tmp_path


def whole(name: str, shape: ModelShape, options: Options, *, seed: int = 7) -> nn.Module:
    """As somebody else's training left it."""
    own = {key: value for key, value in options.items() if key not in ("train_only", "adapters")}
    return build_whole(name, shape, own, seed=seed)[0]


def with_base(name: str, shape: ModelShape, options: Options, *, seed: int = 7) -> dict[str, Any]:
    """The options with the file of what they freeze, which is written."""
    model, tuning = build_whole(name, shape, options, seed=seed)
    freeze(name, shape, model, tuning, seed=seed)
    tensors = {key: value.detach().numpy() for key, value in frozen_of(model).items()}
    return {**options, "base_weights": keep_frozen(tensors)}


long = functools.partial(pytest.param, marks=pytest.mark.slow)
CASES = [
    ("small_cnn", FILM, {"adapters": 2}),
    ("small_cnn", ModelShape((16, 16, 16), 3, channels=2), {"adapters": 1, "train_only": "1.*|11.*"}),
    ("small_cnn", FILM, {"train_only": "11.*"}),
    ("monai:ViT", FILM, {**SMALL["ViT"], "adapters": 2}),
    long("monai:ResNet", FILM, {**SMALL["ResNet"], "train_only": "fc.*|*.bn?.*"}),
    long("monai:DenseNet", FILM, {**SMALL["DenseNet"], "batch_norm": "fixed", "adapters": 1}),
    long("mobilenet", FILM, {"width": 0.1, "batch_norm": "fixed", "train_only": "*"}),
    ("monai:UNet", ModelShape((16, 16), 2), {"channels": "4-8", "adapters": 1}),
    ("monai:DynUNet", ModelShape((16, 16), 2), {**SMALL["DynUNet"], "adapters": 1}),
]
each = pytest.mark.parametrize(("name", "shape", "options"), CASES)


@each
def test_before_a_step_the_network_computes_what_its_base_computes(
    name: str, shape: ModelShape, options: Options
) -> None:
    images = torch.randn(2, shape.channels, *shape.size, generator=torch.Generator().manual_seed(0))
    tuned = build(name, shape, with_base(name, shape, options), seed=7)
    with torch.no_grad():
        assert torch.equal(tuned(images), whole(name, shape, options)(images))


@each
def test_a_patients_gradient_equals_a_loop(name: str, shape: ModelShape, options: Options) -> None:
    net = build(name, shape, with_base(name, shape, options), seed=3).double()
    g = torch.Generator().manual_seed(1)
    load_vector(net, np.random.default_rng(0).normal(scale=0.1, size=len(vector_of(net))).astype("f4"))
    labels = shape.size if name in ("monai:UNet", "monai:DynUNet") else ()
    drawn = [
        Drawn(
            torch.randn(k, shape.channels, *shape.size, generator=g, dtype=torch.float64),
            torch.randint(2, (k, *labels), generator=g),
        )
        for k in (1, 2, 3)
    ]
    for way in ("together", "single"):
        assert worst_error(net, "segmentation" if labels else "classification", drawn, way) < 1e-5


@each
def test_spec_vector_and_build_agree_and_the_seed_decides(
    name: str, shape: ModelShape, options: Options
) -> None:
    chosen = with_base(name, shape, options)
    spec, vector = initial_vector(name, shape, chosen, seed=5)
    net = build(name, shape, chosen, seed=0)
    assert spec_of(net) == spec
    assert vector.shape == (spec.size,)
    assert np.array_equal(vector, initial_vector(name, shape, chosen, seed=5)[1])
    other = np.random.default_rng(0).normal(size=spec.size).astype(np.float32)
    load_vector(net, other)
    assert np.array_equal(vector_of(net), other)
    trained = {tensor.name for tensor in spec.root}
    assert all(weight.requires_grad == (key in trained) for key, weight in net.named_parameters())


@pytest.mark.slow
def test_adapters_train_few_weights_of_a_large_network() -> None:
    """Two of a hundred weights of a DenseNet-121, one of a thousand when its head alone is trained."""
    shape, share = ModelShape((64, 64), 1), {}
    for what, options in {"adapters": {"adapters": 1}, "head": {"train_only": "class_layers.*"}}.items():
        model, tuning = build_whole("monai:DenseNet121", shape, options, seed=0)
        every = spec_of(model).size
        freeze("monai:DenseNet121", shape, model, tuning, seed=0)
        share[what] = spec_of(model).size / every
    assert share["adapters"] < 0.02
    assert share["head"] < 0.001


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in sorted(NETWORKS)]
)
def test_the_last_layer_is_found_in_every_network(name: str) -> None:
    shape = ModelShape(size_for(name), 5)
    net = build(f"monai:{name}", shape, SMALL.get(name, {}))
    order: list[str] = []
    for place, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            layer.register_forward_hook(lambda _layer, _in, _out, place=place: order.append(place))
    with torch.no_grad():
        net(torch.zeros(1, 1, *shape.size))
    assert head_of(net, 5) == order[-1]


def make_study(options: dict[str, Any]) -> tuple[Study, Float32]:
    spec, vector = initial_vector("small_cnn", FILM, options, seed=3)
    content: dict[str, Any] = {
        "name": "tuned",
        "task": "classification",
        "classes": ("normal", "abnormal"),
        "model": {"name": "small_cnn", "options": options, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {"profile": "xray", "size": FILM.size},
        "training": {"rounds": 1, "local_steps": 20, "learning_rate": 2.0},
        "privacy": {
            "kind": "local",
            "clip_norm": 0.3,
            "clipping": "unit",
            "noise_multiplier": 0.01,
            "evaluation_multiplier": 2.0,
            "epsilon": 1e12,
        },
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    return Study.model_validate(content), vector


def films(count: int, seed: int = 0) -> tuple[PatientImages, ...]:
    """Stripes along one axis or the other in noise."""
    g = torch.Generator().manual_seed(seed)
    wave = torch.sin(torch.arange(32) * 1.5).expand(32, 32)
    found = []
    for index in range(count):
        label, k = index % 2, 1 + index % 3
        picture = 2 * (wave if label else wave.T) + torch.randn(k, 1, 32, 32, generator=g)
        found.append(PatientImages(f"p{index}", picture, torch.full((k,), label)))
    return tuple(found)


@pytest.mark.slow
def test_private_fine_tuning_trains_few_weights_and_learns(folder: Path) -> None:
    options = with_base("small_cnn", FILM, {"adapters": 1})
    study, vector = make_study(options)
    assert len(vector) < 0.07 * initial_vector("small_cnn", FILM, {}, seed=0)[0].size
    with Ledger.open(folder / "ledger.jsonl") as ledger:
        ledger.register(study, plan_id="p", dataset="films", cap=1e18)
        given = TrainingRound(
            study,
            vector,
            films(20),
            number=1,
            declared_patients=20,
            noise=NoiseSource.fresh(),
            charge=ledger.charge(study, plan_id="p", round_number=1, attempt=1),
            device=CPU,
        )
        update = train(given)
    assert update.values.shape == vector.shape
    sums = evaluate(study, vector + update.values, films(20, seed=1), device=CPU)
    assert summarise(study, sums)["auroc"] > 0.9
    base = dict(whole("small_cnn", FILM, {}).named_parameters())
    frozen = frozen_of(build_model(study))
    assert frozen
    assert all(torch.equal(value, base[name]) for name, value in frozen.items())


def test_a_tuned_network_passes_the_self_check() -> None:
    study, _ = make_study(with_base("small_cnn", FILM, {"adapters": 1}))
    self_check(study, build_model(study))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("small_cnn", {"train_only": "12.*"}, "no weight matches '12.*'"),
        ("small_cnn", {"adapters": 4}, "must be the SHA-256"),
        ("small_cnn", {"adapters": 4, "base_weights": "../../etc/passwd"}, "must be the SHA-256"),
        ("small_cnn", {"adapters": -1}, "between 0 and 256"),
        ("small_cnn", {"adapters": 256, "width": 4}, "larger than adapters"),
        ("small_cnn", {"adapters": "4"}, "must be int"),
        ("small_cnn", {"base_weights": "a" * 64}, "not trained"),
        ("wavelet_head", {"adapters": 1}, "fixed"),
        ("small_cnn", {"rank": 4}, "no option 'rank'"),
    ],
)
def test_what_cannot_be_tuned_is_refused_by_name(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadModel, match=said):
        build(name, FILM, options)


def test_a_file_of_frozen_weights_is_the_right_one_or_refused() -> None:
    options = with_base("small_cnn", FILM, {"adapters": 2})
    path = encoder_path(options["base_weights"])
    with pytest.raises(BadEncoder, match="not those of 'small_cnn'"):
        build("small_cnn", FILM, {**options, "width": 8})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BadEncoder, match="does not have the hash"):
        build("small_cnn", FILM, options)
    path.unlink()
    with pytest.raises(NoEncoder):
        build("small_cnn", FILM, options)
