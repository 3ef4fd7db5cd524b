"""Whether two DICOM files name the same patient, without showing whom."""

from __future__ import annotations

import hashlib
import re

from pydicom.dataset import Dataset

PLACEHOLDER = re.compile(
    r"[0X ]*|ANON(YM[A-Z]*)?|(DE ?)?IDENTIFIED|DEIDENT[A-Z]*|PSEUDONYM[A-Z]*|UNKNOWN|UNNAMED|NONE|NULL|NIL"
    r"|N ?A|NO ?(ID|NAME)|NOT [A-Z]+|REMOVED|DELETED|BLANK[A-Z]*|HIDDEN|MASKED|REDACTED|WITHHELD"
    r"|PAT(IENT)?( ?ID)?|ID|MADE UP|DUMMY|EXAMPLE|TEST( ?PATIENT)?|PHANTOM|(JOHN |JANE )?DOE"
)
"""What de-identification writes for everybody: equal values of this kind say nothing about who is who."""


def patient_mark(header: Dataset) -> bytes | None:
    """A value that is equal for files whose PatientID and IssuerOfPatientID are equal.

    It is a plain digest, so that processes agree on it; who holds it can try identifiers against it. It is
    for comparing in memory while a folder is checked: never store, log or send it.

    Returns: 32 bytes; None where the header names nobody (empty, or a placeholder such as ``ANONYMOUS``).
    """
    written = _plain(header, "PatientID")
    if names_nobody(written):
        return None
    issuer = _plain(header, "IssuerOfPatientID")
    return hashlib.sha256(f"{len(issuer)}:{issuer}{written}".encode()).digest()


def names_nobody(patient_id: str) -> bool:
    """Whether a PatientID is empty, or what de-identification writes for everybody."""
    return PLACEHOLDER.fullmatch(re.sub(r"[\W_]+", " ", patient_id).strip().upper()) is not None


def _plain(header: Dataset, name: str) -> str:
    return str(header.get(name) or "").strip(" \0")
