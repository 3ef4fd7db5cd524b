"""A data set → the same image without what names anybody, by the table of PS3.15."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pydicom.valuerep import PersonName

from medveil_imaging.deidentification.fitting import DATES, WIDTHS, always_goes, fits, telling_words
from medveil_imaging.deidentification.methods import BASIC, CHARACTERISTICS, SHIFTED, earlier, record
from medveil_imaging.deidentification.pixels import visible_pixels, without_comments
from medveil_imaging.deidentification.pseudonyms import Pseudonyms
from medveil_imaging.deidentification.table import action_of
from medveil_imaging.deidentification.values import age_band, dummy, moved_back
from medveil_imaging.sources.dicom.identity import patient_mark
from medveil_imaging.sources.raw import quiet

FRAME_TABLES = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
SEX, AGE = 0x00100040, 0x00101010
PERSON = 0x0010
"""The group of the patient, whose dates (of birth) are never told, shifted or not."""
MOST_DEEP = 32
"""Sequences in sequences; real objects have six."""

_TIME = re.compile(r"[0-9.]{2,16}")
Element: TypeAlias = "DataElement | RawDataElement"


@dataclass(frozen=True)
class Options:
    """What a hospital may ask for beside the basic profile. Nothing of it is on by default."""

    dates: Literal["removed", "shifted"] = "removed"
    """``shifted``: all dates of a patient go back by the same secret number of days (113107)."""
    characteristics: bool = False
    """Whether sex and a band of five years of age stay (113108)."""
    done: tuple[str, ...] = ()
    """Codes of what was done to the pixels before (``CLEANED`` in this folder's ``methods``)."""


@dataclass(frozen=True)
class Deidentified:
    """A clean data set, and what was done for it."""

    dataset: Dataset = field(repr=False)
    removed: Mapping[str, int]
    """How many elements were ``removed``, ``emptied``, ``replaced``; how many ``uids`` and ``dates`` changed;
    how many ``private`` ones, how many that the standard's dictionary lacks (``unknown``), and how many that
    hold what is no value of theirs (``unfit``), went."""
    codes: tuple[str, ...]
    """Of the standard's context group 7050, as they stand in (0012,0064)."""


def deidentified(dataset: Dataset, pseudonyms: Pseudonyms, options: Options | None = None) -> Deidentified:
    """A data set by the Basic Application Level Confidentiality Profile, and stricter.

    Stricter: private elements, unknown ones, persons' names, texts and bytes that the table does not name go
    too, and values that do not fit their tag (:mod:`medveil_imaging.deidentification.fitting`). Elements that
    stay keep the bytes they were stored in, so a reader gets the same image.

    Args:
        dataset: as it was read, with its transfer syntax in ``file_meta``; it is left as it is.

    Raises:
        Unusable: bits of the pixels that the header does not announce hold something, and it cannot be
            told which of them are the picture; or as :func:`fits`.
    Source: PS3.15, E.1 to E.3.
    """
    chosen = options or Options()
    with quiet():
        words = telling_words(lambda tag: _stored_value(dataset.get_item(tag)))
        mark = patient_mark(dataset)
        number, issuer = (str(dataset.get(name) or "") for name in ("PatientID", "IssuerOfPatientID"))
        person = pseudonyms.patient(number, issuer) if mark else ""
        days = pseudonyms.days_back(person or str(dataset.get("StudyInstanceUID") or ""))
        walk = _Walk(pseudonyms, chosen, days, words)
        clean = walk.cleaned(dataset, 0)
        pixels = visible_pixels(dataset)
        pixels = without_comments(dataset) if pixels is None else pixels
        if pixels is not None:
            clean[pixels.tag] = pixels
            for name in FRAME_TABLES:  # they tell where frames began
                clean.pop(name, None)
            walk.counts["pixels"] += 1
        clean.PatientID = person
        asked = {SHIFTED: chosen.dates == "shifted", CHARACTERISTICS: chosen.characteristics}
        done = {BASIC, *chosen.done, *earlier(dataset), *(code for code, on in asked.items() if on)}
        codes = tuple(sorted(done))
        record(clean, codes, dates="MODIFIED" if chosen.dates == "shifted" else "REMOVED")
    return Deidentified(clean, dict(walk.counts), codes)


class _Walk:
    """One way through a data set and all that is nested in it, with what was done counted."""

    def __init__(self, pseudonyms: Pseudonyms, options: Options, days: int, words: frozenset[bytes]) -> None:
        self._pseudonyms, self._chosen, self._days, self._words = pseudonyms, options, days, words
        self.counts: Counter[str] = Counter()

    def cleaned(self, source: Dataset, depth: int) -> Dataset:
        """A copy with what stays."""
        clean = Dataset()
        implicit, little = source.original_encoding
        clean.set_original_encoding(implicit, little, source.original_character_set)
        for tag in sorted(source.keys()):
            element = self._element(source, tag, depth)
            if element is not None:
                clean._dict[tag] = element
        return clean

    def _element(self, source: Dataset, tag: BaseTag, depth: int) -> Element | None:
        """What becomes of one element; None: it goes."""
        if tag.group % 2:
            return self._gone("private")
        if tag.group < 0x0008 or tag.element == 0:  # commands, discs' indices, lengths of groups
            return self._gone("removed")
        action, kind = action_of(tag), _kind(source, tag)
        if action == "X" and not self._kept(tag):
            return self._gone("removed")
        if kind is None:
            return self._gone("unknown")
        if kind == "SQ" and action in (None, "U"):
            return self._sequence(source, tag, depth)
        if self._kept(tag):
            return self._characteristic(source, tag, kind)
        if kind in DATES and tag.group != PERSON and self._chosen.dates == "shifted":
            return self._shifted(source, tag, kind, action)
        if kind == "UI" and action != "Z":
            return self._uids(source, tag)
        if action == "Z":
            self.counts["emptied"] += 1
            return _made(tag, kind, Sequence() if kind == "SQ" else None)
        if action == "D":
            self.counts["replaced"] += 1
            return _made(tag, kind, dummy(kind))
        return self._unnamed(source, tag, kind)

    def _unnamed(self, source: Dataset, tag: BaseTag, kind: str) -> Element | None:
        """An element that the table does not name."""
        said = _said(source, tag)
        if always_goes(tag, kind, said):
            return self._gone("removed")
        if not fits(tag, kind, said, _stored_value(source.get_item(tag)), self._words):
            return self._gone("unfit")
        return _as_stored(source, tag)

    def _gone(self, why: str) -> Element | None:
        self.counts[why] += 1
        return None

    def _sequence(self, source: Dataset, tag: BaseTag, depth: int) -> Element | None:
        element = _decoded(source, tag)
        if element is None or element.VR != "SQ" or depth == MOST_DEEP:
            return self._gone("removed")
        return _made(tag, "SQ", Sequence([self.cleaned(item, depth + 1) for item in element.value]))

    def _uids(self, source: Dataset, tag: BaseTag) -> Element | None:
        old = _texts(source, tag)
        new = [UID(self._pseudonyms.uid(uid)) for uid in old]
        self.counts["uids"] += sum(str(uid) not in old for uid in new)
        return _made(tag, "UI", new[0] if len(new) == 1 else new or None)

    def _shifted(self, source: Dataset, tag: BaseTag, kind: str, action: str | None) -> Element | None:
        """A date moved back, times of day as they are; what is no date goes as without the option."""
        old = _texts(source, tag)
        new = [one if kind == "TM" and _TIME.fullmatch(one) else moved_back(one, self._days) for one in old]
        if None in new:
            self.counts["emptied"] += 1
            return _made(tag, kind, dummy(kind) if action == "D" else None)
        self.counts["dates"] += 1
        return _made(tag, kind, new[0] if len(new) == 1 else new or None)

    def _kept(self, tag: BaseTag) -> bool:
        return self._chosen.characteristics and tag in (SEX, AGE)

    def _characteristic(self, source: Dataset, tag: BaseTag, kind: str) -> Element:
        written = next(iter(_texts(source, tag)), "").upper()
        if tag == SEX:
            return _made(tag, kind, written if written in ("F", "M", "O") else None)
        return _made(tag, kind, age_band(written) or None)


def _made(tag: BaseTag, kind: str, value: Any) -> DataElement:
    return DataElement(tag, kind, value)


def _said(source: Dataset, tag: BaseTag) -> str:
    """The kind of value that stands in the file; "" where none stands there."""
    element = source.get_item(tag)
    return "" if element is None or element.VR is None else str(element.VR)


def _kind(source: Dataset, tag: BaseTag) -> str | None:
    """The kind of value that the standard's dictionary gives, the first of several; None: it knows none.

    What is stored as a sequence is one, whatever the dictionary says: it is walked, never kept whole.
    """
    if _said(source, tag) == "SQ":
        return "SQ"
    try:
        known = dictionary_VR(tag).split(" or ")
    except KeyError:
        return None
    said = _said(source, tag)
    return said if said in known else str(known[0])


def _decoded(source: Dataset, tag: BaseTag) -> DataElement | None:
    try:
        return source[tag]
    except Exception:  # pydicom raises nearly everything on values that are none of their kind
        return None


def _texts(source: Dataset, tag: BaseTag) -> list[str]:
    element = _decoded(source, tag)
    value = None if element is None else element.value
    if value is None or value == "":
        return []
    several = value if not isinstance(value, str | bytes) and hasattr(value, "__iter__") else [value]
    return [str(one).strip(" \0") for one in several]


def _as_stored(source: Dataset, tag: BaseTag) -> Element | None:
    """An element with the bytes it has in the file; decoded where it is stored otherwise than all else."""
    element = source.get_item(tag)
    if not isinstance(element, RawDataElement):
        return element
    if (element.is_implicit_VR, element.is_little_endian) == source.original_encoding:
        return element
    return _decoded(source, tag)


def _stored_value(element: Element | None) -> bytes:
    """An element's value as it stands in the file; of one that was decoded, as it would be written as text.

    Numbers that were decoded from bytes are numbers: nothing is left of them to look at.
    """
    value = None if element is None else element.value
    if value is None or isinstance(value, bytes):
        return value or b""
    if isinstance(value, PersonName):
        return bytes(value)
    several = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    if element is not None and element.VR in WIDTHS:
        return b""
    return b"\\".join(one if isinstance(one, bytes) else str(one).encode() for one in several)
