"""Bytes that are small and become large, slow or endless in a parser that takes them as they come."""

from __future__ import annotations

import cbor2

from medveil.ids import canonical
from medveil.outside import DEPTH, DIGITS, ITEMS, JSON_DEPTH


def head(major: int, value: int) -> bytes:
    """The shortest head."""
    return (
        canonical(value)[:1].translate(bytes((b & 31) | (major << 5) for b in range(256)))
        + canonical(value)[1:]
    )


def shared_doubling(levels: int) -> bytes:
    """Lists that hold the one before twice, by the tags 28 and 29: 31 of them are 2^31 leaves."""
    data = b"\xd8\x1c\x80"
    for level in range(levels):
        data = b"\xd8\x1c\x82" + data + b"\xd8\x1d" + head(0, levels - level)
    return data


def nested(levels: int, opening: bytes = b"\x81") -> bytes:
    return opening * levels + b"\x00"


COLLIDING = b"".join(b"\xc2\x49" + (n * (2**61 - 1)).to_bytes(9, "big") + b"\x00" for n in range(1, 200))
BOMBS = {
    "shared references": shared_doubling(31),
    "shared references in a map": b"\xa1\x61a" + shared_doubling(5),
    "a big number": cbor2.dumps(2**64),
    "a negative big number": cbor2.dumps(-(2**70)),
    "string references": b"\xd9\x01\x00\x82\x61a\xd8\x19\x00",
    "a date": b"\xc1\x1a\x00\x00\x00\x01",
    "a decimal fraction of a huge exponent": b"\xc4\x82\x1a\x3b\x9a\xca\x00\x01",
    "a bigfloat": b"\xc5\x82\x1a\x3b\x9a\xca\x00\x01",
    "a regular expression": b"\xd8\x23\x66(a+)+$",
    "a set": b"\xd9\x01\x02\x81\x01",
    "self-described CBOR": b"\xd9\xd9\xf7\x00",
    "a tag in its longest spelling": b"\xdb" + bytes(7) + b"\x02\x41\x01",
    "keys that collide": head(5, 199) + COLLIDING,
    "keys that are large numbers": head(5, 1) + head(0, 2**61 - 1) + b"\x00",
    "keys that are negative": b"\xa1\x20\x00",
    "keys that are bytes": b"\xa1\x41a\x00",
    "keys that are lists": b"\xa1\x80\x00",
    "keys that are null": b"\xa1\xf6\x00",
    "keys that are floats": b"\xa1\xf9\x00\x00\x00",
    "a key twice": b"\xa2\x61a\x00\x61a\x01",
    "a key twice, in two spellings": b"\xa2\x00\x00\x18\x00\x01",
    "a list without end": b"\x9f\x00\xff",
    "a map without end": b"\xbf\x61a\x00\xff",
    "text without end": b"\x7f\x61a\xff",
    "bytes without end": b"\x5f\x41a\xff",
    "a break by itself": b"\xff",
    "nesting": nested(DEPTH + 1),
    "nesting of maps": nested(DEPTH + 1, b"\xa1\x00"),
    "deep nesting": nested(1_000_000),
    "many items": head(4, ITEMS) + bytes(ITEMS),
    "many empty maps": head(4, 4_000_000) + b"\xa0" * 4_000_000,
    "many items on two levels": head(4, 3) + (head(4, 40_000) + bytes(40_000)) * 3,
    "a length of 2^60": head(4, 2**60),
    "a map of 2^63 pairs": head(5, 2**63),
    "text of 2^60 bytes": head(3, 2**60) + b"x",
    "bytes of 2^64 - 1": head(2, 2**64 - 1) + b"x",
    "undefined": b"\xf7",
    "a simple value": b"\xe0",
    "a long simple value": b"\xf8\xff",
    "reserved heads": b"\x1c",
    "a number that could be shorter": b"\x18\x17",
    "a number that could be much shorter": b"\x1b" + bytes(7) + b"\x01",
    "a length that could be shorter": b"\x58\x01x",
    "trailing bytes": b"\x00\x00",
    "a second item": b"\x80\x80",
    "nothing": b"",
    "half a head": b"\x19\x01",
    "half a text": b"\x62a",
    "half a list": b"\x82\x00",
    "text that is no UTF-8": b"\x61\xff",
    "half a surrogate": b"\x63\xed\xa0\x80",
}


JSON_BOMBS = {
    "nesting": "[" * (JSON_DEPTH + 1) + "]" * (JSON_DEPTH + 1),
    "deep nesting": "[" * 500_000,
    "a number of many digits": "1" * (DIGITS + 1),
    "a number of five thousand digits": "[" + "9" * 5_000 + "]",
    "a key twice": '{"a":1,"a":2}',
    "a key twice, in two spellings": '{"a":1,"\\u0061":2}',
    "NaN": "NaN",
    "infinity": "[-Infinity]",
    "many items": "[" + "0," * ITEMS + "0]",
    "many empty maps": "[" + "{}," * ITEMS + "{}]",
    "quotation marks": '"' * 400_000,
    "half strings": '"\\' * 200_000,
    "half a string": '"abc',
    "no JSON": "{",
    "two documents": "{}{}",
}
