"""The one door for bytes from outside: looked through before a parser sees them, then decoded once.

Parsers build objects while they read, so a small file can become a large one, and some of what they build
is slow to touch ever after. Here the heads of CBOR items, and the punctuation of JSON, are counted first:
nothing is built, and the time it takes follows from the length. What passes is small, shallow and plain.
Source: RFC 8949, sections 3, 4.2 and 5.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import cbor2

DEPTH = 8
ITEMS = 100_000
"""Most items of one message. 2,000 hospitals' public keys are 18,000."""
LARGEST_KEY = 2**32
JSON_DEPTH = 16
DIGITS = 40
"""Longest number in JSON, as it is written. A float in full, with its sign, has 25."""
_TOO_SHORT = (24, 256, 2**16, 2**32)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NUMBER = re.compile(rf"[0-9+\-.eE]{{{DIGITS + 1}}}")
_BRACKETS = re.compile(r"[\[\]{}]")


class NotPlain(ValueError):
    """Bytes that are not what this door lets in; the caller says in its own words what was refused."""


@dataclass
class _Open:
    """A container whose items are still to come: how many, and the keys seen if it is a map."""

    left: int
    keys: set[bytes] | None = field(default=None)


def decode_cbor(data: bytes) -> Any:
    """One item of plain CBOR; arrays become tuples.

    Guarantees: no tags, no indefinite lengths, nothing but integers, bytes, text, arrays, maps, booleans,
    null and floats; at most ``ITEMS`` items and ``DEPTH`` levels; keys are text or integers below 2^32 and
    differ; every head is the shortest; no trailing bytes. Time and memory are linear in ``data``.
    Raises: NotPlain.
    """
    look_through(data)
    try:
        return _tuples(cbor2.loads(data))
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise NotPlain("no valid CBOR") from error


def look_through(data: bytes) -> int:
    """Walk over the heads of one CBOR item and build nothing; the number of items. Raises: NotPlain."""
    place, items, end = 0, 0, len(data)
    inner = _Open(1)
    outer: list[_Open] = []
    while True:
        while not inner.left:
            if not outer:
                if place != end:
                    raise NotPlain("trailing bytes")
                return items
            inner = outer.pop()
        start, items = place, items + 1
        if items > ITEMS:
            raise NotPlain("too many items")
        major, value, place = _head(data, place, end)
        if major in (2, 3):
            if value > end - place:
                raise NotPlain("cut off")
            place += value
        if inner.keys is not None and not inner.left % 2:
            _new_key(inner.keys, data[start:place], major, value)
        inner.left -= 1
        if major in (4, 5):
            count = value if major == 4 else 2 * value
            if count > min(end - place, ITEMS):
                raise NotPlain("more items than bytes")
            outer.append(inner)
            if len(outer) > DEPTH:
                raise NotPlain("too deep")
            inner = _Open(count, set() if major == 5 else None)


def _head(data: bytes, place: int, end: int) -> tuple[int, int, int]:
    """Major type, argument, and the place behind the head."""
    if place >= end:
        raise NotPlain("cut off")
    major, argument = data[place] >> 5, data[place] & 31
    place += 1
    if major == 6:
        raise NotPlain("a tag")
    if argument < 24:
        if major == 7 and not 20 <= argument <= 22:
            raise NotPlain("a simple value that no message has")
        return major, argument, place
    if argument > 27 or (major == 7 and argument == 24):
        raise NotPlain("an indefinite length or a reserved head")
    size = 1 << argument - 24
    if size > end - place:
        raise NotPlain("cut off")
    value = int.from_bytes(data[place : place + size], "big")
    if major != 7 and value < _TOO_SHORT[argument - 24]:
        raise NotPlain("a head that could be shorter")
    return major, value, place + size


def _new_key(seen: set[bytes], key: bytes, major: int, value: int) -> None:
    if major != 3 and not (major == 0 and value < LARGEST_KEY):
        raise NotPlain("a key that is neither text nor a small number")
    if key in seen:
        raise NotPlain("a key twice")
    seen.add(key)


def _tuples(value: Any) -> Any:
    """CBOR arrays arrive as lists; the messages hold tuples."""
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value


def decode_json(data: bytes | str, *, max_bytes: int, max_items: int = ITEMS) -> Any:
    """One JSON document.

    Guarantees: at most ``max_bytes`` bytes, ``max_items`` items and 16 levels; no key twice, no number of
    more than 40 characters, no NaN or infinity. Time and memory are linear in ``data``.
    Raises: NotPlain.
    """
    if len(data) > max_bytes:
        raise NotPlain("too long")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotPlain("no UTF-8") from error
    bare = _STRING.sub("", text)
    if sum(map(bare.count, ",:[{")) > max_items:
        raise NotPlain("too many items")
    if _NUMBER.search(bare):
        raise NotPlain("a number too long")
    depth = 0
    for bracket in _BRACKETS.finditer(bare):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > JSON_DEPTH:
            raise NotPlain("too deep")
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise NotPlain("no valid JSON") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotPlain("a key twice")
    return found


def _refused(word: str) -> Any:
    raise NotPlain(f"{word} is no number")
