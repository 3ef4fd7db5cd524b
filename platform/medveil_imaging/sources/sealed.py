"""Image files that only one node can read: sealed on its disk, opened in memory by whoever was given the key.

What a node has fetched lies on its disk in this form. The same content under the same key is the same file,
so that a series that is fetched again is not another image.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from medveil.identity import Secret
from medveil_imaging.sources.raw import Unusable, read_bytes

MAGIC = b"MedVeil sealed image 1\n"
_NONCE = 12
_KEY: list[bytes] = []
"""The key of this process, if it was given one."""


def open_with(key: Secret | None) -> None:
    """From now on this process, and the readers that it asks, open files that were sealed under this key."""
    _KEY[:] = [] if key is None else [key.reveal()]


def key_in_use() -> str:
    """The key in hexadecimal digits, for a reader's process; empty without one."""
    return _KEY[0].hex() if _KEY else ""


def seal(content: bytes, key: Secret) -> bytes:
    """A file's bytes for the disk: AES-256-GCM.

    Guarantees: whoever lacks the key learns the length, and whether two files are equal. The nonce is a keyed
        hash of the content, so one nonce meets two contents only if HMAC-SHA-256 cut to 96 bits collides.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = hmac.digest(_part(key.reveal(), b"nonce"), content, "sha256")[:_NONCE]
    return MAGIC + nonce + AESGCM(_part(key.reveal(), b"cipher")).encrypt(nonce, content, MAGIC)


def opened(data: bytes) -> bytes:
    """What a file holds; one that is not sealed is as it is.

    Raises: Unusable: it was sealed under another key, or is damaged.
    """
    if not data.startswith(MAGIC):
        return data
    if not _KEY:
        raise Unusable(
            "sealed-image", "The file is sealed by a node; only that node can read it.", "Use that node."
        )
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    start = len(MAGIC)
    try:
        cipher = AESGCM(_part(_KEY[0], b"cipher"))
        return cipher.decrypt(data[start : start + _NONCE], data[start + _NONCE :], MAGIC)
    except (InvalidTag, ValueError) as error:
        raise Unusable(
            "sealed-damaged",
            "The sealed file is damaged, or was sealed by another node.",
            "Fetch it again: medveil node pacs fetch.",
        ) from error


def _part(key: bytes, use: bytes) -> bytes:
    return hmac.digest(key, use, "sha256")


def image_bytes(path: Path) -> bytes:
    """A file's bytes, unpacked and unsealed. Raises: Unusable."""
    return opened(read_bytes(path))
