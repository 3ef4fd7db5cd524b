"""Values that say nothing, and dates moved back."""

from __future__ import annotations

import datetime
import re

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

DUMMIES: dict[str, object] = {
    "DA": "19000101",
    "TM": "000000",
    "DT": "19000101000000",
    "AS": "000Y",
    "PN": "REMOVED",
    "IS": "0",
    "DS": "0",
    "UR": "urn:removed",
}
TEXTS = frozenset({"AE", "CS", "LO", "LT", "SH", "ST", "UC", "UT"})
BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
OLDEST, STEP = 90, 5
"""Ages are told in steps of five years, and 90 for all that are older."""
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})(.*)", re.DOTALL)
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_YEARS = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}


def dummy(kind: str) -> object:
    """A value of a value representation that says nothing of anybody, and is not empty."""
    if kind in DUMMIES:
        return DUMMIES[kind]
    if kind in TEXTS:
        return "REMOVED"
    if kind in BYTES:
        return b"\0\0"
    return Sequence([Dataset()]) if kind == "SQ" else 0


def moved_back(written: str, days: int) -> str | None:
    """A date, or a date with a time, so many days earlier; None if it is none. The time of day stays.

    A time zone behind the time is cut off.
    """
    found = _DATE.fullmatch(written.strip(" \0"))
    if found is None:
        return None
    try:
        day = datetime.date(*(int(part) for part in found.groups()[:3])) - datetime.timedelta(days)
    except (ValueError, OverflowError):
        return None
    time = re.fullmatch(r"(\d{0,6}(\.\d{1,6})?)([+-]\d{4})?", found[4])
    return f"{day:%Y%m%d}{time[1] if time else ''}" if day.year >= 1000 else None


def age_band(written: str) -> str:
    """The beginning of a band of five years, ``090Y`` for all from 90 on; "" if it is no age."""
    found = _AGE.fullmatch(written.strip(" \0").upper())
    if found is None:
        return ""
    years = int(int(found[1]) / _YEARS[found[2]])
    return f"{min(years // STEP * STEP, OLDEST):03d}Y"
