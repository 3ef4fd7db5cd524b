"""Channels, colours and slices: what a line names arrives in the tensor, in order, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from medveil.study import Study, Transforms
from medveil_imaging.sources.formats.idx import idx_bytes
from medveil_imaging.sources.site import SiteData, read_site
from medveil_imaging.transforms import z_score

MakeStudy = Callable[..., Study]
WriteManifest = Callable[..., Path]
NAMES = ("flair", "t1", "t2")
RNG = np.random.default_rng(0)
FOUR = RNG.integers(0, 1000, (16, 16, 16, 3)).astype(np.int16)
LABELS = (FOUR[..., 0] > 700).astype(np.uint8) + (FOUR[..., 0] > 900).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    return site


def save(path: Path, voxels: Any, affine: Any = None) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def line(patient: str = "A", **cells: str) -> dict[str, str]:
    return {"patient_id": patient, "split": "train", "label": "0"} | cells


def errors(site: SiteData) -> list[tuple[int | None, str]]:
    return [(p.row, p.code) for p in site.problems if p.severity == "error" and p.row]


def images(site: SiteData) -> torch.Tensor:
    return site.train[0].take(range(len(site.train[0])))[0]


def layers() -> torch.Tensor:
    return torch.stack([z_score(torch.from_numpy(FOUR[..., k].astype(np.float32))) for k in range(3)])


def test_channels_of_one_file_come_in_its_order_each_z_scored_alone(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    save(folder / "a.nii.gz", FOUR * np.array([1, 3, 20], np.int16))
    write_manifest(line(image="a.nii.gz"))
    found = images(read_site(folder, make_study("mri", channels=NAMES)))
    assert found.shape == (1, 3, 16, 16, 16)
    assert torch.allclose(found[0], layers(), atol=1e-5)


def test_channels_of_columns_come_in_the_studys_order_whatever_the_files_order_of_storage(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    for k, name in enumerate(NAMES):
        save(folder / f"{name}.nii.gz", FOUR[..., k])
    mirrored = np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = 15
    save(folder / "t1.nii.gz", np.ascontiguousarray(FOUR[::-1, ..., 1]), mirrored)
    save(folder / "labels.nii.gz", LABELS)
    cells = {name: f"{name}.nii.gz" for name in reversed(NAMES)}
    write_manifest(line(**cells, label_map="labels.nii.gz", image="other.nii.gz"))
    study = make_study("mri", "segmentation", channels=NAMES)
    site = read_site(folder, study)
    assert not errors(site)
    assert torch.allclose(images(site)[0], layers(), atol=1e-5)
    assert np.array_equal(site.train[0].take([0])[1][0], LABELS)


def test_what_is_wrong_with_one_channel_costs_its_line_and_is_named(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    for k, name in enumerate(NAMES):
        save(folder / f"{name}.nii.gz", FOUR[..., k])
    far = np.eye(4)
    far[2, 3] = 500
    save(folder / "far.nii.gz", FOUR[..., 1], far)
    save(folder / "flat.nii.gz", np.ones_like(FOUR[..., 1]))
    good = {name: f"{name}.nii.gz" for name in NAMES}
    write_manifest(
        line("A", **good),
        line("B", **(good | {"t1": "far.nii.gz"})),
        line("C", **(good | {"t2": "flat.nii.gz"})),
        line("D", **(good | {"t2": ""})),
        line("E", **(good | {"t2": "nowhere.nii.gz"})),
    )
    site = read_site(folder, make_study("mri", channels=NAMES))
    refused = ["channel-place", "constant-image", "no-path", "missing-file"]
    assert errors(site) == list(enumerate(refused, start=3))
    assert next(p for p in site.problems if p.code == "channel-place").reason.startswith("Channel t1")
    assert len(site.train) == 1


def test_a_study_without_named_channels_refuses_a_file_with_several_volumes(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    save(folder / "a.nii.gz", FOUR)
    write_manifest(line(image="a.nii.gz"))
    assert errors(read_site(folder, make_study("mri"))) == [(2, "wrong-dimensions")]
    assert errors(read_site(folder, make_study("mri", channels=NAMES[:2]))) == [(2, "channel-count")]


def test_one_named_channel_is_one_volume(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    save(folder / "a.nii.gz", FOUR[..., 0])
    for column in ("image", "flair"):
        write_manifest(line(**{column: "a.nii.gz"}))
        found = images(read_site(folder, make_study("mri", channels=NAMES[:1])))
        assert torch.allclose(found[0], layers()[:1], atol=1e-5)


def test_a_manifest_with_neither_form_of_columns_says_which_it_lacks(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    write_manifest(line(flair="a.nii.gz"))
    site = read_site(folder, make_study("mri", channels=NAMES))
    problem = next(p for p in site.problems if p.code == "missing-columns")
    assert "flair, t1, t2" in problem.reason
    assert "image" in problem.reason


COLOUR = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("turn", [1, 6])
def test_a_colour_picture_keeps_red_green_and_blue_as_they_relate(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest, turn: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(COLOUR).save(folder / "a.png", exif=exif)
    write_manifest(line(image="a.png"))
    found = images(read_site(folder, make_study("picture")))
    upright = np.rot90(COLOUR, -1) if turn == 6 else COLOUR
    wanted = torch.from_numpy(upright / 127.5 - 1).permute(2, 0, 1).float()
    assert torch.allclose(found[0], wanted, atol=1e-6)


def test_a_grey_picture_is_a_colour_picture_with_equal_channels_in_8_and_16_bits(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    Image.fromarray(COLOUR[..., 0]).save(folder / "a.png")
    Image.fromarray(COLOUR[..., 0].astype(np.uint16) * 257).save(folder / "b.png")
    (folder / "c.idx").write_bytes(idx_bytes(COLOUR[..., 0]))
    write_manifest(line(image="a.png"), line(image="b.png"), line(image="c.idx"))
    found = images(read_site(folder, make_study("picture")))
    wanted = torch.from_numpy(COLOUR[..., 0] / 127.5 - 1).float().expand(3, 16, 16)
    assert torch.allclose(found, wanted.expand(3, 3, 16, 16), atol=1e-6)


def test_films_stay_grey_and_pictures_are_no_volumes(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    Image.fromarray(COLOUR).save(folder / "a.png")
    save(folder / "b.nii.gz", FOUR[..., 0])
    write_manifest(line("A", image="a.png"), line("B", image="b.nii.gz"))
    assert errors(read_site(folder, make_study("xray"))) == [(2, "colour-image"), (3, "wrong-format")]
    assert errors(read_site(folder, make_study("picture"))) == [(3, "wrong-format")]


SLICED = {"size": (16, 16), "spacing_mm": (1.0, 1.0, 1.0)}


def test_each_axial_slice_is_an_image_of_the_patient_from_the_feet_up(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    upside_down = np.diag([1.0, 1, -1, 1])
    save(folder / "a.nii.gz", np.ascontiguousarray(FOUR[:, :, ::-1, 0]), upside_down)
    save(folder / "b.nii.gz", FOUR[..., 1])
    write_manifest(line(image="a.nii.gz"), line(image="b.nii.gz", label="1"))
    site = read_site(folder, make_study("mri_slices", **SLICED))
    found, labels = site.train[0].take(range(32))
    assert len(site.train[0]) == 32
    assert torch.allclose(found[:16, 0], layers()[0].permute(2, 0, 1), atol=1e-5)
    assert labels.tolist() == [0] * 16 + [1] * 16


def test_slices_are_those_between_the_studys_bounds(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    save(folder / "a.nii.gz", FOUR[..., 0])
    write_manifest(line(image="a.nii.gz"))
    bounds = {"every": 3, "low": 0.25, "high": 0.75}
    found = images(read_site(folder, make_study("mri_slices", **SLICED, slices=bounds)))
    assert torch.allclose(found[:, 0], layers()[0].permute(2, 0, 1)[[4, 7, 10]], atol=1e-5)


def test_slices_have_channels_and_those_without_contrast_are_left_out(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    empty = FOUR.copy()
    empty[:, :, :5] = 0
    save(folder / "a.nii.gz", empty)
    write_manifest(line(image="a.nii.gz"))
    found = images(read_site(folder, make_study("mri_slices", **SLICED, channels=NAMES)))
    assert found.shape == (11, 3, 16, 16)


def test_a_volume_without_slices_between_the_bounds_is_refused(
    folder: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    empty = FOUR[..., 0].copy()
    empty[:, :, 8:] = 0
    save(folder / "a.nii.gz", empty)
    write_manifest(line(image="a.nii.gz"))
    study = make_study("mri_slices", **SLICED, slices={"low": 0.5})
    assert errors(read_site(folder, study)) == [(2, "no-slices")]


@pytest.mark.parametrize(
    "transforms",
    [
        {"profile": "xray", "size": (16, 16), "channels": NAMES},
        {"profile": "picture", "size": (16, 16), "channels": ("red",)},
        {"profile": "mri", "size": (16,) * 3, "spacing_mm": (1,) * 3, "channels": ("t1", "t1")},
        {"profile": "mri", "size": (16,) * 3, "spacing_mm": (1,) * 3, "slices": {}},
        {"profile": "mri_slices", **SLICED, "slices": {"low": 0.5, "high": 0.5}},
        {"profile": "mri_slices", "size": (16, 16)},
    ],
)
def test_a_study_whose_inputs_do_not_go_together_is_none(transforms: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Transforms.model_validate(transforms)


def test_a_study_that_names_no_channels_and_no_slices_has_the_form_it_had(make_study: MakeStudy) -> None:
    assert set(make_study("mri").transforms.model_dump()) == {"profile", "size", "spacing_mm"}
