"""Sequences of one patient become channels of one image: in the study's order, on the first one's grid."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from dicom_files import block, series_folder
from medveil_imaging.sources.channels import joined_channels, split_channels
from medveil_imaging.sources.raw import Note, Unusable, Volume
from medveil_imaging.sources.read import read_channels, read_volume

EDGES = (12, 10, 8)
PLACE = np.diag([2.0, 2.0, 3.0, 1.0])
PLACE[:3, 3] = -12, -10, -12
NAMES = ("flair", "t1", "t2")


def sequence(affine: Any = PLACE, shape: tuple[int, ...] = EDGES, scale: float = 1.0, **more: Any) -> Volume:
    """A volume whose values tell where in the patient (mm, RAS) each voxel lies."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    return Volume((scale * (places @ (1.0, 10.0, 100.0))).astype(np.float32), affine, **more)


def refusal(*volumes: Volume) -> tuple[str, str]:
    with pytest.raises(Unusable) as caught:
        joined_channels(volumes, NAMES[: len(volumes)])
    return caught.value.code, str(caught.value)


def reordered(volume: Volume, order: tuple[int, ...]) -> Volume:
    image = nibabel.Nifti1Image(volume.voxels, volume.affine)
    stored = image.as_reoriented(np.array([(axis, -1) for axis in order]))
    return Volume(np.asarray(stored.dataobj, np.float32), np.asarray(stored.affine))


def test_channels_on_one_grid_are_taken_as_they_are_in_the_studys_order() -> None:
    joined = joined_channels([sequence(), sequence(scale=2), sequence(scale=3)], NAMES)
    assert joined.voxels.shape == (3, *EDGES)
    for scale, layer in enumerate(joined.voxels, start=1):
        assert np.array_equal(layer, sequence(scale=scale).voxels)
    assert np.array_equal(joined.affine, PLACE)
    assert joined.notes == ()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_another_order_of_storage_is_the_same_grid(order: tuple[int, ...]) -> None:
    joined = joined_channels([sequence(), reordered(sequence(scale=2), order)], NAMES[:2])
    assert np.array_equal(joined.voxels[1], sequence(scale=2).voxels)


def test_another_grid_in_the_same_patient_is_resampled_to_the_first() -> None:
    turn = nibabel.quaternions.quat2mat([0.98, 0.05, -0.1, 0.12])
    finer = np.eye(4)
    finer[:3, :3] = turn / np.cbrt(np.linalg.det(turn)) * (1.5, 1.1, 2.2)
    finer[:3, 3] = PLACE[:3, 3] - 14
    joined = joined_channels([sequence(), sequence(finer, (42, 42, 30))], NAMES[:2])
    inside = joined.voxels[1] != joined.voxels[1].min()
    assert inside.mean() > 0.9
    assert np.abs(joined.voxels[1] - joined.voxels[0])[inside].max() < 0.01
    assert joined.notes == ()


def shifted(*mm: float) -> Any:
    affine = PLACE.copy()
    affine[:3, 3] += mm
    return affine


def test_what_a_channel_does_not_cover_is_its_darkest_and_noted() -> None:
    other = sequence(shifted(4, 0, 0))
    joined = joined_channels([sequence(), other], NAMES[:2])
    assert (joined.voxels[1][:2] == other.voxels.min()).all()
    assert np.allclose(joined.voxels[1][2:], joined.voxels[0][2:], atol=1e-3)
    assert [note.code for note in joined.notes] == ["channel-cut"]


UNPLACED = (Note("no-orientation", "The header says nothing about orientation.", "Look."),)


@pytest.mark.parametrize(
    ("reason", "second"),
    [
        ("another part of the patient", sequence(shifted(0, 0, 100))),
        ("another part of the patient", sequence(shifted(14, 0, 0))),
        ("do not say how channel t1 lies", sequence(notes=UNPLACED)),
        ("do not say how channel t1 lies", sequence(np.diag([1.0, 1, 1, 1]), (6, 6, 6), notes=UNPLACED)),
    ],
)
def test_channels_of_another_or_an_unknown_place_are_refused_by_name(reason: str, second: Volume) -> None:
    code, text = refusal(sequence(), second)
    assert (code, reason in text) == ("channel-place", True)


def test_channels_that_all_lack_a_place_go_together_only_on_equal_grids() -> None:
    unplaced = sequence(notes=UNPLACED)
    joined = joined_channels([unplaced, sequence(scale=2, notes=UNPLACED)], NAMES[:2])
    assert joined.notes == UNPLACED
    other = sequence(np.diag([2.0, 2, 2, 1]), (6, 6, 6), notes=UNPLACED)
    assert refusal(unplaced, other)[0] == "channel-place"


def test_channels_of_two_patients_are_refused_and_several_volumes_in_one_channel_too() -> None:
    assert refusal(sequence(patient_mark=b"1"), sequence(patient_mark=b"2"))[0] == "several-patients"
    joined = joined_channels([sequence(), sequence(patient_mark=b"2")], NAMES[:2])
    assert joined.patient_mark == b"2"
    assert refusal(sequence(), Volume(np.ones((2, *EDGES), np.float32), PLACE))[0] == "wrong-dimensions"


def test_a_dicom_series_and_a_nifti_file_of_the_same_voxels_are_two_channels(tmp_path: Path) -> None:
    dicom = read_volume(series_folder(tmp_path / "s", block()))
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(dicom.voxels, dicom.affine))
    assert canonical.shape == dicom.voxels.shape
    assert not np.array_equal(np.asarray(canonical.dataobj), dicom.voxels)  # stored the other way round
    nibabel.save(canonical, tmp_path / "a.nii")
    joined = joined_channels([dicom, read_volume(tmp_path / "a.nii")], NAMES[:2])
    assert np.array_equal(joined.voxels[0], joined.voxels[1])


def save(path: Path, voxels: Any) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, PLACE), path)
    return path


FOUR = np.stack([sequence(scale=scale).voxels for scale in (1, 2, 3)], 3)


@pytest.mark.parametrize("voxels", [FOUR, FOUR[:, :, :, None], FOUR[..., None]])
def test_one_file_holds_the_channels_along_its_fourth_axis(tmp_path: Path, voxels: Any) -> None:
    volume = split_channels(read_channels(save(tmp_path / "a.nii.gz", voxels)), NAMES)
    assert np.array_equal(volume.voxels, np.moveaxis(FOUR, 3, 0))
    assert np.array_equal(volume.affine, PLACE)


def test_a_file_with_one_volume_is_one_channel(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", FOUR[..., 0])
    assert split_channels(read_channels(path), NAMES[:1]).voxels.shape == (1, *EDGES)
    assert read_volume(path).voxels.shape == EDGES


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_of_volumes_than_of_channels_is_refused(tmp_path: Path, count: int) -> None:
    voxels = np.concatenate([FOUR, FOUR], 3)[..., :count]
    with pytest.raises(Unusable) as caught:
        split_channels(read_channels(save(tmp_path / "a.nii.gz", voxels)), NAMES)
    assert caught.value.code == "channel-count"
    assert "flair, t1, t2" in str(caught.value)


def test_several_volumes_are_no_volume_and_a_flat_picture_has_no_channels(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="wrong-dimensions"):
        read_volume(save(tmp_path / "a.nii.gz", FOUR))
    with pytest.raises(Unusable, match="wrong-dimensions"):
        read_channels(save(tmp_path / "b.nii.gz", np.stack([FOUR] * 2, 4)))
    with pytest.raises(Unusable, match="folder"):
        read_channels(tmp_path)
