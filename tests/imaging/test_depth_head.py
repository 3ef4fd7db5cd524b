"""Depth and grey levels of a brain: what the features say, and the grey scale that they stand on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medveil.profiles.brain import of_white_matter
from medveil_imaging.models import BadModel, ModelShape, build, initial_vector
from medveil_imaging.models.depth_head import BIAS, DEPTHS, LEVELS, shares, soft_bins

SIZE = (24, 24, 24)


def brain(ventricle: float, *, scale: float = 100.0) -> np.ndarray:
    """A ball of white matter under a shell of grey, with a dark middle of that radius; zero outside."""
    axes = np.indices(SIZE) - (np.array(SIZE) - 1)[:, None, None, None] / 2
    radius = np.sqrt((axes**2).sum(0))
    values = np.where(radius < 9.2, 1.0, 0.7)
    values[radius < ventricle] = 0.3
    values[radius > 10.5] = 0
    return (values * scale).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-3, 100.0, 3e4])
def test_the_white_matter_is_the_unit_whatever_the_scanner_counts_in(scale: float) -> None:
    found = of_white_matter(brain(2, scale=scale))
    assert found.max() == pytest.approx(1.0, abs=0.02)
    assert np.unique(found.round(2)) == pytest.approx([0, 0.3, 0.7, 1.0], abs=0.02)


def test_a_spike_does_not_set_the_unit_and_negative_values_are_outside() -> None:
    values = brain(2)
    values[12, 12, 12], values[0, 0, 0] = 1e6, -50
    found = of_white_matter(values)
    assert found.max() == 2
    assert found[0, 0, 0] == 0
    assert found[4, 12, 12] == pytest.approx(1.0, abs=0.02)
    assert not of_white_matter(np.zeros(SIZE, np.float32)).any()


def test_a_wider_ventricle_darkens_the_deepest_shell_and_no_other() -> None:
    narrow, wide = (
        shares(of_white_matter(brain(radius)).astype(float)).reshape(len(DEPTHS), -1) for radius in (1, 4)
    )
    dark = np.array(LEVELS) < 0.5
    assert wide[-1, dark].sum() > narrow[-1, dark].sum() + 0.05
    assert wide[0] == pytest.approx(narrow[0], abs=1e-9)
    assert wide.sum() == pytest.approx(1)
    assert wide.sum(1) == pytest.approx(np.full(len(DEPTHS), 1 / len(DEPTHS)))


def test_soft_bins_share_a_value_between_its_neighbours() -> None:
    found = soft_bins(np.array([0.0, 0.15, 0.25, 9.0]), LEVELS)
    assert found.sum(0) == pytest.approx(np.ones(4))
    assert found[:2, 1] == pytest.approx([2 / 3, 1 / 3])
    assert (found[0, 0], found[1, 2], found[-1, 3]) == (1, 1, 1)


def test_features_have_length_one_and_depend_on_their_own_volume() -> None:
    model = build("depth_head", ModelShape(SIZE, 1), {})
    images = torch.from_numpy(np.stack([of_white_matter(brain(r))[None] for r in (1, 2, 4)]))
    found = model.features(images)
    assert found.shape == (3, 49)
    assert found[:, :-1].norm(dim=1).numpy() == pytest.approx(np.ones(3), abs=1e-5)
    assert torch.equal(found[:, -1], torch.full((3,), BIAS))
    assert torch.equal(found[1], model.features(images[1:2])[0])
    assert torch.equal(model(images), model(found))
    assert model.features(images[:0]).shape == (0, 49)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e30])
def test_whatever_a_volume_holds_its_features_are_finite(value: float) -> None:
    model = build("depth_head", ModelShape(SIZE, 1), {})
    assert torch.isfinite(model.features(torch.full((1, 1, *SIZE), value))).all()


def test_it_has_49_weights_and_wants_one_channel_of_a_volume() -> None:
    spec, vector = initial_vector("depth_head", ModelShape(SIZE, 1), {}, seed=0)
    assert (spec.size, vector.any()) == (49, False)
    for shape in (ModelShape((24, 24), 1), ModelShape(SIZE, 1, 2)):
        with pytest.raises(BadModel):
            build("depth_head", shape, {})
