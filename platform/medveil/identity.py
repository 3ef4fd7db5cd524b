"""Who sent this: Ed25519 identities and the signature on every request."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from medveil.errors import Error, RemoteProtocolError, utc
from medveil.files import new_private
from medveil.ids import NAME, join

Body = bytes | memoryview
"""What a request holds. A view's bytes are its owner's, who may change them once the request is over."""
FRESHNESS_S = 300
"""How far the two clocks may differ. Nonces inside this window are remembered, so nothing is replayed."""


class Secret:
    """Bytes that must never be printed; ``repr`` tells the length only."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"Secret({len(self._value)} bytes)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and secrets.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(len(self._value))

    def reveal(self) -> bytes:
        """The bytes themselves, at the one place that needs them."""
        return self._value


class BadSignature(RemoteProtocolError):
    """A signature does not belong to the key and the bytes it came with."""

    code = "bad-signature"

    def __init__(self, *, what: str = "A signature does not match the message it came with.") -> None:
        super().__init__(
            what=what,
            meaning="The message was changed on its way or sent by somebody else; it was not used.",
            remedy="Check that the sender's key is the enrolled one and that no proxy rewrites requests.",
        )


class StaleRequest(RemoteProtocolError):
    """A request's time lies outside the freshness window."""

    code = "stale-request"

    def __init__(self, *, theirs: int, ours: int) -> None:
        super().__init__(
            what=f"The sender's clock is {theirs - ours:+,d} s off the aggregator's, which says {utc(ours)}.",
            meaning=f"Clocks may differ by {FRESHNESS_S} s, so that old requests cannot be repeated.",
            remedy="Set both machines' clocks by NTP.",
        )


class KeyFileExists(Error):
    """An identity is made once; a second one would be another hospital."""

    code = "key-exists"

    def __init__(self, *, path: Path) -> None:
        super().__init__(
            what=f"There is already a key in '{path}'.",
            meaning="Whoever knows its owner by this key would take another one for a stranger. It was kept.",
            remedy="To change settings, edit the .json file beside it; another identity wants a new folder.",
        )


class Identity:
    """A long-lived Ed25519 key pair of one legal entity and the name it goes by."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self.name = name
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"Identity({self.name})"

    @classmethod
    def generate(cls, name: str) -> Identity:
        """A new identity; the key comes from the operating system's generator."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, name: str, path: Path) -> Identity:
        """Read a raw 32-byte private key written by :meth:`save`."""
        return cls(name, Ed25519PrivateKey.from_private_bytes(path.read_bytes()))

    def save(self, path: Path) -> None:
        """Write the private key, readable by its owner only and never over another one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = new_private(path)
        except FileExistsError as exists:
            raise KeyFileExists(path=path) from exists
        with os.fdopen(handle, "wb") as file:
            file.write(self._key.private_bytes_raw())
            file.flush()
            os.fsync(file.fileno())

    def sign(self, label: str, *parts: bytes) -> bytes:
        """Ed25519 over a label and length-prefixed parts; 64 bytes."""
        return self._key.sign(_signed_bytes(label, parts))

    def secret_for(self, label: str) -> Secret:
        """32 bytes that only this identity can derive, for one use of its own: files that it alone reads."""
        info = _signed_bytes(label, ())
        return Secret(HKDF(hashes.SHA256(), 32, None, info).derive(self._key.private_bytes_raw()))


def verify(public_key: bytes, signature: bytes, label: str, *parts: bytes) -> None:
    """Check a signature made by :meth:`Identity.sign`.

    Raises:
        BadSignature: the key, the label, a part or the signature differs.
    """
    signed = _signed_bytes(label, parts)
    mark = b"" if _VERIFIED is None else hashlib.sha256(join(public_key, signature, signed)).digest()
    if _VERIFIED is not None and mark in _VERIFIED:
        return
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature() from error
    if _VERIFIED is not None:
        if len(_VERIFIED) >= MOST_VERIFIED:
            _VERIFIED.clear()
        _VERIFIED.add(mark)


MOST_VERIFIED = 100_000
_VERIFIED: set[bytes] | None = None


def remember_verified() -> None:
    """From now on this process looks at no good signature twice.

    For a process that plays many parties at once, each of which checks the same signatures. Whether a
    signature is good follows from key, message and signature alone, and exactly these are remembered, by
    their SHA-256.
    """
    global _VERIFIED
    _VERIFIED = set() if _VERIFIED is None else _VERIFIED


def _signed_bytes(label: str, parts: tuple[bytes, ...]) -> bytes:
    return join(b"medveil-v1", label.encode(), *parts)


_NONCE = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class RequestProof:
    """The five headers that say who sent a request, when, and that it was not changed.

    Each value has one spelling. A name is one of :data:`medveil.ids.NAME`, a nonce 32 hexadecimal digits.
    The body's SHA-256 is one of them, so that a receiver knows who is asking before it reads the body.
    """

    sender: str
    time: int
    nonce: str
    digest: bytes
    signature: bytes

    def headers(self) -> dict[str, str]:
        """As HTTP headers."""
        return {
            "MedVeil-Sender": self.sender,
            "MedVeil-Time": str(self.time),
            "MedVeil-Nonce": self.nonce,
            "MedVeil-Digest": self.digest.hex(),
            "MedVeil-Signature": base64.b64encode(self.signature).decode(),
        }

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> RequestProof:
        """Read them back.

        Raises:
            BadSignature: one is missing or malformed; an absent check is a failed check.
        """
        try:
            proof = cls(
                sender=headers["medveil-sender"],
                time=int(headers["medveil-time"]),
                nonce=headers["medveil-nonce"],
                digest=bytes.fromhex(headers["medveil-digest"]),
                signature=base64.b64decode(headers["medveil-signature"], validate=True),
            )
            same = all(headers[name.lower()] == text for name, text in proof.headers().items())
        except (KeyError, ValueError) as error:
            raise BadSignature(what="The request carries no complete signature.") from error
        sound = (len(proof.digest), len(proof.signature)) == (32, 64)
        if not (same and sound and _NONCE.fullmatch(proof.nonce) and NAME.fullmatch(proof.sender)):
            raise BadSignature(what="The request carries no complete signature.")
        return proof

    def check_body(self, body: bytes) -> None:
        """Whether this is the body that was signed. Raises: BadSignature."""
        if hashlib.sha256(body).digest() != self.digest:
            raise BadSignature()


def sign_request(
    identity: Identity,
    method: str,
    target: str,
    body: Body,
    *,
    now: float | None = None,
    digest: bytes | None = None,
) -> RequestProof:
    """Sign a request: method, path with query, SHA-256 of the body, time and a fresh nonce.

    Args:
        now: Unix seconds; this machine's clock if left out.
        digest: the body's SHA-256 if it is known already.
    """
    now, nonce = int(time.time() if now is None else now), secrets.token_hex(16)
    digest = digest or hashlib.sha256(body).digest()
    signature = identity.sign("request", *_request_parts(identity.name, method, target, digest, now, nonce))
    return RequestProof(identity.name, now, nonce, digest, signature)


def verify_head(public_key: bytes, proof: RequestProof, method: str, target: str, *, now: float) -> None:
    """Check a request against the sender's enrolled key and our clock, before its body is read.

    The caller must also refuse a nonce it has seen within ``2 * FRESHNESS_S`` seconds, and call
    :meth:`RequestProof.check_body` before it uses the body.

    Raises:
        BadSignature, StaleRequest.
    """
    parts = _request_parts(proof.sender, method, target, proof.digest, proof.time, proof.nonce)
    verify(public_key, proof.signature, "request", *parts)
    if abs(proof.time - now) > FRESHNESS_S:
        raise StaleRequest(theirs=proof.time, ours=int(now))


def verify_request(
    public_key: bytes, proof: RequestProof, method: str, target: str, body: bytes, *, now: float
) -> None:
    """Check a whole request: :func:`verify_head` and the body. Raises: BadSignature, StaleRequest."""
    verify_head(public_key, proof, method, target, now=now)
    proof.check_body(body)


def _request_parts(
    sender: str, method: str, target: str, digest: bytes, now: int, nonce: str
) -> tuple[bytes, ...]:
    return (sender.encode(), method.encode(), target.encode(), digest, str(now).encode(), nonce.encode())
