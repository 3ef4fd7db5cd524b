"""Transforms give one tensor per image, normalised by itself, with anatomy where it was."""

from __future__ import annotations

from collections.abc import Callable

import nibabel
import numpy as np
import pytest
import torch

from medveil.study import Study
from medveil_imaging.augmentations import random_shift, random_shift_pair
from medveil_imaging.sources.raw import Film, Unusable, Volume
from medveil_imaging.transforms import (
    film_transform,
    label_transform,
    volume_transform,
)

MakeStudy = Callable[..., Study]


def test_a_film_does_not_depend_on_its_units(make_study: MakeStudy) -> None:
    apply = film_transform(make_study().transforms)
    pixels = np.random.default_rng(0).random((50, 40)).astype(np.float32)
    first, second = apply(Film(pixels)), apply(Film(pixels * 4095 + 100))
    assert first.shape == (1, 16, 16)
    assert first.dtype == torch.float32
    assert torch.allclose(first, second, atol=1e-4)
    assert abs(float(first.mean())) < 1e-5
    assert abs(float(first.std(correction=0)) - 1) < 1e-5


def test_a_lead_marker_does_not_set_the_scale(make_study: MakeStudy) -> None:
    apply = film_transform(make_study(size=(64, 64)).transforms)
    pixels = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    marked = pixels.copy()
    marked[2:4, 2:4] = 1e6
    difference = (apply(Film(pixels)) - apply(Film(marked)))[0]
    difference[2:4, 2:4] = 0
    assert float(difference.abs().max()) < 0.1


@pytest.mark.parametrize("value", [0.0, 7.5])
def test_a_film_with_nothing_on_it_is_refused(make_study: MakeStudy, value: float) -> None:
    pixels = np.full((64, 64), value, np.float32)
    pixels[0, 0] = value + 1
    with pytest.raises(Unusable) as caught:
        film_transform(make_study().transforms)(Film(pixels))
    assert caught.value.code == "constant-image"


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
def test_volume_and_label_map_land_in_ras_whatever_way_they_were_stored(
    make_study: MakeStudy, axes: str
) -> None:
    random = np.random.default_rng(0)
    labels = np.zeros((12, 14, 10), np.float32)
    labels[2:5, 3:6, 1:3], labels[8:10, 9:12, 6:9] = 1, 2
    voxels = labels * 10 + random.random(labels.shape).astype(np.float32)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    study = make_study("mri", "segmentation")
    results = []
    for stored in (None, turn):
        pair = []
        for array in (voxels, labels):
            image = nibabel.Nifti1Image(array, np.eye(4))
            image = image if stored is None else image.as_reoriented(stored)
            pair.append(Volume(np.asarray(image.dataobj), image.affine))
        results.append(
            (volume_transform(study.transforms)(pair[0]), label_transform(study.transforms)(pair[1]))
        )
    (image, (outline, lost)), (again, (outline_again, _)) = results
    assert image.shape == (1, 16, 16, 16)
    assert outline.dtype == torch.int64
    assert not lost
    assert torch.allclose(image, again, atol=1e-6)
    assert torch.equal(outline, outline_again)
    assert outline.unique().tolist() == [0, 1, 2]
    assert float(image[0][outline > 0].min()) > float(image[0][outline == 0].max())


def test_resampling_keeps_label_maps_whole_and_in_place(make_study: MakeStudy) -> None:
    study = make_study("mri", "segmentation")
    labels = np.zeros((8, 8, 8), np.float32)
    labels[2:6, 2:6, 2:6] = 2
    coarse = np.diag([3.0, 3.0, 3.0, 1.0])
    outline, _ = label_transform(study.transforms)(Volume(labels, coarse))
    image = volume_transform(study.transforms)(Volume(labels, coarse))[0]
    assert outline.unique().tolist() == [0, 2]
    assert int((outline == 2).sum()) == 12**3  # 4 voxels of 3 mm are 12 of 1 mm
    inside = image > (image.min() + image.max()) / 2
    overlap = 2 * (inside & (outline == 2)).sum() / (inside.sum() + (outline == 2).sum())
    assert float(overlap) > 0.9


def test_a_structure_outside_the_field_of_view_is_told(make_study: MakeStudy) -> None:
    study = make_study("mri", "segmentation")
    labels = np.zeros((40, 16, 16), np.float32)
    labels[0, 0, 0] = 1
    assert label_transform(study.transforms)(Volume(labels, np.eye(4)))[1]


def test_an_impossible_voxel_size_is_refused_before_memory_is_asked_for(make_study: MakeStudy) -> None:
    study = make_study("mri", "segmentation")
    voxels = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
    with pytest.raises(Unusable):
        volume_transform(study.transforms)(Volume(voxels, np.diag([1000.0, 1000.0, 1000.0, 1.0])))


def test_shifts_are_small_repeatable_and_repeat_the_border() -> None:
    images = torch.arange(32.0).repeat(6, 1, 32, 1)
    moved = random_shift(images, torch.Generator().manual_seed(0))
    assert torch.equal(moved, random_shift(images, torch.Generator().manual_seed(0)))
    assert moved.shape == images.shape
    change = moved[:, 0, 0, 10] - 10
    assert float(change.abs().max()) <= 2
    assert len(change.unique()) > 1
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 31


def test_a_label_map_moves_with_its_image() -> None:
    random = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (4, 32, 32, 16), generator=random)
    images, moved = random_shift_pair(labels[:, None].float(), labels, random)
    assert torch.equal(images[:, 0].long(), moved)
    assert not torch.equal(moved, labels)
    assert moved.dtype == torch.int64
