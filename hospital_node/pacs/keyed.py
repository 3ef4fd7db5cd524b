"""Names for series, instances and examinations: keyed hashes whose key never leaves the hospital.

Patients get the pseudonym and the split that a folder of files would give them (:mod:`medveil.keyed`), under
the same key.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from medveil.identity import Secret
from medveil.ids import join
from medveil.keyed import keyed_pseudonym, keyed_split
from medveil.pseudonyms import BadPseudonym, one_spelling

LENGTH = 26
"""Hexadecimal digits of a name: 104 bits, so that two of a billion are equal with a chance of 10^-13."""


class KeyedNames:
    """The names that one hospital's key gives."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def patient(self, number: str) -> str:
        """The pseudonym of who has this PatientID. Raises: BadPseudonym: the number names nobody."""
        return keyed_pseudonym(self._secret, number)

    def split(self, pseudonym: str) -> str:
        """The split of a patient for whom the hospital names none."""
        return keyed_split(self._secret, pseudonym)

    def series(self, uid: str) -> str:
        """The name of a series."""
        return self._name("series", uid)

    def instance(self, uid: str) -> str:
        """The name of an instance."""
        return self._name("instance", uid)

    def accession(self, number: str) -> str:
        """The name of an accession number."""
        return self._name("accession", number.strip().casefold())

    def key_of(self, use: str) -> Secret:
        """A key for another use of its own."""
        return Secret(self._digest("key", use))

    def _name(self, kind: str, text: str) -> str:
        return self._digest(kind, text).hex()[:LENGTH]

    def _digest(self, kind: str, text: str) -> bytes:
        told = join(b"medveil pacs 1", kind.encode(), text.encode("utf-8", "surrogatepass"))
        return hmac.digest(self._secret.reveal(), told, sha256)


def spelled(number: str) -> str | None:
    """A PatientID in the spelling that counts; None if it names nobody."""
    try:
        return one_spelling(number)
    except BadPseudonym:
        return None
