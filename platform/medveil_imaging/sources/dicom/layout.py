"""Where each element of a plainly stored file begins and ends: a look along it that builds nothing.

Only files of Explicit VR Little Endian with a preamble are looked at, which most archives send; of any other
the answer is None, and whoever asks takes the longer way through pydicom.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache

EXPLICIT_LITTLE = b"1.2.840.10008.1.2.1"
LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
HEAD, MARK, LENGTH = struct.Struct("<HH2sH"), struct.Struct("<HHI"), struct.Struct("<I")
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
MOST_DEEP = 32
SYNTAX = 0x00020010


@dataclass(frozen=True)
class Elements:
    """The elements of one file, the group of the file itself apart."""

    meta: dict[int, bytes] = field(repr=False)
    """Tag → the whole element, as it stands in the file."""
    rest: dict[int, bytes] = field(repr=False)
    """The data set in ascending order; sequences whole."""


@lru_cache(maxsize=1)  # whoever looks at a file first, the next one asks of the same
def elements_of(data: bytes) -> Elements | None:
    """Every element of the outermost level; None: it is stored otherwise, or not as the standard wants it.

    Guarantees: the elements of the data set, one after the other, are the file from its data set to its end.
    """
    if data[128:132] != b"DICM":
        return None
    meta: dict[int, bytes] = {}
    rest: dict[int, bytes] = {}
    place, end, before = 132, len(data), -1
    try:
        while place < end:
            tag, ends = _one(data, place, end)
            if tag <= before:
                return None
            before = tag
            (meta if tag >> 16 == 2 else rest)[tag] = data[place:ends]
            place = ends
    except ValueError:
        return None
    if value_of(meta.get(SYNTAX, b"")) != EXPLICIT_LITTLE or not rest or min(rest) >> 16 < 8:
        return None
    return Elements(meta, rest)


def kind_of(element: bytes) -> bytes:
    """Its value representation: two letters."""
    return element[4:6]


def value_of(element: bytes) -> bytes:
    """Its value, without padding at the end."""
    return payload_of(element).rstrip(b" \0")


def payload_of(element: bytes) -> bytes:
    """Its value as it is stored."""
    return element[12 if element[4:6] in LONG else 8 :]


def built(tag: int, kind: bytes, value: bytes) -> bytes:
    """An element of a kind whose length has two bytes; the value is padded with a zero (UIDs)."""
    value += b"\0" * (len(value) % 2)
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    return head + kind + len(value).to_bytes(2, "little") + value


def _one(data: bytes, place: int, end: int, depth: int = 0) -> tuple[int, int]:
    """The tag of an element and where it ends. Raises: ValueError."""
    if place + 8 > end or depth > MOST_DEEP:
        raise ValueError
    group, number, kind, length = HEAD.unpack_from(data, place)
    tag, place = group << 16 | number, place + 8
    if kind in LONG:
        if place + 4 > end:
            raise ValueError
        (length,) = LENGTH.unpack_from(data, place)
        place += 4
    elif not (kind.isalpha() and kind.isupper()):
        raise ValueError
    if length == UNDEFINED:
        if kind != b"SQ":
            raise ValueError
        return tag, _behind_items(data, place, end, depth)
    if place + length > end:
        raise ValueError
    return tag, place + length


def _behind_items(data: bytes, place: int, end: int, depth: int) -> int:
    """Where a sequence ends that does not say how long it is. Raises: ValueError."""
    while True:
        tag, length, place = _mark(data, place, end)
        if tag == SEQUENCE_END:
            return place
        if tag != ITEM:
            raise ValueError
        if length != UNDEFINED:
            place += length
            continue
        while _mark(data, place, end)[0] != ITEM_END:
            place = _one(data, place, end, depth + 1)[1]
        place += 8


def _mark(data: bytes, place: int, end: int) -> tuple[int, int, int]:
    if place + 8 > end:
        raise ValueError
    group, number, length = MARK.unpack_from(data, place)
    return group << 16 | number, length, place + 8
