"""What a hospital's own key makes of a patient: a pseudonym, and the split in which the patient stays.

Both are the same on each day and for each way by which a patient's images come in (a folder, a PACS), as long
as the key is the same; who has no key learns nothing from a pseudonym and cannot try numbers against it. The
key never leaves the hospital. Decision 49 says why these rules.
"""

from __future__ import annotations

import base64
import hmac

from medveil.identity import Secret
from medveil.ids import join
from medveil.pseudonyms import one_spelling

TRAIN, VAL = 0.7, 0.8
"""A patient's number from 0 to 1: below the first ``train``, below the second ``val``, else ``test``."""
PSEUDONYM_BYTES = 10
"""80 bits: among a million patients two have the same with a chance of 4e-13."""


def keyed_pseudonym(key: Secret, patient_id: str) -> str:
    """The pseudonym of a patient whom a DICOM header names: ``P-`` and 16 letters and digits.

    HMAC-SHA256 over the spelling of PatientID that counts. IssuerOfPatientID stays out: devices of one
    hospital write it or leave it away, and one person must not become two; two persons who become one are
    protected all the same.
    Raises: BadPseudonym if it names nobody.
    """
    text = join(b"medveil pseudonym 1", one_spelling(patient_id).encode("utf-8", "surrogatepass"))
    digest = hmac.digest(key.reveal(), text, "sha256")[:PSEUDONYM_BYTES]
    return f"P-{base64.b32encode(digest).decode()}"


def keyed_split(key: Secret, patient: str) -> str:
    """``train`` for about 70 % of patients, ``val`` for 10 %, ``test`` for 20 %: for life.

    HMAC-SHA256 over the spelling of the pseudonym that counts; its first 64 bits, as a number from 0 to 1.
    Raises: BadPseudonym.
    """
    text = join(b"medveil split 1", one_spelling(patient).encode("utf-8", "surrogatepass"))
    place = int.from_bytes(hmac.digest(key.reveal(), text, "sha256")[:8], "big") / 2**64
    return "train" if place < TRAIN else "val" if place < VAL else "test"
