"""The position head: few weights, public features, and an outline learned from where things lie and look."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medveil.tasks import TASKS
from medveil_imaging.models import (
    BadModel,
    ModelShape,
    build,
    initial_vector,
    load_vector,
    spec_of,
)
from medveil_imaging.models.position_head import contrasts, hats, slope, smoothing

SIZE = (16, 20, 18)
USUAL = (48, 64, 48)


def volumes(count: int, *, seed: int = 0, size: tuple[int, ...] = SIZE) -> torch.Tensor:
    return torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("outputs", "weights"), [(2, 765), (3, 861), (4, 957)])
def test_three_classes_take_861_weights_and_a_further_part_96_more(outputs: int, weights: int) -> None:
    spec, vector = initial_vector("position_head", ModelShape(USUAL, outputs), {}, seed=0)
    assert spec.size == weights
    assert not vector.any()


@pytest.mark.parametrize("outputs", [2, 3, 5])
def test_features_computed_once_give_the_same_logits(outputs: int) -> None:
    model = build("position_head", ModelShape(SIZE, outputs), {})
    random = np.random.default_rng(0)
    load_vector(model, random.normal(size=spec_of(model).size).astype(np.float32))
    images = volumes(3)
    features = model.features(images)
    assert (features.shape[:2], features.dtype) == ((3, 23), torch.float16)
    assert float(features.abs().max()) <= 3
    assert model(images).shape == (3, outputs, *SIZE)
    assert torch.equal(model(features), model(images))
    assert model.features(images[:0]).shape == (0, *features.shape[1:])
    assert model(images[:0]).shape == (0, outputs, *SIZE)
    assert torch.isfinite(model(torch.zeros(1, 1, *SIZE))).all()


def test_far_from_the_centre_no_weight_has_a_say() -> None:
    model = build("position_head", ModelShape(USUAL, 3), {})
    images = volumes(1, size=USUAL)
    with torch.no_grad():
        before = model(images)
        load_vector(model, np.full(861, 1e3, np.float32))
        after = model(images)
    changed = (before != after).any(1)[0]
    for corner in ((0, 0, 0), (47, 63, 47), (0, 32, 24), (24, 0, 24), (24, 32, 0)):
        assert not changed[corner]
    assert changed[24, 32, 24]
    assert float(before[:, 0].abs().max()) == 0
    assert float(before[:, 1:, 0, 0, 0].max()) == pytest.approx(-7.5)
    assert float(before[:, 1:, 24, 32, 24].max()) == pytest.approx(-1.5)


def test_parts_are_told_apart_without_moving_the_structure() -> None:
    assert contrasts(2).tolist() == [[1.0], [-1.0]]
    for parts in (1, 2, 3, 5):
        columns = contrasts(parts)
        assert columns.sum(0) == pytest.approx(np.zeros(parts - 1), abs=1e-6)
        assert columns.T @ columns == pytest.approx(2 * np.eye(parts - 1), abs=1e-6)


def test_filters_keep_what_they_must() -> None:
    for deviation in (0.8, 2.0, 4.0):
        assert smoothing(20, deviation).sum(1) == pytest.approx(np.ones(20))
    assert slope(20) @ np.arange(20.0) == pytest.approx([0.5, *[1.0] * 18, 0.5])
    assert hats(20, 5).sum(1) == pytest.approx(np.ones(20))
    assert hats(20, 5) @ np.linspace(0, 1, 5) == pytest.approx((np.arange(20) + 0.5) / 20)


def test_features_are_the_same_numbers_on_every_machine() -> None:
    x, y, z = torch.meshgrid(*(torch.arange(float(edge)) for edge in SIZE), indexing="ij")
    picture = torch.sin(x / 3) + torch.cos(y / 5) + torch.sin((y + z) / 2)
    scored = (picture - picture.mean()) / picture.std()
    features = build("position_head", ModelShape(SIZE, 3), {}).features(scored[None, None])
    chosen = features[0, [0, 4, 9, 10, 14, 15, 20, 21, 22], 700].tolist()
    assert chosen == pytest.approx(EXPECTED_FEATURES, abs=2e-3)


EXPECTED_FEATURES = [0.0015, 0.4951, 0.0352, 0.6074, 0.446, -0.3132, 0.1133, 0.7827, 0.2861]


def test_a_bright_ball_is_outlined_after_a_few_steps() -> None:
    x, y, z = (torch.arange(edge) - edge / 2 for edge in SIZE)
    random = torch.Generator().manual_seed(3)
    images, labels = volumes(6, seed=1) * 0.5, torch.zeros(6, *SIZE, dtype=torch.long)
    for image, label in zip(images, labels, strict=True):
        a, b, c = (torch.rand(3, generator=random) * 4 - 2).tolist()
        distance = (x + a)[:, None, None] ** 2 + (y + b)[None, :, None] ** 2 + (z + c)[None, None, :] ** 2
        label[distance < 16] = 1
        label[(distance < 16) & (y + b > 0)[None, :, None]] = 2
        image[0][distance < 16] += 2
    images = (images - images.mean((1, 2, 3, 4), keepdim=True)) / images.std((1, 2, 3, 4), keepdim=True)
    model, task = build("position_head", ModelShape(SIZE, 3), {}), TASKS["segmentation"]
    features = model.features(images)
    optimizer = torch.optim.Adam(model.parameters(), 0.3)
    for _ in range(30):
        optimizer.zero_grad()
        task.loss(model(features[:4]), labels[:4]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = model(features[4:]).argmax(1)
    for part in (1, 2):
        here, there = found == part, labels[4:] == part
        assert float(2 * (here & there).sum() / (here.sum() + there.sum())) > 0.8


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (ModelShape((64, 64), 3), {}),
        (ModelShape((8, 16, 16), 3), {}),
        (ModelShape(SIZE, 1), {}),
        (ModelShape(SIZE, 3), {"grid": 4}),
    ],
)
def test_what_it_cannot_be_is_a_named_error(shape: ModelShape, options: dict[str, int]) -> None:
    with pytest.raises(BadModel):
        build("position_head", shape, options)


def test_another_size_than_it_was_built_for_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        build("position_head", ModelShape(SIZE, 3), {})(volumes(1, size=(16, 16, 16)))
