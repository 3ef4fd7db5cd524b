"""A label map is turned into its image's order of voxels by its whole affine, or truly refused."""

from __future__ import annotations

import itertools
from typing import Any

import nibabel
import numpy as np
import pytest

from medveil_imaging.sources.label_maps import checked_labels
from medveil_imaging.sources.raw import Note, Unusable, Volume

LABELS = np.zeros((8, 8, 8), np.float32)
LABELS[1:4, 2:7, 5:7] = 1
LABELS[2, 3, 6] = 2
TURN = nibabel.quaternions.quat2mat([0.9, 0.1, -0.3, 0.2])
TURN /= np.cbrt(np.linalg.det(TURN))
PLACE = np.eye(4)
PLACE[:3, :3], PLACE[:3, 3] = TURN * 0.8, (-16, 20, 5)
IMAGE = Volume(LABELS, PLACE)


def refusal(labels: Volume, classes: int = 3, image: Volume = IMAGE) -> tuple[str, str]:
    with pytest.raises(Unusable) as caught:
        checked_labels(image, labels, classes)
    return caught.value.code, str(caught.value)


def stored_otherwise(order: tuple[int, ...], reverse: tuple[bool, ...]) -> Volume:
    """The same map with its axes in another order and direction, placed by nibabel."""
    ornt = np.array([(axis, -1 if back else 1) for axis, back in zip(order, reverse, strict=True)])
    stored = nibabel.Nifti1Image(LABELS, PLACE).as_reoriented(ornt)
    return Volume(np.asarray(stored.dataobj, np.float32), np.asarray(stored.affine))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("reverse", list(itertools.product([False, True], repeat=3)))
def test_every_order_of_storage_is_turned_to_the_images(
    order: tuple[int, ...], reverse: tuple[bool, ...]
) -> None:
    placed, notes = checked_labels(IMAGE, stored_otherwise(order, reverse), 3)
    assert np.array_equal(placed.voxels, LABELS)
    assert np.array_equal(placed.affine, PLACE)
    assert notes == ()


def test_axes_of_other_lengths_are_turned_too() -> None:
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4) % 3
    image = Volume(voxels, np.diag([1.0, 2, 3, 1]))
    other = Volume(voxels.transpose(2, 0, 1), image.affine[:, [2, 0, 1, 3]])
    assert np.array_equal(checked_labels(image, other, 3)[0].voxels, voxels)


def moved(mm: float) -> Any:
    affine = PLACE.copy()
    affine[0, 3] += mm
    return affine


def test_the_rounding_of_a_header_is_no_other_place() -> None:
    labels = Volume(LABELS, moved(0.3) + np.random.default_rng(0).normal(0, 1e-4, (4, 4)) * (1, 1, 1, 0))
    labels.affine[3] = 0, 0, 0, 1
    assert np.array_equal(checked_labels(IMAGE, labels, 3)[0].voxels, LABELS)


def scaled(factor: float) -> Any:
    return PLACE @ np.diag([factor, factor, factor, 1.0])


@pytest.mark.parametrize(
    ("code", "reason", "labels"),
    [
        ("label-map-place", "different places", Volume(LABELS, moved(0.7))),
        ("label-map-place", "another size or direction", Volume(LABELS, np.diag([-1.0, 1, 1, 1]) @ PLACE)),
        ("label-map-place", "another size or direction", Volume(LABELS, scaled(2.0))),
        ("label-map-place", "another size or direction", Volume(LABELS, np.diag([0.8, 0.8, 0.8, 1.0]))),
        ("label-map-shape", "different sizes", Volume(LABELS[:-1], PLACE)),
    ],
)
def test_another_place_size_or_direction_is_refused_and_named(code: str, reason: str, labels: Volume) -> None:
    named, text = refusal(labels)
    assert (named, reason in text) == (code, True)


def test_a_shape_that_fits_in_no_order_of_its_axes_is_refused() -> None:
    image = Volume(np.zeros((2, 3, 4), np.float32), np.eye(4))
    assert refusal(Volume(np.zeros((4, 3, 2), np.float32), np.eye(4)), image=image)[0] == "label-map-shape"


@pytest.mark.parametrize("factor", [0.9999, 1.0005, np.float32(1.00002)])
def test_class_numbers_within_a_thousandth_are_whole(factor: float) -> None:
    labels = Volume((LABELS * np.float32(1 + (factor - 1) / 2)).astype(np.float32), PLACE)
    assert np.array_equal(checked_labels(IMAGE, labels, 3)[0].voxels, LABELS)


@pytest.mark.parametrize(
    ("code", "reason", "classes", "values"),
    [
        ("label-map-values", "fractions", 3, LABELS * np.float32(1.002)),
        ("label-map-values", "not numbers", 3, np.where(LABELS == 2, np.float32(np.nan), LABELS)),
        ("undeclared-class", "negative", 3, np.where(LABELS == 2, np.float32(-1), LABELS)),
        ("undeclared-class", "255", 2, np.where(LABELS > 0, np.float32(255), np.float32(0))),
        ("undeclared-class", "does not name", 2, LABELS),
        ("undeclared-class", "does not name", 3, LABELS * 100),
    ],
)
def test_values_that_are_no_classes_are_refused_and_named(
    code: str, reason: str, classes: int, values: Any
) -> None:
    named, text = refusal(Volume(values, PLACE), classes)
    assert (named, reason in text) == (code, True)


def test_what_the_label_maps_own_header_makes_doubtful_is_told() -> None:
    doubt = Note("two-geometries", "The header contradicts itself.", "Look at it.")
    assert checked_labels(IMAGE, Volume(LABELS, PLACE, (doubt,)), 3)[1] == (doubt,)
    assert checked_labels(Volume(LABELS, PLACE, (doubt,)), Volume(LABELS, PLACE, (doubt,)), 3)[1] == ()
