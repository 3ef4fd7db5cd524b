"""Entries of the record of transmissions: each holds the hash of the one before and the node's signature.

An entry tells kinds, sizes, hashes and ids from an allow-list: never a name of a file, a patient, or content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from medveil.errors import Error
from medveil.identity import BadSignature, Identity, verify
from medveil.ids import canonical, digest
from medveil.outside import NotPlain, decode_json

FORM = "medveil-transmissions-1"
START = bytes(32)
FRAME = ("number", "time_ms", "kind", "previous", "hash", "signature")
DETAILS = frozenset(
    """
    plan round attempt segment bytes sha256 masked to authority epsilon approved_by ledger
    of answer status tries counts since_ms code event version
    """.split()
)
"""What an entry may tell besides number, time and kind."""
LONGEST = 300
LINE_BYTES = 8192
Detail = str | int | float | bool | dict[str, int]


class NotRecorded(Error):
    """The record of transmissions could not be written, so nothing was sent."""

    code = "not-recorded"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"What was to leave this building could not be written down: {reason}.",
            meaning="Nothing leaves that is not on record, so it was not sent.",
            remedy="Make room on the node's disk and check that its folder can be written; the node goes on.",
        )


class BadTransmission(Error):
    """The record of transmissions is not what this node has written."""

    code = "sent-broken"

    def __init__(self, *, number: int, problem: str) -> None:
        super().__init__(
            what=f"Entry {number} of the record of transmissions is bad: {problem}.",
            meaning="The entries before it are as this node wrote them; what follows proves nothing.",
            remedy="Keep the file, find out who had access to the node's folder, and compare with the audit "
            "archive or an export.",
        )
        self.number = number


@dataclass(frozen=True)
class End:
    """The newest entry's number and hash, and the node's signature under both."""

    number: int
    hash: bytes
    signature: bytes = b""

    def check(self, key: bytes) -> None:
        """Raises: BadSignature unless the node with this key has written it."""
        verify(key, self.signature, "transmission", self.number.to_bytes(8, "big"), self.hash)


NOTHING = End(0, START)


@dataclass(frozen=True)
class Entry:
    """One transmission, the answer to it, or something else that the record tells."""

    number: int
    time_ms: int
    kind: str
    told: Mapping[str, Detail]
    previous: bytes
    hash: bytes
    signature: bytes

    @property
    def end(self) -> End:
        """The record's end when this entry was the newest."""
        return End(self.number, self.hash, self.signature)

    def computed_hash(self) -> bytes:
        """What the hash must be."""
        return digest(
            "transmission", canonical([self.number, self.time_ms, self.kind, dict(self.told)]), self.previous
        )

    def as_dict(self) -> dict[str, Detail]:
        """Plain values for JSON."""
        return {
            "number": self.number,
            "time_ms": self.time_ms,
            "kind": self.kind,
            **self.told,
            "previous": self.previous.hex(),
            "hash": self.hash.hex(),
            "signature": self.signature.hex(),
        }

    def to_line(self) -> bytes:
        """One line of the file."""
        return json.dumps(self.as_dict(), separators=(",", ":"), allow_nan=False).encode() + b"\n"


@dataclass(frozen=True)
class Header:
    """The first line of a file: whose record it is, and the end of the record before its first entry."""

    node: str
    key: bytes
    before: End

    def to_line(self) -> bytes:
        """One line of the file."""
        told = {
            "record": FORM,
            "node": self.node,
            "key": self.key.hex(),
            "before": self.before.number,
            "previous": self.before.hash.hex(),
        }
        return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def seal(signer: Identity, before: End, *, time_ms: int, kind: str, told: Mapping[str, Detail]) -> Entry:
    """The next entry. Raises: ValueError for a detail that is not on the list."""
    _check(told)
    number = before.number + 1
    name = Entry(number, time_ms, kind, told, before.hash, b"", b"").computed_hash()
    signature = signer.sign("transmission", number.to_bytes(8, "big"), name)
    return Entry(number, time_ms, kind, told, before.hash, name, signature)


def _check(told: Mapping[str, Detail]) -> None:
    for key, value in told.items():
        parts = [key, *value] if isinstance(value, dict) else [key, str(value)]
        if key not in DETAILS or any(len(part) > LONGEST for part in parts):
            raise ValueError(f"the record of transmissions takes no detail {key}")


def read_line(line: bytes, *, number: int) -> Entry:
    """An entry from its line. Raises: BadTransmission, naming entry ``number``, if it is not one."""
    try:
        value = decode_json(line, max_bytes=LINE_BYTES)
        told = {k: v for k, v in value.items() if k not in FRAME}
        _check(told)
        previous, name, signature = (bytes.fromhex(value[k]) for k in ("previous", "hash", "signature"))
        entry = Entry(value["number"], value["time_ms"], value["kind"], told, previous, name, signature)
        typed = isinstance(entry.number, int) and isinstance(entry.time_ms, int)
        if not typed or not isinstance(entry.kind, str) or not 0 < entry.number < 2**53:
            raise ValueError
    except (NotPlain, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadTransmission(number=number, problem="it is not an entry") from error
    return entry


def read_header(line: bytes) -> Header:
    """The header from its line. Raises: BadTransmission."""
    try:
        value = decode_json(line, max_bytes=LINE_BYTES)
        if value["record"] != FORM or not isinstance(value["node"], str):
            raise ValueError
        key, before = bytes.fromhex(value["key"]), End(int(value["before"]), bytes.fromhex(value["previous"]))
        if (len(key), len(before.hash)) != (32, 32) or before.number < 0:
            raise ValueError
    except (NotPlain, KeyError, TypeError, ValueError) as error:
        raise BadTransmission(number=0, problem="the file does not begin as such a record does") from error
    return Header(value["node"], key, before)


def checked(entries: Iterable[Entry], key: bytes, before: End) -> Iterator[Entry]:
    """The same entries, each one checked: number, chain, hash and signature.

    Args:
        before: the end of the record before the first of them.
    Raises: BadTransmission at the first that is not what the node with this key wrote.
    """
    for entry in entries:
        number = before.number + 1
        if entry.number != number:
            problem = f"it is missing; number {entry.number} comes in its place"
            raise BadTransmission(number=number, problem=problem)
        if entry.previous != before.hash:
            raise BadTransmission(number=number, problem="it does not follow the entry before it")
        if entry.hash != entry.computed_hash():
            raise BadTransmission(number=number, problem="its content is not what its hash says")
        try:
            entry.end.check(key)
        except BadSignature as error:
            raise BadTransmission(number=number, problem="this node's key has not signed it") from error
        before = entry.end
        yield entry
