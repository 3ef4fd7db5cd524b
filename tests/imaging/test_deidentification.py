"""De-identified DICOM names nobody, and a reader finds the same image in it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from dicom_files import film_file, header_of, picture, put_text, save
from medveil_imaging.deidentification.datasets import Options
from medveil_imaging.deidentification.files import deidentified_file
from medveil_imaging.deidentification.pseudonyms import Pseudonyms
from medveil_imaging.deidentification.values import age_band, moved_back
from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.read import read_film

SECRET = b"Ravensbourne"
PSEUDONYMS = Pseudonyms(bytes(range(32)))
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


def clean(path: Path, options: Options | None = None) -> pydicom.FileDataset:
    return pydicom.dcmread(io.BytesIO(deidentified_file(path.read_bytes(), PSEUDONYMS, options)[0]))


def told_everywhere(header: Dataset) -> Dataset:
    """A header that tells a name in every place that a header has."""
    name = SECRET.decode()
    header.PatientName, header.PatientID, header.IssuerOfPatientID = f"{name}^Cyril", name, name
    header.StudyDescription, header.ImageComments, header.StationName = name, name, name
    header.Occupation, header.AcquisitionComments, header.RetrieveAETitle = name, name, name
    item = Dataset()
    item.PatientName, item.TextValue, item.CodeMeaning = name, name, "kept"
    deeper = Dataset()
    deeper.PersonName, deeper.ContentSequence = name, Sequence([item])
    header.RequestAttributesSequence = Sequence([deeper])
    header.DerivationCodeSequence = Sequence([deeper])
    header.add_new(0x00991001, "LO", name)
    header.add_new(0x00990010, "LO", "VENDOR")
    header.add_new(0x00991002, "UN", name.encode())
    header.add_new(0x60003000, "OW", name.encode())
    header.add_new(0x60020022, "LO", name)
    header.add_new(0x50003000, "OW", name.encode())
    header.add_new(0xFFFCFFFC, "OB", name.encode())
    header.add_new(0x00282000, "OB", name.encode())  # a colour profile
    return header


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_name_is_gone_from_every_place_and_the_film_stays(tmp_path: Path, syntax: str) -> None:
    header = told_everywhere(header_of(picture()))
    if syntax == ExplicitVRLittleEndian:
        put_text(header, "BodyPartExamined", SECRET.decode(), "LT")  # a long text in a short one's place
    path = save(tmp_path / "in.dcm", header, syntax)
    data = path.read_bytes()
    path.write_bytes(SECRET.ljust(128, b"\0") + data[128:] + SECRET)
    made, told = deidentified_file(path.read_bytes(), PSEUDONYMS)
    assert SECRET not in made
    assert SECRET.decode().encode("utf-16-le") not in made
    assert made[:128] == bytes(128)
    again = pydicom.dcmread(io.BytesIO(made))
    assert again.file_meta.MediaStorageSOPInstanceUID == again.SOPInstanceUID
    assert again.file_meta.TransferSyntaxUID == syntax
    assert again.PatientIdentityRemoved == "YES"
    assert [str(item.CodeValue) for item in again.DeidentificationMethodCodeSequence] == ["113100"]
    assert told.codes == ("113100",)
    assert told.removed["private"] >= 3
    (tmp_path / "out.dcm").write_bytes(made)
    assert np.array_equal(read_film(tmp_path / "out.dcm").pixels, read_film(path).pixels)


def test_files_of_one_patient_and_study_stay_together_and_others_apart(tmp_path: Path) -> None:
    def one(**tags: Any) -> pydicom.FileDataset:
        return clean(film_file(tmp_path / "one.dcm", picture(), **tags))

    first = one(PatientID="4711", StudyInstanceUID="1.2.9", SOPInstanceUID="1.2.3")
    second = one(PatientID="4711 ", StudyInstanceUID="1.2.9", SOPInstanceUID="1.2.4")
    other = one(PatientID="4711", IssuerOfPatientID="ELSEWHERE", StudyInstanceUID="1.2.8")
    assert first.PatientID == second.PatientID != other.PatientID
    assert first.StudyInstanceUID == second.StudyInstanceUID != other.StudyInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SOPClassUID == pydicom.uid.ComputedRadiographyImageStorage
    assert one(PatientID="ANONYMOUS").PatientID == ""  # nobody stays nobody


def test_a_reference_still_points_at_the_image_that_it_named(tmp_path: Path) -> None:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    named = clean(film_file(tmp_path / "named.dcm", picture(), SOPInstanceUID="1.2.3"))
    path = film_file(
        tmp_path / "names.dcm", picture(), SOPInstanceUID="1.2.5", SourceImageSequence=Sequence([item])
    )
    (found,) = clean(path).SourceImageSequence
    assert found.ReferencedSOPInstanceUID == named.SOPInstanceUID
    assert found.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.1"


def test_another_key_gives_other_pseudonyms() -> None:
    other = Pseudonyms(bytes(range(1, 33)))
    assert PSEUDONYMS.patient("4711") == Pseudonyms(bytes(range(32))).patient("4711")
    assert PSEUDONYMS.patient("4711") != other.patient("4711")
    assert PSEUDONYMS.uid("1.2.3") != other.uid("1.2.3")
    assert PSEUDONYMS.patient("2", "1") != PSEUDONYMS.patient("1", "2") != PSEUDONYMS.patient("12")
    assert bytes(range(32)).hex()[:8] not in repr(PSEUDONYMS)
    with pytest.raises(ValueError, match="32 bytes"):
        Pseudonyms(b"short")


@given(st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,8})){1,6}", fullmatch=True))
def test_a_uid_becomes_a_uid_and_always_the_same(uid: str) -> None:
    made = PSEUDONYMS.uid(uid)
    assert pydicom.uid.UID(made).is_valid
    assert made == PSEUDONYMS.uid(f"{uid}\0")
    assert (made == uid) == uid.startswith("1.2.840.10008.")


def test_dates_go_or_move_by_one_secret_step_a_patient(tmp_path: Path) -> None:
    dates = {"StudyDate": "20240229", "SeriesDate": "20240310", "StudyTime": "101500"}
    dates |= {"PatientBirthDate": "19520314", "AcquisitionDateTime": "20240301120000.5+0100"}
    path = film_file(tmp_path / "a.dcm", picture(), **dates, written={"ContentDate": "soon"})
    gone = clean(path)
    assert (gone.StudyDate, gone.SeriesDate, gone.StudyTime) == ("", "19000101", "")
    assert gone.LongitudinalTemporalInformationModified == "REMOVED"
    moved = clean(path, Options(dates="shifted"))
    days = PSEUDONYMS.days_back(PSEUDONYMS.patient("4711"))
    assert moved.StudyDate == moved_back("20240229", days) != "20240229"
    assert moved.SeriesDate == moved_back("20240310", days)
    assert moved.StudyTime == "101500"
    assert moved.AcquisitionDateTime == f"{moved_back('20240301', days)}120000.5"
    assert moved.PatientBirthDate == ""
    assert moved.ContentDate == "19000101"  # no date: it is not told, whatever it was
    assert "113107" in [str(item.CodeValue) for item in moved.DeidentificationMethodCodeSequence]


@given(st.dates(), st.dates(), st.text(min_size=1, max_size=9))
def test_distances_between_dates_stay(one: Any, two: Any, person: str) -> None:
    days = PSEUDONYMS.days_back(person)
    moved = [moved_back(f"{day:%Y%m%d}".rjust(8, "0"), days) for day in (one, two)]
    if None not in moved:
        back = [np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:]}") for text in moved if text]
        assert int((back[1] - back[0]).astype(int)) == (two - one).days
        assert back[0] < np.datetime64(one)


@pytest.mark.parametrize(
    ("told", "band"),
    [("047Y", "045Y"), ("091Y", "090Y"), ("119Y", "090Y"), ("018M", "000Y"), ("003D", "000Y"), ("old", "")],
)
def test_age_is_told_in_bands_only(told: str, band: str) -> None:
    assert age_band(told) == band


def test_sex_and_age_stay_only_where_they_are_asked_for(tmp_path: Path) -> None:
    path = film_file(tmp_path / "a.dcm", picture(), PatientSex="F", PatientAge="093Y", PatientWeight="71")
    assert (clean(path).PatientSex, "PatientAge" in clean(path)) == ("", False)
    kept = clean(path, Options(characteristics=True))
    assert (kept.PatientSex, kept.PatientAge, "PatientWeight" in kept) == ("F", "090Y", False)
    assert "113108" in [str(item.CodeValue) for item in kept.DeidentificationMethodCodeSequence]


def test_an_overlay_in_spare_bits_is_cut_and_the_picture_stays(tmp_path: Path) -> None:
    pixels = picture(top=4000)
    written = pixels.copy()
    written[10:20, 5:30] |= 1 << 15
    for name, tags in (("told", {"OverlayBitPosition": 15}), ("silent", {})):
        header = header_of(written, stored=12)
        for tag in tags:
            header.add_new(0x60000010, "US", 48)
            header.add_new(0x60000102, "US", tags[tag])
        path = save(tmp_path / f"{name}.dcm", header)
        made, _ = deidentified_file(path.read_bytes(), PSEUDONYMS)
        again = pydicom.dcmread(io.BytesIO(made))
        assert np.array_equal(np.frombuffer(again.PixelData, "<u2").reshape(pixels.shape), pixels), name
        (tmp_path / "out.dcm").write_bytes(made)
        assert np.array_equal(read_film(tmp_path / "out.dcm").pixels, read_film(path).pixels)


def test_what_lies_behind_the_last_pixel_is_cut(tmp_path: Path) -> None:
    header = header_of(picture())
    header.PixelData += SECRET + b" " * (len(SECRET) % 2)
    path = save(tmp_path / "long.dcm", header)
    assert SECRET not in deidentified_file(path.read_bytes(), PSEUDONYMS)[0]


def test_comments_in_compressed_frames_go_and_the_picture_stays(tmp_path: Path) -> None:
    for kind, syntax, comment in (
        ("JPEG", JPEGBaseline8Bit, b"\xff\xfe\x00\x0e" + SECRET),
        ("JPEG", JPEGBaseline8Bit, b"\xff\xe1\x00\x0e" + SECRET),
        ("JPEG2000", JPEG2000Lossless, b"\xff\x64\x00\x10\x00\x01" + SECRET),
    ):
        pixels = (picture() >> 4).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
        frame = out.getvalue()
        place = 2 if kind == "JPEG" else frame.index(b"\xff\x52")  # behind the size, which comes first
        frame = frame[:place] + comment + frame[place:]
        path = film_file(tmp_path / "in.dcm", pixels, syntax=syntax, frames=[frame])
        made, _ = deidentified_file(path.read_bytes(), PSEUDONYMS)
        assert SECRET in path.read_bytes()
        assert SECRET not in made
        (tmp_path / "out.dcm").write_bytes(made)
        assert np.array_equal(read_film(tmp_path / "out.dcm").pixels, read_film(path).pixels), kind


def test_a_picture_that_somebody_cleaned_before_keeps_that_record(tmp_path: Path) -> None:
    path = film_file(tmp_path / "a.dcm", picture())
    (tmp_path / "b.dcm").write_bytes(
        deidentified_file(path.read_bytes(), PSEUDONYMS, Options(done=("113101",)))[0]
    )
    codes = clean(tmp_path / "b.dcm").DeidentificationMethodCodeSequence
    assert [str(item.CodeValue) for item in codes] == ["113100", "113101"]


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(200), bytes(128) + b"DICM" + b"\xff" * 40])
def test_what_is_no_dicom_file_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(Unusable):
        deidentified_file(data, PSEUDONYMS)
