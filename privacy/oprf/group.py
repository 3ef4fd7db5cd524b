"""The group of prime order of P-256, as RFC 9497 wants it: points, scalars, and hashing to both (RFC 9380).

A point is multiplied by OpenSSL, whose time does not depend on the scalar: two key agreements give the
x-coordinates of k P and (k + 1) P, and from these the y-coordinate of k P follows. So no secret scalar ever
meets Python's integers, whose time does depend on their values. Hashing to the group is done with Python's
integers, in the hospital's own process, where nobody but the hospital can time it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from privacy.oprf.errors import BadElement

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
"""The field."""
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Elements of the group; prime."""
A = P - 3
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
Z = P - 10
"""Of the map to the curve: a non-square (RFC 9380, 8.2)."""
ELEMENT_BYTES, SCALAR_BYTES = 33, 32
_CURVE = ec.SECP256R1()
_WIDE = 48
"""Bytes that are reduced to one number: 128 bits more than it has."""
_BLOCK = 64


@dataclass(frozen=True)
class Element:
    """A point of the curve, never the one at infinity."""

    x: int = field(repr=False)
    y: int = field(repr=False)

    def to_bytes(self) -> bytes:
        """Compressed (SEC 1), 33 bytes."""
        return bytes([2 + self.y % 2]) + self.x.to_bytes(SCALAR_BYTES, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> Element:
        """The point of this one spelling. Raises: BadElement."""
        if len(data) != ELEMENT_BYTES or data[0] not in (2, 3):
            raise BadElement()
        try:
            numbers = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, data).public_numbers()
        except ValueError as error:  # no such x on the curve, or one that is not below P
            raise BadElement() from error
        return cls(numbers.x, numbers.y)


def multiple(scalar: int, point: Element) -> Element:
    """``scalar`` times a point; 0 < scalar < ORDER.

    The y-coordinate follows from the difference of (k + 1) P and k P being P (Brier and Joye, PKC 2002).
    """
    if scalar == ORDER - 1:
        return Element(point.x, P - point.y)  # (k + 1) P is the point at infinity
    public = ec.EllipticCurvePublicNumbers(point.x, point.y, _CURVE).public_key()
    x1, x2 = (
        int.from_bytes(ec.derive_private_key(k, _CURVE).exchange(ec.ECDH(), public), "big")
        for k in (scalar, scalar + 1)
    )
    x, y = point.x, point.y
    top = 2 * B + (A + x * x1) * (x + x1) - x2 * (x - x1) ** 2
    return Element(x1, top * pow(2 * y, -1, P) % P)


def multiple_of_base(scalar: int) -> Element:
    """``scalar`` times the generator: a public key; 0 < scalar < ORDER."""
    numbers = ec.derive_private_key(scalar, _CURVE).public_key().public_numbers()
    return Element(numbers.x, numbers.y)


def add(one: Element, other: Element) -> Element:
    """The sum of two points. Raises: BadElement if it is the point at infinity."""
    if one.x == other.x:
        if one.y != other.y:
            raise BadElement()
        slope = (3 * one.x * one.x + A) * pow(2 * one.y, -1, P)
    else:
        slope = (other.y - one.y) * pow(other.x - one.x, -1, P)
    x = (slope * slope - one.x - other.x) % P
    return Element(x, (slope * (one.x - x) - one.y) % P)


def hash_to_element(message: bytes, dst: bytes) -> Element:
    """``hash_to_curve`` of the suite P256_XMD:SHA-256_SSWU_RO_. Raises: BadElement (chance 2^-256)."""
    first, second = _numbers(message, dst, 2, P)
    return add(_to_curve(first), _to_curve(second))


def hash_to_scalar(message: bytes, dst: bytes) -> int:
    """A number below ORDER."""
    return _numbers(message, dst, 1, ORDER)[0]


def _numbers(message: bytes, dst: bytes, count: int, modulus: int) -> list[int]:
    """``hash_to_field``."""
    wide = expand(message, dst, count * _WIDE)
    return [int.from_bytes(wide[i : i + _WIDE], "big") % modulus for i in range(0, len(wide), _WIDE)]


def expand(message: bytes, dst: bytes, size: int) -> bytes:
    """``expand_message_xmd`` with SHA-256; ``dst`` of at most 255 bytes, ``size`` at most 8,160."""
    tail = dst + bytes([len(dst)])
    whole = hashlib.sha256(bytes(_BLOCK) + message + size.to_bytes(2, "big") + b"\0" + tail).digest()
    block = hashlib.sha256(whole + b"\1" + tail).digest()
    blocks = [block]
    for number in range(2, -(-size // 32) + 1):
        mixed = bytes(a ^ b for a, b in zip(whole, block, strict=True))
        block = hashlib.sha256(mixed + bytes([number]) + tail).digest()
        blocks.append(block)
    return b"".join(blocks)[:size]


def _to_curve(u: int) -> Element:
    """The simplified map of Shallue, van de Woestijne and Ulas (RFC 9380, 6.6.2); P is 3 mod 4."""
    square = Z * u * u % P
    bottom = (square * square + square) % P
    x = (-B * pow(A, -1, P) if bottom else B * pow(Z * A, -1, P)) % P
    if bottom:
        x = x * (1 + pow(bottom, -1, P)) % P
    y = pow(_right(x), (P + 1) // 4, P)
    if y * y % P != _right(x):
        x = square * x % P
        y = pow(_right(x), (P + 1) // 4, P)
    return Element(x, y if y % 2 == u % 2 else P - y)


def _right(x: int) -> int:
    return (x * x * x + A * x + B) % P
