"""The first elements of a DICOM file: whose it is, of which exam and series, made by what; no pixels.

Only the head of the file is read, as far as its elements of group 0028 begin. What stands there is text from
a scanner's console: it is compared, counted and hashed, and goes nowhere else.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from dataclasses import dataclass, field
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_dataset, read_partial, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medveil_imaging.sources.dicom.header import texts, value_of, whole
from medveil_imaging.sources.dicom.identity import names_nobody
from medveil_imaging.sources.raw import Unusable, quiet

STEPS = (2**14, 2**18, 2**22)
"""Bytes that are read: the first mostly suffice; private groups before 0028 may take more."""
LAST = 0x00280011
"""Columns: of what is wanted nothing stands behind it."""
INFLATED = 2**20
"""Bytes that are unpacked of a deflated file: it may be made to swell."""
TAGS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "AccessionNumber",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "SeriesDescription",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "NumberOfFrames",
]


@dataclass(frozen=True)
class FirstElements:
    """What a file's head tells. Nothing of it shows in ``repr``; texts are in capitals, "" if not there."""

    patient: str = field(repr=False)
    """PatientID as it is written; "" also where it is a placeholder for everybody."""
    name: str = field(repr=False)
    accession: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)
    modality: str
    frames: int
    description: str = field(repr=False)
    image_type: tuple[str, ...]
    sex: str = field(repr=False)
    age: str = field(repr=False)
    """In years, with one decimal below two; "" if it is not told."""
    scanner: str
    issuer: str = field(default="", repr=False)
    """Who has given the PatientID; "" if that is not told."""


def first_elements(path: str) -> FirstElements | None:
    """Read the head of a file; None if it is no DICOM file that can be read. Raises: nothing else."""
    try:
        with open(path, "rb") as file:
            size, head = os.fstat(file.fileno()).st_size, b""
            for step in STEPS:
                head += file.read(step - len(head))
                found, complete = _read(head)
                if complete or len(head) >= size:
                    break
        return None if found is None else _values(found)
    except (OSError, Unusable):
        return None


def _read(head: bytes) -> tuple[Dataset | None, bool]:
    """What the head holds, and whether it reaches as far as is wanted."""
    passed = False

    def past(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal passed
        passed = passed or tag > LAST
        return passed

    try:
        with quiet():
            wanted: Any = [tag_for_keyword(name) for name in TAGS]
            if head[128:132] != b"DICM":
                whole_head = io.BytesIO(head)
                return read_partial(whole_head, stop_when=past, specific_tags=wanted, force=True), passed
            deflated = _inflated(head)
            if deflated is not None:
                return read_dataset(io.BytesIO(deflated), False, True, None, past, None, None, wanted), passed
            return read_partial(io.BytesIO(head), stop_when=past, specific_tags=wanted), passed
    except (InvalidDicomError, EOFError):
        return None, False
    except Exception:  # whatever the library raises on bytes that are none
        return None, True


def _inflated(head: bytes) -> bytes | None:
    """What a deflated file begins with; None if the file is not deflated."""
    stream = io.BytesIO(head)
    read_preamble(stream, force=False)
    if _read_file_meta_info(stream).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return None
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(head[stream.tell() :], INFLATED)


def _values(found: Dataset) -> FirstElements:
    with quiet():
        maker = " ".join(filter(None, (_one(found, "Manufacturer"), _one(found, "ManufacturerModelName"))))
        patient = _as_written(found, "PatientID")
        return FirstElements(
            patient="" if names_nobody(patient) else patient,
            name=_one(found, "PatientName"),
            accession=_as_written(found, "AccessionNumber"),
            study=_one(found, "StudyInstanceUID"),
            series=_one(found, "SeriesInstanceUID"),
            instance=_one(found, "SOPInstanceUID"),
            modality=_one(found, "Modality"),
            frames=_frames(found),
            description=_one(found, "SeriesDescription"),
            image_type=tuple(texts(found, "ImageType")),
            sex=_one(found, "PatientSex"),
            age=_age(found),
            scanner=maker,
            issuer=_as_written(found, "IssuerOfPatientID"),
        )


def _frames(found: Dataset) -> int:
    try:
        return whole(found, "NumberOfFrames", 1)
    except Unusable:
        return 1


def _one(found: Dataset, name: str) -> str:
    return _as_written(found, name).upper()


def _as_written(found: Dataset, name: str) -> str:
    value = value_of(found, name)
    return "" if value is None else str(value).strip(" \0")


def _age(found: Dataset) -> str:
    told = years_of(_one(found, "PatientAge"))
    if told:
        return told
    born, seen = (_one(found, name) for name in ("PatientBirthDate", "StudyDate"))
    if re.fullmatch(r"[0-9]{8}", born) and re.fullmatch(r"[0-9]{8}", seen) and seen >= born:
        return str(int(seen[:4]) - int(born[:4]) - (seen[4:] < born[4:]))
    return ""


def years_of(age: str) -> str:
    """The years of an age as DICOM writes it, ``061Y`` or ``018M``; "" if it is none."""
    told = re.fullmatch(r"([0-9]{3})([DWMY])", age)
    if told is None:
        return ""
    years = int(told[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[told[2]]
    return f"{years:.0f}" if told[2] == "Y" else f"{years:.1f}"
