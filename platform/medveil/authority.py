"""A certificate authority's file (PEM), as an admin hands it out and others pin it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medveil.errors import BadFile
from medveil.handed import read_whole
from medveil.shown import plain

if TYPE_CHECKING:
    from cryptography import x509

MOST_BYTES = 2**20


def certificates_in(pem: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM file. Raises: ValueError if there is none."""
    from cryptography import x509  # a command that pins nothing starts without it

    return x509.load_pem_x509_certificates(pem)


def read_authority(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a PEM file with a certificate. Raises: BadFile."""
    pem = read_whole(path, most)
    try:
        certificates_in(pem)
    except ValueError as error:
        raise BadFile(name=plain(path.name), problem="it holds no certificate (PEM)") from error
    return pem


def fingerprints_in(pem: bytes) -> list[str]:
    """What people compare of each certificate of a PEM file. Raises: ValueError if there is none."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from medveil.ids import fingerprint

    return [fingerprint(one.public_bytes(Encoding.DER)) for one in certificates_in(pem)]
