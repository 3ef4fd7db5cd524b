"""Files of one patient are recognised as such; nobody is shown, and a placeholder is nobody."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from medveil_imaging.sources.dicom.identity import patient_mark
from medveil_imaging.sources.raw import Film, Volume


def mark(**tags: Any) -> bytes | None:
    header = Dataset()
    for name, value in tags.items():
        setattr(header, name, value)
    return patient_mark(header)


def test_equal_patient_ids_of_one_issuer_are_one_patient_and_others_are_not() -> None:
    one = mark(PatientID="4711", IssuerOfPatientID="Ward 3")
    assert one is not None
    assert b"4711" not in one
    assert one == mark(PatientID=" 4711 ", IssuerOfPatientID="Ward 3", PatientName="Quillfeather")
    others = [
        mark(PatientID="4711"),
        mark(PatientID="4712", IssuerOfPatientID="Ward 3"),
        mark(PatientID="34711", IssuerOfPatientID="Ward "),
    ]
    assert len({one, *others}) == 4
    assert mark(PatientID="ANON0001") != mark(PatientID="ANON0002")  # pseudonyms of a de-identifier differ


@pytest.mark.parametrize(
    "written",
    ["", "  ", "ANONYMOUS", "anonymized", "anon", "000000", "XXXX", "De-Identified", "N/A", "no id", "?"],
)
def test_a_placeholder_names_nobody(written: str) -> None:
    assert mark(PatientID=written) is None
    assert mark() is None


def test_the_mark_is_not_shown_with_its_image() -> None:
    for kind in (Film, Volume):
        assert not kind.__dataclass_fields__["patient_mark"].repr
