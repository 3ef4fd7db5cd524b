"""One image under two names, and one person under two pseudonyms, are shown to the operator; nobody is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from medveil.study import Study
from medveil_imaging.sources.findings import Findings
from medveil_imaging.sources.manifest import Row
from medveil_imaging.sources.people import Marks, compare_images, marks_of
from medveil_imaging.sources.raw import Film
from medveil_imaging.sources.site import SiteData, read_site

MakeStudy = Callable[..., Study]
WriteManifest = Callable[..., Path]
KEY = b"k" * 32


def film(path: Path, seed: int, note: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 20), dtype=np.uint8)
    header = PngImagePlugin.PngInfo()
    header.add_text("note", note)
    Image.fromarray(pixels).save(path, pnginfo=header)


def line(image: str, patient: str, split: str = "train") -> dict[str, Any]:
    return {"image": image, "patient_id": patient, "label": len(patient) % 2, "split": split}


def told(site: SiteData) -> list[tuple[int | None, str]]:
    assert all(problem.severity == "warning" for problem in site.problems)
    return [(problem.row, problem.code) for problem in site.problems]


@pytest.mark.parametrize("note", ["", "exported again"], ids=["same bytes", "same pixels"])
def test_one_picture_under_two_names_for_two_patients_is_told(
    tmp_path: Path, make_study: MakeStudy, write_manifest: WriteManifest, note: str
) -> None:
    for name, seed, text in [("a", 1, ""), ("b", 1, note), ("c", 2, ""), ("d", 2, note), ("e", 3, "")]:
        film(tmp_path / "site" / f"{name}.png", seed, text)
    write_manifest(
        line("a.png", "P1"), line("b.png", "P22"), line("c.png", "P3"), line("d.png", "P4", "test")
    )
    site = read_site(tmp_path / "site", make_study())
    assert told(site) == [
        (2, "same-pixels"),
        (3, "same-pixels"),
        (4, "same-pixels-two-splits"),
        (5, "same-pixels-two-splits"),
    ]
    assert "line 3" in site.problems[0].reason
    assert "line 2" in site.problems[1].reason
    assert [len(patients) for patients in (site.train, site.test)] == [3, 1]  # nobody's image is taken away


def test_a_copy_within_one_patient_and_one_file_of_two_patients_are_told_of_as_what_they_are(
    tmp_path: Path, make_study: MakeStudy, write_manifest: WriteManifest
) -> None:
    film(tmp_path / "site" / "a.png", 1)
    film(tmp_path / "site" / "b.png", 1, "again")
    film(tmp_path / "site" / "c.png", 2)
    write_manifest(
        line("a.png", "P1"), line("b.png", "P1"), line("c.png", "P22"), line("c.png", "P3", "test")
    )
    site = read_site(tmp_path / "site", make_study())
    assert told(site) == [
        (3, "copied-image"),
        (4, "shared-image-two-splits"),
        (5, "shared-image-two-splits"),
    ]


def row(number: int, patient: str) -> Row:
    return Row(number, f"{number}.dcm", (Path(f"{number}.dcm"),), patient, patient, "train", 0, None)


def shown(*seen: tuple[int, str, bytes | None]) -> list[tuple[int | None, str, str]]:
    findings = Findings()
    marks = ((row(n, who), Marks(bytes([n]), person)) for n, who, person in seen)
    compare_images(marks, findings)
    return [(p.row, p.code, p.reason + p.remedy) for p in findings.sorted("manifest.csv")]


def test_a_person_whom_the_manifest_calls_two_patients_is_told_of_once() -> None:
    found = shown(
        (2, "a", b"4711"), (3, "b", b"4712"), (4, "c", b"4711"), (5, "d", b"4711"), (6, "a", b"4711")
    )
    assert [(row, code) for row, code, _ in found] == [(4, "one-person-two-patients")]
    assert "line 2" in found[0][2]
    assert "3 patients" in found[0][2]
    assert "4711" not in found[0][2]


def test_a_patient_whose_images_name_two_persons_is_told_of() -> None:
    found = shown((2, "a", b"4711"), (3, "a", b"4711"), (4, "a", b"4712"), (5, "b", b"4713"))
    assert [(row, code) for row, code, _ in found] == [(4, "two-persons-one-patient")]
    assert "4711" not in found[0][2]


def test_images_that_name_nobody_are_not_held_against_each_other() -> None:
    assert shown((2, "a", None), (3, "b", None), (4, "a", b"4711"), (5, "b", None)) == []


def test_marks_compare_under_one_key_only_and_do_not_show() -> None:
    pixels = np.arange(400, dtype=np.float32).reshape(20, 20)
    mark = marks_of(Film(pixels), KEY)
    assert mark == marks_of(Film(pixels.copy()), KEY)
    assert mark.pixels != marks_of(Film(pixels), b"l" * 32).pixels
    assert mark.pixels != marks_of(Film(pixels.reshape(10, 40)), KEY).pixels
    assert repr(mark) == "Marks()"
