"""Films and slices are outlined, too: the label map keeps its numbers and lies as its film, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medveil.study import Study
from medveil_imaging.sources.read import read_label_film
from medveil_imaging.sources.site import SiteData, read_site

MakeStudy = Callable[..., Study]
WriteManifest = Callable[..., Path]
RNG = np.random.default_rng(0)
LABELS = np.zeros((32, 24), np.uint8)
LABELS[4:16, 6:12], LABELS[20:28, 14:20] = 1, 2
PIXELS = (LABELS * 80 + RNG.integers(0, 40, LABELS.shape)).astype(np.uint8)
SIZE = {"size": (16, 12)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    Image.fromarray(PIXELS).save(site / "film.png")
    return site


def line(label_map: str = "labels.png", image: str = "film.png", patient: str = "A") -> dict[str, str]:
    return {"image": image, "label_map": label_map, "patient_id": patient, "split": "train"}


def refused(site: SiteData) -> list[tuple[int | None, str]]:
    return [(p.row, p.code) for p in site.problems if p.severity == "error" and p.row]


def palette() -> Image.Image:
    picture = Image.fromarray(LABELS, "P")
    picture.putpalette([0, 0, 0, 200, 30, 30, 30, 200, 30])
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(LABELS),
        Image.fromarray(LABELS.astype(np.uint16)),
        Image.fromarray(np.stack([LABELS] * 3, 2)),
        palette(),
    ],
    ids=["grey", "16 bits", "equal channels", "palette"],
)
def test_class_numbers_are_read_as_they_are_stored(folder: Path, picture: Image.Image) -> None:
    picture.save(folder / "labels.png")
    assert np.array_equal(read_label_film(folder / "labels.png").pixels, LABELS)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_no_levels(folder: Path, bits: int) -> None:
    picture = palette() if bits > 1 else Image.fromarray(LABELS > 0)
    picture.save(folder / "labels.png", bits=bits)
    wanted = LABELS if bits > 1 else LABELS > 0
    assert np.array_equal(read_label_film(folder / "labels.png").pixels, wanted)


def test_a_label_map_keeps_its_place_on_the_film(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    Image.fromarray(LABELS).save(folder / "labels.png")
    write_manifest(line())
    site = read_site(folder, make_study("xray", "segmentation", **SIZE))
    assert not refused(site)
    images, labels = site.train[0].take([0])
    assert labels.dtype == torch.int64
    assert np.array_equal(labels[0], LABELS[1::2, 1::2])
    assert float(images[0, 0][labels[0] == 2].mean()) > float(images[0, 0][labels[0] == 1].mean()) > 0


def upside_down(path: Path, array: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.ascontiguousarray(np.rot90(array, 2))).save(path, exif=exif)


def test_what_only_the_film_or_only_the_label_map_turns_is_refused(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    upside_down(folder / "turned.png", PIXELS)
    upside_down(folder / "labels-turned.png", LABELS)
    Image.fromarray(LABELS).save(folder / "labels.png")
    write_manifest(
        line("labels.png", "turned.png", "A"),
        line("labels-turned.png", "film.png", "B"),
        line("labels-turned.png", "turned.png", "C"),
    )
    site = read_site(folder, make_study("xray", "segmentation", size=(32, 24)))
    assert refused(site) == [(2, "label-map-place"), (3, "label-map-place")]
    assert np.array_equal(site.train[0].take([0])[1][0], LABELS)


def save(folder: Path, array: Any, name: str = "labels.png") -> None:
    Image.fromarray(array).save(folder / name)


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("label-map-shape", lambda folder: save(folder, LABELS[:-1])),
        ("undeclared-class", lambda folder: save(folder, LABELS * 2)),
        ("undeclared-class", lambda folder: save(folder, (LABELS > 0) * np.uint8(255))),
        ("label-map-values", lambda folder: save(folder, np.stack([LABELS, LABELS * 0, LABELS], 2))),
        ("label-map-values", lambda folder: save(folder, np.stack([LABELS, LABELS * 0 + 9], 2))),
        ("label-map-values", lambda folder: Image.fromarray(LABELS).save(folder / "labels.png", "JPEG")),
        ("wrong-format", lambda folder: (folder / "labels.png").write_bytes(bytes(344) + b"n+1\0")),
    ],
)
def test_what_is_no_label_map_of_the_film_costs_its_line(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest, code: str, make: Callable[[Path], Any]
) -> None:
    make(folder)
    write_manifest(line())
    assert refused(read_site(folder, make_study("xray", "segmentation", **SIZE))) == [(2, code)]


def test_a_structure_that_is_lost_in_a_small_image_and_an_empty_map_are_noted(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    dot = LABELS * (LABELS == 1)
    dot[0, 0] = 2
    save(folder, dot)
    save(folder, LABELS * 0, "empty.png")
    save(folder, PIXELS[::-1], "other.png")
    write_manifest(line(), line("empty.png", "other.png", "B"))
    site = read_site(folder, make_study("xray", "segmentation", size=(8, 8)))
    assert [(p.row, p.code) for p in site.problems] == [(2, "structure-lost"), (3, "empty-label-map")]
    assert len(site.train) == 2


def test_each_slice_has_its_part_of_the_label_map(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    labels = np.zeros((16, 16, 8), np.uint8)
    labels[3:9, 4:9, 2:5], labels[10:13, 10:13, 5] = 1, 2
    voxels = (labels * 50 + RNG.integers(0, 30, labels.shape)).astype(np.int16)
    for name, array in (("v", voxels), ("l", labels)):
        nibabel.save(nibabel.Nifti1Image(array[:, :, ::-1], np.diag([1.0, 1, -1, 1])), folder / f"{name}.nii")
    write_manifest(line("l.nii", "v.nii"))
    fields = {"size": (16, 16), "spacing_mm": (1.0,) * 3, "slices": {"every": 2}}
    site = read_site(folder, make_study("mri_slices", "segmentation", **fields))
    assert not refused(site)
    assert np.array_equal(site.train[0].take(range(4))[1], np.moveaxis(labels, 2, 0)[::2])


@pytest.mark.parametrize("mask", [(LABELS > 0) * np.uint8(255), LABELS > 0], ids=["0 and 255", "one bit"])
def test_a_black_and_white_mask_is_the_one_structure_of_a_study(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest, mask: Any
) -> None:
    Image.fromarray(mask).save(folder / "labels.png")
    study = make_study("xray", "segmentation", size=LABELS.shape)
    study = study.model_copy(update={"classes": ("background", "lungs")})
    labels = read_site(write_manifest(line()), study).train[0].take([0])[1]
    assert np.array_equal(labels[0].numpy(), LABELS > 0)
