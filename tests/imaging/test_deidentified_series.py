"""A series is cleaned as fast as its instances are alike, and never otherwise than file by file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_files import block, put_text, save, slice_header
from medveil_imaging.deidentification.files import deidentified_file
from medveil_imaging.deidentification.pseudonyms import Pseudonyms
from medveil_imaging.deidentification.series import SeriesCleaner
from medveil_imaging.sources.dicom.layout import elements_of
from medveil_imaging.sources.raw import Unusable

DATA = Path(os.environ.get("MEDVEIL_DATA") or "no such folder")
PSEUDONYMS = Pseudonyms(bytes(range(32)))
Change = Callable[[Dataset, int], None]


def unchanged(_: Dataset, __: int) -> None:
    pass


def another_patient(header: Dataset, _: int) -> None:
    header.PatientID = "4712"


def a_name_where_none_was(header: Dataset, _: int) -> None:
    header.ImageComments = "Quillfeather"


def another_type(header: Dataset, _: int) -> None:
    header.add_new(0x00201041, "LO", "far")


def fewer_elements(header: Dataset, _: int) -> None:
    del header.SliceLocation


def a_bit_beyond_the_picture(header: Dataset, _: int) -> None:
    words = np.frombuffer(header.PixelData, "<u2").copy()
    words[7] |= 0x8000
    header.PixelData = words.tobytes()


def more_behind_the_pixels(header: Dataset, _: int) -> None:
    header.PixelData += b"Quillfeather"


def cut_short(header: Dataset, _: int) -> None:
    header.PixelData = header.PixelData[:-10]


def a_sequence_of_its_own(header: Dataset, number: int) -> None:
    item = Dataset()
    item.ReferencedSOPInstanceUID, item.PatientName = f"1.2.77.{number}", "Quillfeather"
    header.ReferencedImageSequence = [item]


def a_name_for_a_number(header: Dataset, _: int) -> None:
    put_text(header, "SliceLocation", "Quillfeather")


def the_own_number_for_a_place(header: Dataset, _: int) -> None:
    put_text(header, "SliceLocation", "7718204")


def another_name_of_the_patient(header: Dataset, _: int) -> None:
    header.PatientName = "Ottoline"
    header.Manufacturer = "Ottoline Limited"


def files(folder: Path, change: Change, which: int = 3) -> list[bytes]:
    """Six slices, of which one is changed: names, private elements, dates, sequences are in all."""
    made = []
    for number in range(6):
        header = slice_header(block(), number, stored=12, StudyInstanceUID="1.2.5", StudyDate="20240131")
        header.SliceLocation, header.InstanceNumber = number * 2.0, number
        header.AccessionNumber, header.Manufacturer = "ACC-7718204", "Maker"
        header.AcquisitionTime = f"1200{number:02}"
        header.WindowCenter = 900 + number
        a_sequence_of_its_own(header, 0)
        header.private_block(0x0029, "MAKER", create=True).add_new(1, "LO", f"Quillfeather {number}")
        if number == which:
            change(header, number)
        made.append(save(folder / f"{number}.dcm", header).read_bytes())
    return made


def outcome(clean: Callable[[bytes], tuple[bytes, tuple[str, ...]]], data: bytes) -> tuple[object, ...]:
    try:
        return clean(data)
    except Unusable as refused:
        return (refused.code,)


def whole_way(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    content, done = deidentified_file(data, PSEUDONYMS)
    return content, done.codes


@pytest.mark.parametrize(
    "change",
    [
        unchanged,
        another_patient,
        a_name_where_none_was,
        another_type,
        fewer_elements,
        a_bit_beyond_the_picture,
        more_behind_the_pixels,
        cut_short,
        a_sequence_of_its_own,
        a_name_for_a_number,
        the_own_number_for_a_place,
        another_name_of_the_patient,
    ],
)
@pytest.mark.parametrize("which", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_what_comes_out_is_what_the_whole_way_gives(change: Change, which: int, tmp_path: Path) -> None:
    cleaner = SeriesCleaner(PSEUDONYMS)
    for data in files(tmp_path, change, which):
        told = outcome(cleaner.clean, data)
        assert told == outcome(whole_way, data)
        assert not isinstance(told[0], bytes) or not any(
            word in told[0] for word in (b"Quillfeather", b"7718204", b"Ottoline")
        )


def test_alike_instances_take_the_short_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaner, ways = SeriesCleaner(PSEUDONYMS), []

    def counted(data: bytes, pseudonyms: Pseudonyms) -> object:
        ways.append(len(data))
        return deidentified_file(data, pseudonyms)

    monkeypatch.setattr("medveil_imaging.deidentification.series.deidentified_file", counted)
    for data in files(tmp_path, unchanged):
        cleaner.clean(data)
    assert len(ways) == 1


def test_a_file_that_is_stored_otherwise_is_not_looked_along(tmp_path: Path) -> None:
    data = files(tmp_path, unchanged)[0]
    found = elements_of(data)
    assert found is not None
    assert data.endswith(b"".join(found.rest.values()))
    for spoiled in (data[:-1], data + b"x", data[:128] + b"NONE" + data[132:], data[132:], b""):
        assert elements_of(spoiled) is None


@pytest.mark.slow
def test_every_series_of_the_packs_is_cleaned_as_file_by_file() -> None:
    folders = [
        *DATA.glob("dicom-pacs/*/mr*"),
        *DATA.glob("dicom-files/series/*"),
        DATA / "dicom-files" / "phi",
    ]
    if not folders:
        pytest.skip("dicom-pacs is not there: set MEDVEIL_DATA to the folder of the data packs")
    for folder in folders:
        cleaner = SeriesCleaner(PSEUDONYMS)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                assert outcome(cleaner.clean, data) == outcome(whole_way, data), path.name
