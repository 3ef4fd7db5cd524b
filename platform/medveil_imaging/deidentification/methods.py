"""What was done to a data set, in the standard's words: (0012,0062) to (0012,0064), context group 7050."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medveil_imaging.deidentification.table import edition

BASIC, PIXELS, FEATURES, SHIFTED, CHARACTERISTICS = "113100", "113101", "113102", "113107", "113108"
MEANINGS = {
    BASIC: "Basic Application Confidentiality Profile",
    PIXELS: "Clean Pixel Data Option",
    FEATURES: "Clean Recognizable Visual Features Option",
    "113103": "Clean Graphics Option",
    "113104": "Clean Structured Content Option",
    "113105": "Clean Descriptors Option",
    "113106": "Retain Longitudinal Temporal Information Full Dates Option",
    SHIFTED: "Retain Longitudinal Temporal Information Modified Dates Option",
    CHARACTERISTICS: "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
    "113110": "Retain UIDs Option",
    "113111": "Retain Safe Private Option",
    "113112": "Retain Institution Identity Option",
}
CLEANED = frozenset({PIXELS, FEATURES})
"""Options that say what was done to pixels: they stay true of a data set that is de-identified again."""


def earlier(dataset: Dataset) -> set[str]:
    """The codes of what somebody did before to a data set's pixels."""
    items = dataset.get("DeidentificationMethodCodeSequence") or ()
    return {str(item.get("CodeValue", "")).strip() for item in items} & CLEANED


def record(dataset: Dataset, codes: Iterable[str], *, dates: str) -> None:
    """Write into a data set what was done.

    Args:
        dates: ``REMOVED`` or ``MODIFIED``.
    """
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"MedVeil, DICOM PS3.15 {edition()} table E.1-1"
    dataset.LongitudinalTemporalInformationModified = dates
    dataset.DeidentificationMethodCodeSequence = Sequence([_item(code) for code in codes])


def _item(code: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", MEANINGS[code]
    return item
