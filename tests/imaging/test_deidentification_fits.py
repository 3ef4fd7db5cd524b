"""What a header holds in a place for something else goes, or the image is refused: whatever the place."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_files import header_of, picture, save
from medveil_imaging.deidentification import fitting
from medveil_imaging.deidentification.files import deidentified_file
from medveil_imaging.deidentification.pseudonyms import Pseudonyms
from medveil_imaging.deidentification.table import action_of
from medveil_imaging.sources.raw import Unusable

NAME = b"Quillfeather^Ottoline"
PSEUDONYMS = Pseudonyms(bytes(range(32)))
SHORT_KINDS = ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS")
SHORT_KINDS += ("ST", "TM", "UI", "UL", "US")
LONG_KINDS = ("OB", "OD", "OF", "OL", "OV", "OW", "SV", "UC", "UN", "UR", "UT", "UV")
KINDS = (*SHORT_KINDS, *LONG_KINDS)
UNTOUCHABLE = (0x00080005, 0x00080016, 0x00080018, 0x7FE00010, 0x7FE00008, 0x7FE00009)


def planted(header: Dataset, tag: int, kind: str, value: bytes) -> None:
    value += b" " * (-len(value) % 8)  # long enough for numbers of any width
    header._dict[BaseTag(tag)] = RawDataElement(BaseTag(tag), kind, len(value), value, 0, False, True)


def unnamed_tags(kind: str) -> list[int]:
    """Tags that the dictionary gives this kind, and the table of PS3.15 does not name."""
    return [
        tag
        for tag, (known, *_) in DicomDictionary.items()
        if kind in known.split(" or ")
        and action_of(tag) is None
        and tag >> 16 >= 8
        and tag not in UNTOUCHABLE
    ]


def cleaned(path: Path, header: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    return deidentified_file(save(path, header, syntax).read_bytes(), PSEUDONYMS)[0]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_another_persons_name_planted_in_every_kind_of_value_is_gone(tmp_path: Path, syntax: str) -> None:
    """In five tags of each kind at once, at the top and inside of a sequence; texts of devices apart."""
    header, item = header_of(picture()), Dataset()
    for kind in KINDS:
        tags = [tag for tag in unnamed_tags(kind) if tag not in fitting.NEEDED | fitting.DEVICE]
        for tag in [tag for tag in tags if tag not in fitting.PICTURE and tag & 0xFFFF][:5]:
            planted(header, tag, kind, NAME)
            planted(item, tag, kind, NAME)
    header.ReferencedImageSequence = Sequence([item])
    made = cleaned(tmp_path / "in.dcm", header, syntax)
    assert b"uillfeather" not in made
    assert b"Ottoline" not in made
    (kept,) = pydicom.dcmread(io.BytesIO(made)).ReferencedImageSequence
    assert len(kept) < len(item) / 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_goes_whatever_kind_the_file_says_it_is(tmp_path: Path, kind: str) -> None:
    header = header_of(picture())
    for keyword in (
        "SliceLocation",
        "ExposureTime",
        "BodyPartExamined",
        "ContentDate",
        "ImageLaterality",
        "KVP",
    ):
        planted(header, tag_for_keyword(keyword) or 0, kind, NAME)
    planted(header, 0x00080043, kind, NAME)  # a tag that the standard does not know
    planted(header, 0x00191008, kind, NAME)  # a private one
    assert b"uillfeather" not in cleaned(tmp_path / "in.dcm", header)


@pytest.mark.parametrize("keyword", [keyword_for_tag(tag) for tag in sorted(fitting.NEEDED)])
def test_where_the_picture_needs_the_place_the_image_is_refused_or_the_name_gone(
    tmp_path: Path, keyword: str
) -> None:
    header, tag = header_of(picture()), tag_for_keyword(keyword) or 0
    planted(header, tag, dictionary_VR(tag).split(" or ")[0], NAME)
    try:
        made = cleaned(tmp_path / "in.dcm", header)
    except Unusable as refused:
        made = f"{refused.code} {refused}".encode()
    assert b"uillfeather" not in made


@pytest.mark.parametrize(
    ("keyword", "value", "stays"),
    [
        ("SliceLocation", b"-12.5", True),
        ("SliceLocation", b"-12,5 ", True),
        ("SliceLocation", b"1.234567890123456e-05", True),
        ("SliceLocation", b"0303191234567", False),  # a number of thirteen digits is no place of a slice
        ("SliceLocation", b"12.5 of O. Q.", False),
        ("ExposureTime", b"4999999999", False),
        ("BodyPartExamined", b"CHEST", True),
        ("BodyPartExamined", b"Ottoline Q", False),
        ("Manufacturer", b"Maker & Sons", True),
    ],
)
def test_a_value_of_its_kind_stays_to_the_byte_and_another_goes(
    tmp_path: Path, keyword: str, value: bytes, stays: bool
) -> None:
    header, tag = header_of(picture()), tag_for_keyword(keyword) or 0
    planted(header, tag, dictionary_VR(tag), value)
    assert (value in cleaned(tmp_path / "in.dcm", header)) is stays


def test_what_repeats_the_files_own_patient_goes_from_places_for_texts_and_numbers(tmp_path: Path) -> None:
    header = header_of(picture(), PatientName="BRACKWATER^IVES", PatientID="MRN-7718204")
    header.PatientBirthDate, header.AccessionNumber = "19520314", "ACC55100"
    for keyword, value in (
        ("Manufacturer", b"Maker (brackwater)"),
        ("ManufacturerModelName", b"Model ACC55100"),
        ("BodyPartExamined", b"BRACKWATER"),
        ("SliceLocation", b"7718204"),
        ("ExposureTime", b"19520314"),
    ):
        planted(header, tag_for_keyword(keyword) or 0, dictionary_VR(keyword), value)
    made = cleaned(tmp_path / "in.dcm", header).lower()
    for word in (b"brackwater", b"7718204", b"acc55100", b"19520314"):
        assert word not in made


def test_a_uid_below_the_standards_root_with_a_long_number_is_somebodys(tmp_path: Path) -> None:
    made = PSEUDONYMS.uid("1.2.840.10008.5.1.4.7718204")
    assert made.startswith("2.25.")
    for known in ("1.2.840.10008.1.2.4.100", "1.2.840.10008.5.1.4.1.1.88.71", "1.2.840.10008.6.1.1304"):
        assert PSEUDONYMS.uid(known) == known
