"""Claims on persons, sealed to one keeper: who passes them on sees their number of bytes, always the same.

A claim is a tag, which stands for a person at this keeper, and a mark, which stands for whoever claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from medveil.errors import RemoteProtocolError
from medveil.ids import join
from privacy.oprf.messages import BATCH, Sealed

NONCE_BYTES, HALF = 12, 32
Claim = tuple[bytes, bytes]
"""Tag and mark, 32 bytes each."""


class BadBox(RemoteProtocolError):
    """A sealed message that cannot be opened, or holds something else."""

    code = "bad-box"

    def __init__(self) -> None:
        super().__init__(
            what="A sealed message between a hospital and a keeper cannot be opened.",
            meaning="It was altered, or sealed to another key. It was not used; nobody was claimed.",
            remedy="Check that hospital and keeper have the same persons file.",
        )


@dataclass(frozen=True)
class Opener:
    """What opens the keeper's answer to one sealed message, and only that."""

    key: bytes = field(repr=False)

    def open(self, data: bytes, count: int) -> list[bool]:
        """For each claim whether the person is whose who claims. Raises: BadBox."""
        plain = _opened(self.key, data)
        if len(plain) != BATCH or set(plain) - {0, 1} or any(plain[count:]):
            raise BadBox()
        return [bool(byte) for byte in plain[:count]]


def seal_claims(
    claims: Sequence[Claim], *, persons: bytes, keeper: bytes, private: bytes, nonce: bytes
) -> tuple[Sealed, Opener]:
    """Args: keeper: its sealing key. private: 32 fresh random bytes. nonce: 12 of them."""
    own = X25519PrivateKey.from_private_bytes(private)
    ephemeral = own.public_key().public_bytes_raw()
    there, back = _keys(own.exchange(X25519PublicKey.from_public_bytes(keeper)), persons, keeper, ephemeral)
    text = len(claims).to_bytes(2, "big") + b"".join(tag + mark for tag, mark in claims)
    text += bytes(2 + 2 * HALF * BATCH - len(text))
    box = nonce + ChaCha20Poly1305(there).encrypt(nonce, text, None)
    return Sealed(persons=persons, ephemeral=ephemeral, box=box), Opener(back)


@dataclass(frozen=True)
class Opened:
    """Claims as the keeper reads them, and what seals its answer."""

    claims: tuple[Claim, ...] = field(repr=False)
    key: bytes = field(repr=False)

    def answer(self, given: Sequence[bool], nonce: bytes) -> bytes:
        """The answer, sealed. Args: nonce: 12 fresh random bytes."""
        text = bytes(given).ljust(BATCH, b"\0")
        return nonce + ChaCha20Poly1305(self.key).encrypt(nonce, text, None)


def open_claims(message: Sealed, private: bytes) -> Opened:
    """Raises: BadBox."""
    own = X25519PrivateKey.from_private_bytes(private)
    keeper = own.public_key().public_bytes_raw()
    try:
        common = own.exchange(X25519PublicKey.from_public_bytes(message.ephemeral))
    except ValueError as error:  # a point of small order
        raise BadBox() from error
    there, back = _keys(common, message.persons, keeper, message.ephemeral)
    text = _opened(there, message.box)
    if len(text) != 2 + 2 * HALF * BATCH:
        raise BadBox()
    count = int.from_bytes(text[:2], "big")
    used = 2 + 2 * HALF * count
    if not 0 < count <= BATCH or any(text[used:]):
        raise BadBox()
    pieces = [text[i : i + HALF] for i in range(2, used, HALF)]
    return Opened(tuple(zip(pieces[::2], pieces[1::2], strict=True)), back)


def _keys(common: bytes, persons: bytes, keeper: bytes, ephemeral: bytes) -> tuple[bytes, bytes]:
    info = join(b"medveil-v1", b"keeper-claims", persons, keeper, ephemeral)
    both = HKDF(hashes.SHA256(), 2 * HALF, None, info).derive(common)
    return both[:HALF], both[HALF:]


def _opened(key: bytes, data: bytes) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], None)
    except (InvalidTag, ValueError) as error:
        raise BadBox() from error
