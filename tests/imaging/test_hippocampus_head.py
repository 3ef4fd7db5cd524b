"""The hippocampus head: what drawings teach is fixed and shipped, and few weights correct it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medveil_imaging.drawn_crops import SIZE, draw_crop, draw_person, draw_population
from medveil_imaging.models import BadModel, ModelShape, build, initial_vector, load_vector, spec_of
from medveil_imaging.models import hippocampus_head as module

SMALL = (16, 20, 16)


def a_crop(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    image, labels = draw_crop(random, draw_person(random, draw_population(random)))
    return torch.from_numpy(image)[None, None], torch.from_numpy(labels.astype(np.int64))


def test_a_drawing_is_a_crop_of_a_head_in_front_of_a_body_and_comes_from_its_seed_alone() -> None:
    image, labels = a_crop(5)
    again, _ = a_crop(5)
    assert torch.equal(image, again)
    assert image.shape[2:] == labels.shape == SIZE
    inside = image[image != 0]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-3)
    assert float(inside.std()) == pytest.approx(1, abs=1e-3)
    sizes = [int((labels == part).sum()) for part in (1, 2)]
    assert all(500 < size < 4000 for size in sizes)  # cubic millimetres
    front, behind = ((labels == part).nonzero().double().mean(0)[1] for part in (1, 2))
    assert front > behind + 8


@pytest.mark.parametrize(("outputs", "weights"), [(2, 120), (3, 140)])
def test_three_classes_take_140_weights_and_the_whole_alone_120(outputs: int, weights: int) -> None:
    spec, vector = initial_vector("hippocampus_head", ModelShape(SIZE, outputs), {}, seed=0)
    assert spec.size == weights
    assert not vector.any()


def test_before_any_patient_it_outlines_what_it_has_never_seen_drawn() -> None:
    model = build("hippocampus_head", ModelShape(SIZE, 3), {}).eval()
    image, labels = a_crop(77)
    with torch.no_grad():
        found = model(image)[0].argmax(0)
    for part in (1, 2):
        here, there = found == part, labels == part
        assert float(2 * (here & there).sum() / (here.sum() + there.sum())) > 0.6


@pytest.mark.parametrize("outputs", [2, 3])
def test_features_computed_once_give_the_same_logits(outputs: int) -> None:
    model = build("hippocampus_head", ModelShape(SMALL, outputs), {})
    drawn = np.random.default_rng(0).normal(size=spec_of(model).size)
    load_vector(model, drawn.astype(np.float32))
    images = torch.randn(2, 1, *SMALL, generator=torch.Generator().manual_seed(0))
    features = model.features(images)
    assert (features.shape[:2], features.dtype) == ((2, 18), torch.float16)
    for training in (True, False):
        model.train(training)
        assert torch.equal(model(features), model(images))
        assert model(images[:0]).shape == (0, outputs, *SMALL)
    with pytest.raises(ValueError, match="size"):
        model.features(images[:, :, :12])


def test_where_an_outline_is_judged_a_single_voxel_follows_its_neighbours() -> None:
    model = build("hippocampus_head", ModelShape(SMALL, 2), {})
    logits = torch.zeros(1, 2, *SMALL)
    logits[:, 1] = -2.0
    logits[0, 1, 13, 16, 13] = 1.0
    logits[0, 1, 2:10, 2:12, 2:10] = 1.0
    found = model._even(logits).argmax(1)[0]
    assert not found[13, 16, 13]
    assert found[4:8, 4:10, 4:8].all()


def test_a_changed_or_missing_file_is_a_named_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert module.FILE.stat().st_size < 200_000
    changed = tmp_path / "hippocampus_head.safetensors"
    monkeypatch.setattr(module, "FILE", changed)
    for content in (None, b"something else"):
        if content is not None:
            changed.write_bytes(content)
        module._public.cache_clear()
        with pytest.raises(BadModel, match="missing or changed"):
            build("hippocampus_head", ModelShape(SMALL, 3), {})
    module._public.cache_clear()


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (ModelShape((64, 64), 3), {}),
        (ModelShape((8, 16, 16), 3), {}),
        (ModelShape((18, 16, 16), 3), {}),
        (ModelShape(SMALL, 4), {}),
        (ModelShape(SMALL, 3, channels=2), {}),
        (ModelShape(SMALL, 3), {"grid": 4}),
    ],
)
def test_what_it_cannot_be_is_a_named_error(shape: ModelShape, options: dict[str, int]) -> None:
    with pytest.raises(BadModel):
        build("hippocampus_head", shape, options)
