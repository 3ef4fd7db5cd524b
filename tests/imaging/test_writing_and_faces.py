"""Films with writing and volumes with faces are noticed by their pixels, and a hospital's rules decide."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from medveil_imaging.sources.faces import shows_face
from medveil_imaging.sources.raw import Unusable, Volume
from medveil_imaging.sources.read import read_film, read_volume
from medveil_imaging.sources.rules import FACE, WRITING, Rules
from medveil_imaging.sources.site import read_site
from medveil_imaging.sources.writing import shows_writing

DATA = Path(os.environ.get("MEDVEIL_DATA") or "no such folder")


def film(size: int = 400) -> NDArray[np.uint8]:
    """Soft shapes, ribs and a little noise: nothing like a letter."""
    y, x = np.mgrid[0:size, 0:size] / size
    ribs = np.sin(40 * (y + 0.3 * (x - 0.5) ** 2)) * np.exp(-((x - 0.5) ** 2) / 0.08)
    noise = np.random.default_rng(0).normal(0, 2, (size, size))
    return np.clip(90 + 60 * x + 25 * ribs + noise, 0, 255).astype(np.uint8)


def written(text: str, at: tuple[int, int], *, ink: int = 255, size: int = 14) -> NDArray[np.uint8]:
    picture = Image.fromarray(film())
    ImageDraw.Draw(picture).text(at, text, fill=ink, font=ImageFont.load_default(size))
    return np.array(picture)


@pytest.mark.parametrize("size", [11, 16, 24])
@pytest.mark.parametrize(("at", "ink"), [((6, 4), 255), ((60, 372), 235), ((120, 190), 0)])
def test_a_printed_name_is_noticed_wherever_it_stands(at: tuple[int, int], ink: int, size: int) -> None:
    for turns in range(4):
        picture = written("Ravensbourne 4711", at, ink=ink, size=size)
        assert shows_writing(np.rot90(picture, turns).astype(np.float32)), turns


@pytest.mark.parametrize("marker", ["L", "R", "AP", "PA", "R p"])
def test_a_marker_of_side_or_view_is_no_writing(marker: str) -> None:
    assert not shows_writing(written(marker, (30, 30), size=26).astype(np.float32))


def test_a_film_without_writing_and_plain_noise_show_none() -> None:
    assert not shows_writing(film().astype(np.float32))
    for shape in ((16, 16), (40, 300), (300, 300)):
        assert not shows_writing(np.random.default_rng(1).random(shape, dtype=np.float32))
    assert not shows_writing(np.zeros((9, 3), np.float32))


def head(*, face: bool = True, skull: bool = True) -> NDArray[np.float32]:
    """An ellipsoid of a brain in RAS at 4 mm; around it a head, with nose and chin or cut off in front."""
    x, y, z = (np.mgrid[0:48, 0:62, 0:64] * 4.0) - np.array([96, 124, 160])[:, None, None, None]
    brain = (x / 65) ** 2 + (y / 80) ** 2 + (z / 60) ** 2 < 1
    if not skull:
        return np.where(brain, 100, 0).astype(np.float32)
    scalp = (x / 76) ** 2 + (y / 94) ** 2 + (z / 74) ** 2 < 1
    neck = ((x / 55) ** 2 + ((y + 20) / 60) ** 2 < 1) & (z < -20)
    front = ((x / 55) ** 2 + ((y - 15) / 80) ** 2 < 1) & (z < -10) & (z > -125)
    nose = (np.abs(x) < 14) & (y > 60) & (y < 108 + 0.2 * z) & (z < -50) & (z > -75)
    tissue = scalp | neck | ((front | nose) if face else False)
    if not face:
        tissue &= y - 70 < 0.8 * (z + 20)
    values = np.where(brain, 100, np.where(tissue, 70, 0)) + np.random.default_rng(0).normal(0, 1, x.shape)
    return values.astype(np.float32)


def placed(voxels: NDArray[np.float32], axes: Any = None) -> Volume:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    if axes is not None:
        affine[:3, :3] = 4.0 * np.array(axes)
    return Volume(voxels, affine)


def test_a_face_is_noticed_however_the_volume_is_stored_and_held() -> None:
    whole = head()
    assert shows_face(placed(whole))
    assert shows_face(placed(whole[::-1, ::-1], np.diag([-1, -1, 1])))
    assert shows_face(placed(whole.transpose(2, 0, 1), [[0, 1, 0], [0, 0, 1], [1, 0, 0]]))
    assert shows_face(placed(ndimage.rotate(whole, 8, axes=(1, 2), reshape=False, order=1)))


def test_a_brain_and_a_head_whose_face_is_gone_show_none() -> None:
    assert not shows_face(placed(head(skull=False)))
    assert not shows_face(placed(head(face=False)))
    assert not shows_face(placed(head()[:, :, 34:]))  # it ends above the nose
    assert not shows_face(placed(np.random.default_rng(0).random((9, 8, 7), dtype=np.float32)))


@pytest.mark.parametrize(
    ("rules", "outcome"),
    [(Rules(), {"possible-writing", "possible-face"}), (Rules(faces="allow"), {"possible-writing"})],
)
def test_what_a_hospital_allows_is_used(rules: Rules, outcome: set[str]) -> None:
    assert {note.code for note in rules.judged((WRITING, FACE))} == outcome


@pytest.mark.parametrize("rules", [Rules(writing="refuse"), Rules(faces="refuse", writing="refuse")])
def test_what_a_hospital_refuses_is_not_used(rules: Rules) -> None:
    with pytest.raises(Unusable, match="'burned_in'"):
        rules.judged((FACE, WRITING))
    assert rules.judged(()) == ()


def test_a_site_is_read_by_the_hospitals_rules(
    make_study: Callable[..., Any], write_manifest: Callable[..., Path]
) -> None:
    lines = [
        {"image": f"{name}.png", "patient_id": name, "split": "train", "label": str(number % 2)}
        for number, name in enumerate(("plain", "written", "other"))
    ]
    site = write_manifest(*lines)
    for name in ("plain", "other"):
        Image.fromarray(film()).save(site / f"{name}.png")
    Image.fromarray(written("Ravensbourne 4711", (20, 20))).save(site / "written.png")
    told = read_site(site, make_study())
    assert (len(told.train), [(p.code, p.severity) for p in told.problems if p.file == "written.png"]) == (
        3,
        [("possible-writing", "warning")],
    )
    strict = read_site(site, make_study(), rules=Rules(writing="refuse"))
    assert (
        len(strict.train),
        [(p.code, p.severity) for p in strict.problems if p.file == "written.png"],
    ) == (
        2,
        [("possible-writing", "error")],
    )


def test_real_heads_and_brains_are_told_apart() -> None:
    if not (DATA / "nifti-oddities").is_dir():
        pytest.skip("nifti-oddities is not there: set MEDVEIL_DATA to the folder of the data packs")
    head_of_somebody = read_volume(DATA / "nifti-oddities" / "someones_anatomy.nii.gz")
    assert "possible-face" in [note.code for note in head_of_somebody.notes]
    assert shows_face(read_volume(DATA / "dicom-files" / "series" / "brain-mr"))
    assert not shows_face(read_volume(DATA / "dicom-pacs" / "pacs-r" / "mr-magdeburg"))  # de-faced
    brains = sorted((DATA / "mri-brain" / "brain-a").rglob("*.nii.gz"))[:6]
    assert brains
    assert not any(shows_face(read_volume(path)) for path in brains)


def test_the_film_that_denies_its_writing_is_noticed() -> None:
    path = DATA / "dicom-files" / "phi" / "phi-burned-in-says-no.dcm"
    if not path.is_file():
        pytest.skip("dicom-files is not there: set MEDVEIL_DATA to the folder of the data packs")
    assert "possible-writing" in [note.code for note in read_film(path).notes]
