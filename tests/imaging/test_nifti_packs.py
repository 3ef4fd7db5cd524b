"""Real and spoiled volumes and pictures: each is read, warned of or refused as the notes of its pack say.

The packs lie under the folder that the variable ``MEDVEIL_DATA`` names; without them these tests are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.transforms import ResizeWithPadOrCrop

from medveil.study import Study
from medveil_imaging.sources.label_maps import checked_labels
from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.read import read_channels, read_film, read_label_map, read_volume
from medveil_imaging.sources.site import read_site

DATA = Path(os.environ.get("MEDVEIL_DATA") or "no such folder")
ODDITIES = {
    "anatomical.nii": (),
    "reoriented_anat_moved.nii": (),
    "someones_anatomy.nii.gz": ("possible-face",),
    "standard.nii.gz": (),
    "flipped-left-right.nii.gz": (),
    "identity-in-descrip.nii.gz": (),
    "label-extra-class.nii.gz": (),
    "label-wrong-shape.nii.gz": (),
    "sform-qform-differ.nii.gz": ("two-geometries",),
    "example4d.nii.gz": "wrong-dimensions",
    "example_nifti2.nii.gz": "wrong-dimensions",
    "functional.nii": "wrong-dimensions",
    "five-dims.nii.gz": "wrong-dimensions",
    "orphan-nifti1.hdr": "nifti-pair",
    "analyze.hdr": "analyze-format",
    "freesurfer.mgz": "freesurfer-format",
    "gz-truncated.nii.gz": "unreadable-file",
    "nan-inf.nii.gz": "not-finite",
    "zero-bytes.nii.gz": "empty-file",
    "constant.nii.gz": "constant-image",
    "label-empty.nii.gz": "constant-image",
}


def pack(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not there: set MEDVEIL_DATA to the folder of the data packs")
    return folder


def outcome(reader: Callable[[Path], Any], path: Path) -> tuple[str, Any]:
    try:
        return "", reader(path)
    except Unusable as error:
        return error.code, None


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ODDITIES))
def test_an_unusual_volume_is_read_as_nibabel_reads_it_or_refused(name: str) -> None:
    path, expected = pack("nifti-oddities") / name, ODDITIES[name]
    code, volume = outcome(read_volume, path)
    if isinstance(expected, str):
        assert code == expected
        return
    assert tuple(note.code for note in volume.notes) == expected
    independent = nibabel.load(path)
    assert np.allclose(volume.voxels, independent.get_fdata(), rtol=1e-6)
    assert np.allclose(volume.affine, independent.affine)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["example4d.nii.gz", "functional.nii", "example_nifti2.nii.gz"])
def test_volumes_of_one_file_are_channels_where_a_study_wants_them(name: str) -> None:
    path = pack("nifti-oddities") / name
    assert np.allclose(
        read_channels(path).voxels, np.moveaxis(nibabel.load(path).get_fdata(), 3, 0), rtol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("B01-label-axes-permuted", "L00"),
        ("B01-label-axes-permuted", "L02b"),
        ("B21-labels-0.9999", "L01"),
        ("B21-labels-0.9999", "L06"),
        ("B22-label-map-other-order", "L02"),
    ],
)
def test_label_maps_of_the_field_cases_equal_the_true_one(folder: str, name: str) -> None:
    cases = pack("field-cases")
    truth = np.asarray(nibabel.load(cases / "B01-label-axes-permuted" / "l-L00.nii.gz").dataobj)
    image, labels = (cases / folder / f"{kind}-{name}.nii.gz" for kind in "vl")
    placed, notes = checked_labels(read_volume(image), read_label_map(labels), 3)
    assert np.array_equal(placed.voxels, truth)
    assert notes == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ends", "edges_mm", "note"),
    [
        ("B09-vox-offset-0/N03.nii", (20, 2000), (1.5, 1.5, 2), "no-offset"),
        ("B10-sform-against-pixdim/N02.nii.gz", (20, 2000), (1, 1, 1), "two-geometries"),
        ("B19-quaternion-rounding/N01.nii.gz", (20, 2000), (1.5, 1.5, 2), "two-geometries"),
        ("B33-singular-sform/N06.nii.gz", (20, 2000), (1.5, 1.5, 2), "two-geometries"),
    ],
)
def test_volumes_of_the_field_cases_are_read_with_a_warning(
    name: str, ends: tuple[int, int], edges_mm: tuple[float, ...], note: str
) -> None:
    volume = read_volume(pack("field-cases") / name)
    assert (volume.voxels.min(), volume.voxels.max()) == ends
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), edges_mm)
    assert [found.code for found in volume.notes] == [note]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("B07-exif-orientation/F11.jpg", None),
        ("B07-exif-orientation/F11b.png", None),
        ("B13-png-16-bit-channels/F12.png", 2981),
        ("B13-png-16-bit-channels/F12c.png", 2981),
    ],
)
def test_pictures_of_the_field_cases_are_upright_and_whole(name: str, levels: int | None) -> None:
    film = read_film(pack("field-cases") / name)
    assert film.pixels.shape == (96, 80)
    assert film.pixels[:, -1].mean() > film.pixels[:, 0].mean()
    assert levels in (None, len(np.unique(film.pixels)))
    assert film.notes == ()


@pytest.mark.slow
def test_real_channels_come_in_their_order(make_study: Callable[..., Study]) -> None:
    folder = pack("mri-ms") / "ljubljana-a"
    names = ("flair", "t1", "t1c", "t2")
    study = make_study("mri", "segmentation", size=(64, 80, 64), spacing_mm=(2.0,) * 3, channels=names)
    site = read_site(folder, study)
    assert not site.problems
    images, labels = site.train[0].take([0])
    raw = nibabel.load(folder / "images" / "ljubljana-a-001.nii.gz").get_fdata()
    assert int(labels.sum()) == 154
    shaped = ResizeWithPadOrCrop((64, 80, 64))(np.moveaxis(raw, 3, 0)).numpy()
    like = np.corrcoef([*images[0].flatten(1).numpy(), *shaped.reshape(4, -1)])[:4, 4:]
    assert like.argmax(0).tolist() == [0, 1, 2, 3]
    assert np.diag(like).min() > 0.999
