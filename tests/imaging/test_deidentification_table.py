"""The table of PS3.15 is whole, and says of well-known attributes what the standard says."""

from __future__ import annotations

import re

import pytest
from pydicom.datadict import keyword_dict

from confidentiality_table import LISTS, TABLE, table_of
from medveil_imaging.deidentification.table import action_of, edition, row

READ_IN_THE_STANDARD = {
    "PatientName": "Z",
    "PatientID": "Z/D",
    "PatientBirthDate": "Z",
    "PatientSex": "Z",
    "PatientAge": "X",
    "OtherPatientIDsSequence": "X",
    "AccessionNumber": "Z",
    "StudyDate": "Z",
    "AcquisitionDate": "X/Z",
    "AcquisitionDateTime": "X/Z/D",
    "ContentDate": "Z/D",
    "SeriesDate": "X/D",
    "StationName": "X/Z/D",
    "InstitutionName": "X/Z/D",
    "ReferringPhysicianName": "Z",
    "SOPInstanceUID": "U",
    "StudyInstanceUID": "U",
    "FrameOfReferenceUID": "U",
    "ReferencedImageSequence": "X/Z/U*",
    "SourceImageSequence": "X/Z/U*",
    "ContentSequence": "D",
    "ImageComments": "X",
    "PatientComments": "X",
    "StudyDescription": "X",
    "DataSetTrailingPadding": "X",
}


def test_every_line_is_a_tag_an_action_and_a_name() -> None:
    first, *lines = TABLE.read_text().splitlines()
    assert re.fullmatch(r"# DICOM PS3\.15 20\d\d[a-e], .*", first)
    assert edition() == "2026c"
    tags = [line.split("\t")[0] for line in lines]
    assert len(tags) == len(set(tags)) == 655
    for line in lines:
        tag, action, name = line.split("\t")
        assert re.fullmatch(r"[0-9A-F]{4},[0-9A-F]{4}|(50|60)xx,(xxxx|3000|4000)", tag), line
        assert action in LISTS.values(), line
        assert name == name.strip() != "", line


@pytest.mark.parametrize(("keyword", "action"), READ_IN_THE_STANDARD.items())
def test_a_row_is_as_it_stands_in_the_standard(keyword: str, action: str) -> None:
    assert row(keyword_dict[keyword]) == action


def test_of_several_actions_the_one_is_taken_that_suits_every_type() -> None:
    taken = {row(tag): action_of(tag) for tag in map(keyword_dict.get, READ_IN_THE_STANDARD) if tag}
    assert taken == {"Z": "Z", "Z/D": "D", "X": "X", "X/Z": "Z", "X/Z/D": "D", "X/D": "D", "U": "U"} | {
        "X/Z/U*": "U",
        "D": "D",
    }
    assert action_of(0x60020010) == action_of(0x50000030) == "X"  # whole groups, not their data alone
    assert action_of(keyword_dict["PixelSpacing"]) is None


def test_the_table_is_made_from_lists_of_tags() -> None:
    source = (
        "X_TAGS = [\n    (0x0008, 0x103E),  # Series Description\n]\nU_TAGS = [\n    (\n        0x0020,\n"
    )
    source += "        0x000D,\n    ),  # Study Instance UID\n]\nALL_TAGS = []\n"
    made = table_of(source).splitlines()
    assert made[:2] == ["0008,103E\tX\tSeries Description", "0020,000D\tU\tStudy Instance UID"]
    assert set(made) <= {*TABLE.read_text().splitlines()}
