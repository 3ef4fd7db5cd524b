"""Real files: no identity is left in them, and each reader finds what it found before.

The packs lie under the folder that the variable ``MEDVEIL_DATA`` names; without them these tests are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from canaries import DATES, NUMBERS, UIDS, found_in
from medveil_imaging.deidentification.files import deidentified_file
from medveil_imaging.deidentification.pseudonyms import Pseudonyms
from medveil_imaging.sources.raw import Unusable, read_bytes
from medveil_imaging.sources.read import read_film, read_volume

DATA = Path(os.environ.get("MEDVEIL_DATA") or "no such folder")
PSEUDONYMS = Pseudonyms(bytes(range(32)))
CANNOT_BE_CLEANED = {
    "MR_truncated.dcm",
    "badVR.dcm",
    "empty.dcm",
    "meta_missing_tsyntax.dcm",
    "no_meta.dcm",
    "not-dicom.dcm",
}


def pack(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not there: set MEDVEIL_DATA to the folder of the data packs")
    return folder


def cleaned(path: Path, target: Path) -> bytes:
    made, _ = deidentified_file(read_bytes(path), PSEUDONYMS)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(made)
    return made


def outcome(reader: Any, path: Path) -> tuple[Any, ...]:
    """What a reader makes of a file: the pixels' bytes and the warnings, or why it is refused."""
    try:
        image = reader(path)
    except Unusable as error:
        return (error.code,)
    pixels = image.pixels if reader is read_film else image.voxels
    place = b"" if reader is read_film else image.affine.tobytes()
    notes = tuple(note.code for note in image.notes)
    return pixels.shape, pixels.tobytes(), place, notes, image.patient_mark is None


def test_no_identity_is_left_in_the_files_made_to_tell_one(tmp_path: Path) -> None:
    found: set[str] = set()
    for path in sorted((pack("dicom-files") / "phi").iterdir()):
        found |= found_in(path.read_bytes())
        assert found_in(cleaned(path, tmp_path / path.name)) == set(), path.name
        assert outcome(read_film, tmp_path / path.name) == outcome(read_film, path)
    assert {"Quillfeather", "Lindqvist", "Leopold", "Øxenholm", *NUMBERS, *DATES, *UIDS} <= found


@pytest.mark.slow
def test_each_file_reads_as_before_or_is_refused(tmp_path: Path) -> None:
    folder = pack("dicom-files")
    refused = set()
    for path in sorted([*folder.glob("good/*"), *folder.glob("broken/*")]):
        target = tmp_path / path.name.removesuffix(".gz")
        try:
            cleaned(path, target)
        except Unusable:
            refused.add(path.name)
            assert len(outcome(read_film, path)) == len(outcome(read_volume, path)) == 1
            continue
        for reader in (read_film, read_volume):
            assert outcome(reader, target) == outcome(reader, path), path.name
    assert refused == CANNOT_BE_CLEANED


@pytest.mark.slow
@pytest.mark.parametrize("which", ["dicom-files/series", "dicom-pacs"])
def test_each_series_reads_as_before(tmp_path: Path, which: str) -> None:
    folder = pack(which)
    read = 0
    for series in sorted({path.parent for path in folder.rglob("*") if path.is_file()} - {folder}):
        if any(child.suffix == ".csv" for child in series.iterdir()):
            continue
        made = tmp_path / series.relative_to(folder)
        for path in series.iterdir():
            cleaned(path, made / path.name)
        before, after = outcome(read_volume, series), outcome(read_volume, made)
        if before == ("wrong-modality",):
            (film,) = series.iterdir()
            before, after = outcome(read_film, film), outcome(read_film, made / film.name)
        assert before == after, series
        read += len(before) > 1
    assert read > 0
