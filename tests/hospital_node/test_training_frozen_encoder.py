"""A frozen encoder from a file: only its head trains, and a wrong file is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from hospital_node.ledger import Ledger
from hospital_node.training import FeatureCache, TrainingRound, evaluate, self_check, train
from hospital_node.training.features import features, with_features
from hospital_node.training.gradients import Drawn, patient_gradients
from medveil.metrics import summarise
from medveil.study import Study
from medveil.tasks import TASKS
from medveil.tensors import Float32
from medveil_imaging.frozen import FOLDER, BadEncoder, NoEncoder
from medveil_imaging.models import (
    BadModel,
    ModelShape,
    Options,
    build,
    build_model,
    initial_vector,
    load_vector,
    vector_of,
)
from medveil_imaging.patients import PatientImages
from privacy.dp.noise import NoiseSource
from tries import leading

CPU = torch.device("cpu")
FILM = ModelShape((32, 32), 1)
HEAD = 2 * 16 * 16 + 1
"""What a small_cnn of width 16 has before its own head, and the constant."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


def kept(folder: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> str:
    """Write a file under the name of its content; the name."""
    return kept_bytes(folder, safetensors.torch.save(tensors, metadata=metadata or None))


def kept_bytes(folder: Path, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    (folder / f"{digest}.safetensors").write_bytes(data)
    return digest


def weights(name: str = "small_cnn", shape: ModelShape = FILM) -> dict[str, torch.Tensor]:
    """A network's weights, as somebody else's training left them."""
    return {key: value.detach().clone() for key, value in build(name, shape, {}, seed=7).named_parameters()}


def options(digest: str, encoder: str = "small_cnn") -> Options:
    return {"encoder": encoder, "weights": digest}


def make_study(digest: str, **changes: Any) -> tuple[Study, Float32]:
    chosen = options(digest)
    spec, vector = initial_vector("frozen_encoder", FILM, chosen, seed=3)
    content: dict[str, Any] = {
        "name": "frozen",
        "task": "classification",
        "classes": ("normal", "abnormal"),
        "model": {"name": "frozen_encoder", "options": chosen, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {"profile": "xray", "size": FILM.size},
        "training": {"rounds": 1, "local_steps": 10, "learning_rate": 30.0},
        "privacy": {
            "kind": "local",
            "clip_norm": 0.3,
            "noise_multiplier": 0.01,
            "evaluation_multiplier": 2.0,
            "epsilon": 1e12,
        },
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    return Study.model_validate(content | changes), vector


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


def test_only_the_head_trains_and_it_learns_under_privacy(folder: Path, tmp_path: Path) -> None:
    stored = weights()
    study, vector = make_study(kept(folder, stored))
    assert vector.shape == (HEAD,)
    assert not vector.any()
    with Ledger.open(tmp_path / "ledger.jsonl") as ledger:
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
    assert update.values.shape == (HEAD,)
    sums = evaluate(study, vector + update.values, films(20, seed=1), device=CPU)
    assert summarise(study, sums)["auroc"] > 0.9
    model: Any = build_model(study)
    for name, value in model.encoder.named_parameters():
        assert torch.equal(value, stored[name])
        assert not value.requires_grad


def test_an_encoder_in_a_study_passes_the_self_check(folder: Path) -> None:
    study, _ = make_study(kept(folder, weights()))
    self_check(study, build_model(study))


def test_features_are_the_networks_own_and_of_unit_length(folder: Path) -> None:
    net: Any = build("frozen_encoder", FILM, options(kept(folder, weights())))
    original = build("small_cnn", FILM, {}, seed=7)
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = nn.Sequential(*list(original.children())[:-1])(images)
    seen = seen - seen.mean(1, keepdim=True)
    found = net.features(images)
    torch.testing.assert_close(found[:, :-1], seen / seen.norm(dim=1, keepdim=True))
    assert torch.equal(net(found), net(images))
    assert net.features(images[:0]).shape == (0, HEAD)


@pytest.mark.parametrize(
    ("encoder", "shape"), leading([("small_cnn", ModelShape((16, 16, 16), 3)), ("densenet121", FILM)], 1)
)
def test_patient_gradients_of_the_head_equal_a_loop(folder: Path, encoder: str, shape: ModelShape) -> None:
    digest = kept(folder, weights(encoder, ModelShape(shape.size, 1)))
    net = build("frozen_encoder", shape, options(digest, encoder)).double()
    load_vector(net, np.random.default_rng(0).normal(size=len(vector_of(net))).astype("f4"))
    g = torch.Generator().manual_seed(1)
    drawn = [
        Drawn(torch.randn(k, 1, *shape.size, generator=g).double(), torch.randint(2, (k,), generator=g))
        for k in (1, 2)
    ]
    cached = [Drawn(features(net, one.images, CPU), one.labels) for one in drawn]
    loss, weight = TASKS["classification"].loss, dict(net.named_parameters())["head.weight"]
    expected = torch.cat(
        [torch.autograd.grad(loss(net(one.images), one.labels).mean(), weight)[0][None] for one in drawn]
    )
    found = torch.cat([chunk[weight] for chunk in patient_gradients(net, loss, cached, device=CPU)])
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_features_are_computed_once_for_all_rounds(folder: Path) -> None:
    study, vector = make_study(kept(folder, weights()))
    patients, cache, model = films(4), FeatureCache(), build_model(study)
    first = cache.get(study, model, patients, CPU)
    assert cache.get(study, model, patients, CPU) is first
    assert all(
        torch.equal(a.images, b.images)
        for a, b in zip(first, with_features(model, patients, CPU), strict=True)
    )
    assert vector.shape[0] == first[0].images.shape[1]


def test_metadata_a_foreign_head_and_half_precision_are_taken(folder: Path) -> None:
    stored = {name: value.half() for name, value in weights().items()}
    stored["11.weight"] = torch.ones(1000, 7)  # the head of another task
    model: Any = build("frozen_encoder", FILM, options(kept(folder, stored, format="pt")))
    assert all(torch.equal(value, stored[name].float()) for name, value in model.encoder.named_parameters())


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(NoEncoder) as caught:
        build("frozen_encoder", FILM, options("a" * 64))
    assert caught.value.code == "no-encoder"
    assert "a" * 64 in str(caught.value)


def test_a_file_of_another_content_than_its_name_is_refused(folder: Path) -> None:
    digest = kept(folder, weights())
    build("frozen_encoder", FILM, options(digest))  # also when it was right before
    data = bytearray((folder / f"{digest}.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / f"{digest}.safetensors").write_bytes(bytes(data))
    with pytest.raises(BadEncoder, match="does not have the hash"):
        build("frozen_encoder", FILM, options(digest))


def missing(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors.items() if name != "0.weight"}


def wrong_shape(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"0.weight": torch.zeros(16, 1, 5, 5)}


def not_finite(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"0.bias": torch.full((16,), float("nan"))}


def whole_numbers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"0.bias": torch.zeros(16, dtype=torch.int64)}


def coarse(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"0.bias": torch.zeros(16, dtype=torch.bfloat16)}


@pytest.mark.parametrize("change", [missing, wrong_shape, not_finite, whole_numbers, coarse])
def test_a_file_for_another_network_or_of_other_numbers_is_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    with pytest.raises(BadEncoder) as caught:
        build("frozen_encoder", FILM, options(kept(folder, change(weights()))))
    assert caught.value.code == "bad-encoder"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a pickle in a zip", b"\xff" * 64])
def test_a_file_of_another_kind_is_refused(folder: Path, data: bytes) -> None:
    with pytest.raises(BadEncoder):
        build("frozen_encoder", FILM, options(kept_bytes(folder, data)))


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63])
def test_weights_are_named_by_a_hash_and_by_nothing_else(folder: Path, digest: str) -> None:
    with pytest.raises(BadModel, match="SHA-256"):
        build("frozen_encoder", FILM, options(digest))


@pytest.mark.parametrize("encoder", ["wavelet_head", "frozen_encoder"])
def test_what_has_no_head_to_take_off_is_no_encoder(folder: Path, encoder: str) -> None:
    with pytest.raises(BadModel):
        build("frozen_encoder", FILM, options("a" * 64, encoder))
