"""What a PACS is asked and what it answers, over whichever protocol.

A DICOM study is called an examination here: the word study means what hospitals learn together.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Protocol

NO_PICTURES = frozenset(
    "SR KO PR DOC RTSTRUCT RTPLAN RTRECORD RTDOSE REG RWV FID PLAN SEG ECG HD AU SMR STAIN".split()
)
"""Modalities of objects without a picture of the patient; they are never fetched as images."""


@dataclass(frozen=True)
class Query:
    """What the hospital looks for; what is empty fits everything."""

    modality: str = ""
    first_day: dt.date | None = None
    last_day: dt.date | None = None
    body_part: str = ""
    """Without regard to capitals; ``*`` and ``?`` stand for any letters."""
    description: str = ""
    """Of the series or of its examination, in the same way; a word in it is enough."""

    @property
    def days(self) -> str:
        """The range as DICOM writes it: ``20240101-20241231``, open at either end; empty if any day fits."""
        if self.first_day is None and self.last_day is None:
            return ""
        ends = (f"{day:%Y%m%d}" if day else "" for day in (self.first_day, self.last_day))
        return "-".join(ends)

    def fits(self, series: Series) -> bool:
        """Whether a series is meant. PACS leave out keys that they do not know, so all is looked at here."""
        day = series.day
        return (
            series.modality not in NO_PICTURES
            and (not self.modality or series.modality == self.modality.upper())
            and (self.first_day is None or day >= f"{self.first_day:%Y%m%d}")
            and (self.last_day is None or "" < day <= f"{self.last_day:%Y%m%d}")
            and _alike(self.body_part, series.body_part)
            and (
                _alike(f"*{self.description}*", series.description)
                or _alike(f"*{self.description}*", series.examination_description)
            )
        )


def _alike(pattern: str, text: str) -> bool:
    plain = pattern.strip().casefold()
    return not plain.strip("*") or fnmatchcase(text.strip().casefold(), plain.replace("[", "[[]"))


@dataclass(frozen=True)
class Examination:
    """One DICOM study, as the PACS tells of it."""

    uid: str = field(repr=False)
    patient: str = field(repr=False)
    accession: str = field(repr=False)
    day: str = field(repr=False)
    """``YYYYMMDD``."""
    description: str = ""


@dataclass(frozen=True)
class Series:
    """One series, as the PACS tells of it. What it tells is not believed of the images that come."""

    examination: str = field(repr=False)
    uid: str = field(repr=False)
    patient: str = field(default="", repr=False)
    accession: str = field(default="", repr=False)
    day: str = field(default="", repr=False)
    modality: str = ""
    body_part: str = ""
    description: str = ""
    examination_description: str = ""
    count: int | None = None
    """Instances; None if the PACS does not say."""

    def of(self, examination: Examination) -> Series:
        """With what the examination says of it."""
        return replace(
            self,
            patient=examination.patient,
            accession=examination.accession,
            day=examination.day,
            examination_description=examination.description,
        )


class Pacs(Protocol):
    """Asks one PACS. Nothing here, and nothing behind it, can write to one.

    Every method raises: PacsUnreachable, PacsLogin, PacsCertificate, PacsLacks, NotAPacs.
    """

    def check(self) -> None:
        """Whether it answers and lets this node in."""

    def examinations(self, query: Query, accession: str | None = None) -> Iterator[Examination]:
        """Those of a range of days and a modality; of one accession number only, if it is given."""

    def series_of(self, examination: Examination) -> Sequence[Series]:
        """All series of one examination."""

    def count(self, series: Series) -> int:
        """The instances that the series has now."""

    def instances(self, series: Series) -> Iterator[bytes]:
        """Every instance as a DICOM file, in the form in which the PACS keeps it.

        Raises: SeriesTooLarge as well.
        """

    def close(self) -> None:
        """End every connection."""


def found(pacs: Pacs, query: Query, accession: str | None = None) -> Iterator[Series]:
    """The series that fit, examination by examination; of one accession number only, if it is given.

    Raises: what :class:`Pacs` raises.
    """
    for one in pacs.examinations(query, accession):
        if accession is not None and one.accession != accession:
            continue  # some PACS take a number for a pattern, or do not know the key
        for series in pacs.series_of(one):
            if query.fits(whole := series.of(one)):
                yield whole
