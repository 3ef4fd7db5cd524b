"""Augmentations are data within bounds; image and label map move together, and each image by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medveil.augmentations import AUGMENTATIONS, SHARE
from medveil.study import Study, Training
from medveil_imaging.augmentations import random_change

MakeStudy = Callable[..., Study]
ALWAYS = {SHARE: 1.0}


def asking(study: Study, **augmentations: dict[str, float]) -> Study:
    content = study.model_dump(mode="json")
    content["training"]["augmentations"] = augmentations
    return Study.model_validate(content)


def changed(
    study: Study, images: torch.Tensor, labels: torch.Tensor, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    return random_change(study, torch.Generator().manual_seed(seed))(images, labels)


def volumes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth volumes with a structure in them that is bright: the label map can be read off the image."""
    place = torch.linspace(-1, 1, 16)
    x, y, z = torch.meshgrid(place, place, place, indexing="ij")
    images = torch.stack([1 - ((x - 0.1 * k - 0.2) ** 2 + y**2 + z**2) for k in range(count)])[:, None]
    return images, (images[:, 0] > 0.5).long()


@pytest.fixture
def mri(make_study: MakeStudy) -> Study:
    return make_study("mri", "segmentation")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_changes_volumes_and_keeps_shape_and_type(mri: Study, name: str) -> None:
    images, labels = volumes(3)
    found, moved = changed(asking(mri, **{name: ALWAYS}), images, labels)
    assert type(found) is type(moved) is torch.Tensor
    assert (found.shape, found.dtype, moved.dtype) == (images.shape, images.dtype, labels.dtype)
    assert found.isfinite().all()
    assert all(not torch.equal(a, b) for a, b in zip(found, images, strict=True))
    assert set(moved.unique().tolist()) <= {0, 1}
    assert torch.equal(moved, labels) or name in ("affine", "mirror")


@pytest.mark.parametrize("name", [n for n in AUGMENTATIONS if n != "mirror"])
def test_every_augmentation_but_the_mirror_is_for_films_as_well(make_study: MakeStudy, name: str) -> None:
    films = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0])
    found, kept = changed(asking(make_study(), **{name: ALWAYS}), films, labels)
    assert found.shape == films.shape
    assert not torch.equal(found, films)
    assert torch.equal(kept, labels)


@pytest.mark.parametrize("name", ["affine", "mirror"])
def test_a_label_map_moves_with_its_image(mri: Study, name: str) -> None:
    images, labels = volumes(4)
    numbers = ALWAYS | ({"degrees": 30.0, "scale": 0.2, "shift": 0.25} if name == "affine" else {})
    found, moved = changed(asking(mri, **{name: numbers}), images, labels)
    away = (found[:, 0] > 0.5) != (moved > 0)
    assert int(away.sum()) < 0.25 * int((moved > 0).sum())  # rounding at the structure's border
    shifted = (found[:, 0] > 0.5) != (labels > 0)
    assert int(shifted.sum()) > 2 * int(away.sum())


def test_a_mirror_exchanges_left_and_right_and_nothing_else(mri: Study) -> None:
    images = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = (images[:, 0] > 0).long()
    found, moved = changed(asking(mri, mirror=ALWAYS), images, labels)
    assert torch.equal(found, images.flip(2))  # x runs from left to right in RAS
    assert torch.equal(moved, labels.flip(1))


def test_a_mirror_of_slices_goes_from_left_to_right_as_well(make_study: MakeStudy) -> None:
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for profile, axis in (("mri_slices", 2), ("picture", 3)):
        spacing = (2.0, 2.0, 4.0) if profile == "mri_slices" else ()
        study = make_study(profile, spacing_mm=spacing)
        assert torch.equal(
            changed(asking(study, mirror=ALWAYS), images, torch.tensor([0, 1]))[0], images.flip(axis)
        )
        assert changed(asking(study, affine=ALWAYS), images, torch.tensor([0, 1]))[0].shape == images.shape


def test_a_turn_keeps_lengths_in_mm_where_voxels_are_long(make_study: MakeStudy) -> None:
    study = make_study("mri", "segmentation", spacing_mm=(1.0, 1.0, 4.0), size=(32, 32, 8))
    x, y, z = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5, 4 * (np.arange(8) - 3.5), indexing="ij")
    ball = torch.from_numpy((x**2 + y**2 + z**2 < 12**2).astype(np.float32))[None]
    numbers = ALWAYS | {"degrees": 45.0, "scale": 0.0, "shift": 0.0}
    found, _ = changed(
        asking(study, affine=numbers), ball.expand(8, 1, 32, 32, 8), ball.expand(8, -1, -1, -1).long()
    )
    for turned in found:
        assert float((turned - ball).abs().mean()) < 0.05  # a ball stays a ball, whichever way it is turned


def test_each_image_is_changed_by_itself_and_by_its_own_chance(mri: Study) -> None:
    study = asking(mri, **{name: {} for name in AUGMENTATIONS})
    images, labels = volumes(1)
    many, maps = images.expand(6, -1, -1, -1, -1), labels.expand(6, -1, -1, -1)
    found, moved = changed(study, many, maps, seed=3)
    assert len({one.numpy().tobytes() for one in found}) == 6
    other = torch.cat([many[:5], torch.full_like(many[:1], 7.0)])
    again, moved_again = changed(study, other, torch.cat([maps[:5], 0 * maps[:1]]), seed=3)
    assert torch.equal(again[:5], found[:5])
    assert torch.equal(moved_again[:5], moved[:5])


def test_global_generators_are_no_source_of_chance(mri: Study) -> None:
    study = asking(mri, **dict.fromkeys(AUGMENTATIONS, ALWAYS))
    before = np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()  # type: ignore[union-attr]
    changed(study, *volumes(2))
    assert before == (
        np.random.get_state()[1].tobytes(),  # type: ignore[union-attr]
        torch.get_rng_state().numpy().tobytes(),
    )


def test_a_study_states_every_number_and_old_ones_keep_their_hash(mri: Study) -> None:
    assert "augmentations" not in mri.model_dump(mode="json")["training"]
    short, long = asking(mri, gamma={}, affine={"scale": 0.2}), asking(mri, affine={"scale": 0.2}, gamma={})
    numbers = short.training.augmentations
    assert numbers["affine"] == {"degrees": 10, "scale": 0.2, "shear": 0, "shift": 0.05, SHARE: 0.5}
    assert list(numbers) == ["affine", "gamma"]
    assert short.hash == long.hash != mri.hash


@pytest.mark.parametrize(
    "augmentations",
    [
        {"elastic": {}},
        {"affine": {"degrees": 90}},
        {"affine": {"angle": 3}},
        {"noise": {"deviation": float("nan")}},
        {"gamma": {"exponent": 0.5}},
        {"mirror": {SHARE: 1.5}},
    ],
)
def test_what_is_unknown_or_out_of_bounds_is_refused(augmentations: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Training(rounds=1, local_epochs=1, learning_rate=0.1, augmentations=augmentations)


def test_left_and_right_are_not_exchanged_on_a_chest_film(make_study: MakeStudy) -> None:
    with pytest.raises(ValidationError, match="left and right"):
        asking(make_study(), mirror={})


def test_what_is_for_other_optimisers_or_privacies_is_refused(make_study: MakeStudy) -> None:
    with pytest.raises(ValidationError, match="adamw"):
        Training(rounds=1, local_epochs=1, learning_rate=0.1, weight_decay=0.1)
    content = make_study().model_dump(mode="json")
    content["training"] = {"rounds": 1, "local_steps": 1, "learning_rate": 0.1, "gradient_norm": 1.0}
    content["privacy"] = {
        "kind": "local",
        "clip_norm": 1.0,
        "noise_multiplier": 5.0,
        "evaluation_multiplier": 2.0,
        "epsilon": 90.0,
    }
    with pytest.raises(ValidationError, match="clip_norm"):
        Study.model_validate(content)
