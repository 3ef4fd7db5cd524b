"""Manifests after public bug reports are read, warned of or refused as the notes of their pack say.

The pack lies under the folder that the variable ``MEDVEIL_DATA`` names; without it these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medveil.study import Study
from medveil_imaging.sources.site import SiteData, read_site

MakeStudy = Callable[..., Study]
DATA = Path(os.environ.get("MEDVEIL_DATA") or "no such folder") / "field-cases"
AS_MEANT = ["C04", "C05", "C08", "C09", "C10", "C12"]


def case(name: str) -> Path:
    found = sorted(DATA.glob(f"*/{name}*"))
    if not found:
        pytest.skip("field-cases is not there: set MEDVEIL_DATA to the folder of the data packs")
    return found[0]


def site(folder: Path, manifest: Path, films: int, name: str, study: Study) -> SiteData:
    (folder / "films").mkdir()
    for number in range(films):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "films" / name.format(number + 1, number), format="PNG")
    shutil.copy(manifest, folder / "manifest.csv")
    return read_site(folder, study)


def told(found: SiteData) -> dict[str, int]:
    return dict(Counter(problem.code for problem in found.problems))


@pytest.mark.parametrize("name", AS_MEANT)
def test_small_things_are_read_as_they_are_meant(tmp_path: Path, make_study: MakeStudy, name: str) -> None:
    manifest = case(f"{name}-")
    found = site(tmp_path, manifest, 8, "{:04d}.dcm", make_study())
    if name == "C12":  # the film's name is composed in the manifest and decomposed on the disk
        decomposed = unicodedata.normalize("NFD", "M\u00fcller-R\u00f6.dcm")
        (tmp_path / "films" / "0001.dcm").rename(tmp_path / "films" / decomposed)
        found = read_site(tmp_path, make_study())
    assert told(found) == {}
    assert [sum(map(len, part)) for part in (found.train, found.val, found.test)] == [5, 1, 2]


def test_a_letter_in_a_remark_costs_no_line_and_split_patients_are_named(
    tmp_path: Path, make_study: MakeStudy
) -> None:
    found = site(tmp_path, case("C03c-"), 160, "{1:04d}.png", make_study())
    assert told(found) == {"patient-in-two-splits": 80}  # the 40 patients who lie in train and in test
    assert len(found.train) == 80
    assert found.test == ()


def test_spellings_of_one_patient_are_told_of(tmp_path: Path, make_study: MakeStudy) -> None:
    found = site(tmp_path, case("C07-"), 8, "{:04d}.dcm", make_study())
    assert told(found) == {"spelled-differently": 2, "patient-in-two-splits": 5}
    assert [patient.patient for patient in found.train] == ["17"]


def test_rounded_numbers_name_nobody(tmp_path: Path, make_study: MakeStudy) -> None:
    found = site(tmp_path, case("C06-"), 8, "{:04d}.dcm", make_study())
    assert told(found) == {"no-patient": 8, "no-training-patients": 1}


def test_one_film_of_two_patients_is_told_of(make_study: MakeStudy) -> None:
    found = read_site(case("C14"), make_study())
    found_of_pixels = {"spare-bits": 8}  # two or three pixels of each film exceed its twelve bits
    assert told(found) == {"same-pixels-two-splits": 2, "same-pixels": 2} | found_of_pixels
    assert len(found.train) == 5
