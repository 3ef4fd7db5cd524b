"""Names and numbers that stand for others: keyed, so that nobody without the key can go back or try."""

from __future__ import annotations

import base64
import hmac
import re

LEAST_KEY = 32
WELL_KNOWN = re.compile(r"1\.2\.840\.10008(\.\d{1,5}){1,8}")
"""UIDs below this root are the standard's own (classes of objects, ways of storing): they name nobody. It
gives numbers of up to five digits; longer ones are somebody else's."""
PREFIX = "MV-"
DAYS = 3652
"""Dates go back by one day to ten years."""


class Pseudonyms:
    """What stands for patients, UIDs and dates. The same key gives the same answers, in every process.

    Who has the key can try names and numbers against a pseudonym, so it never leaves the hospital. Without
    it a pseudonym cannot be told from a random one (HMAC-SHA256 as a pseudo-random function).

    Args:
        key: 32 random bytes or more, kept by the hospital alone.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < LEAST_KEY:
            raise ValueError(f"A key of pseudonyms has {LEAST_KEY} bytes at least.")
        self._key = key

    def __repr__(self) -> str:
        return "Pseudonyms(key not shown)"

    def patient(self, number: str, issuer: str = "") -> str:
        """19 capitals and digits for a patient's number (and who issued it): 80 bits, so no two meet."""
        short = self._hash("patient", issuer.strip(" \0"), number.strip(" \0"))[:10]
        return PREFIX + base64.b32encode(short).decode()

    def uid(self, uid: str) -> str:
        """A UID for another; the standard's own and empty ones stay as they are.

        Returns: ``2.25.`` and a UUID of version 8 (RFC 9562) as a number, as PS3.5 B.2 wants it.
        """
        old = uid.strip(" \0")
        if not old or WELL_KNOWN.fullmatch(old):
            return old
        number = int.from_bytes(self._hash("uid", old)[:16])
        number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
        return f"2.25.{number}"

    def days_back(self, person: str) -> int:
        """By how many days all dates of a person go back, 1 to 3,652: distances between them stay."""
        return 1 + int.from_bytes(self._hash("days", person)[:8]) % DAYS

    def _hash(self, use: str, *parts: str) -> bytes:
        told = b"".join(len(part.encode()).to_bytes(4) + part.encode() for part in (use, *parts))
        return hmac.digest(self._key, told, "sha256")
