"""Names, hashes and canonical bytes: how two machines agree that they mean the same thing."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import cbor2

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
"""Names of hospitals, people and studies: lower case letters, digits and inner hyphens, at most 48."""


def canonical(value: Any) -> bytes:
    """Deterministic CBOR (RFC 8949, 4.2): equal values give equal bytes on every machine."""
    return cbor2.dumps(value, canonical=True)


def join(*parts: bytes) -> bytes:
    """Length-prefixed concatenation, so that no two different lists give the same bytes."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def digest(label: str, *parts: bytes) -> bytes:
    """SHA-256 over a label and length-prefixed parts; a label is used for one purpose only."""
    return digester(label, *parts).digest()


def digester(label: str, *parts: bytes) -> hashlib._Hash:
    """:func:`digest` before its last step: a part that comes in pieces may follow, its length first."""
    return hashlib.sha256(join(b"medveil-v1", label.encode(), *parts))


def fingerprint(value: bytes) -> str:
    """A key's fingerprint: 128 bits as 32 hexadecimal digits in groups of four, to be read aloud."""
    return _grouped(hashlib.sha256(value).hexdigest()[:32])


def is_fingerprint(text: str, value: bytes) -> bool:
    """Whether a text that was kept is the fingerprint of a key; those of version 0.1 have 16 digits."""
    return text in (fingerprint(value), _grouped(hashlib.sha256(value).hexdigest()[:16]))


def _grouped(digits: str) -> str:
    return "-".join(digits[i : i + 4].upper() for i in range(0, len(digits), 4))
