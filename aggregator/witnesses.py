"""Heads of the audit log that hospitals have kept, read from the files of ``medveil node heads --export``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from aggregator.auditlog import BadEntry, Entry, Head, KeyChange, Keys
from medveil.handed import read_json
from medveil.identity import BadSignature
from medveil.ids import is_fingerprint
from medveil.values import Name

RESTORED = "database.restored"
MOST_HEADS = 200_000
"""In one file; a node keeps a few for each round."""
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=128)]


class Row(BaseModel):
    """One line of a file: ``hospital_node.seen_heads.SeenHead`` as text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["first", "attempt", "newest", "refused", "accepted", "handed-over"]
    number: Annotated[int, Field(ge=0, lt=2**53)]
    hash: Hex
    signature: Hex
    key: Hex
    seen: int
    about: Annotated[str, Field(max_length=1000)]

    def stands_for(self, key: bytes) -> bool:
        """Whether it names this admin key; before the node has seen it, only by its fingerprint."""
        return self.key == key.hex() if self.key else is_fingerprint(self.about, key)

    def head(self, node: str) -> Head:
        """As the log's own type."""
        return Head(self.number, bytes.fromhex(self.hash), bytes.fromhex(self.signature), holder=node)


class Witness(BaseModel):
    """One node's file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["medveil audit heads 1"]
    node: Name
    heads: Annotated[list[Row], Field(max_length=MOST_HEADS)]

    def has_accepted(self, key: bytes) -> bool:
        """Whether the operator has accepted a head under this admin key."""
        return any(row.kind == "accepted" and row.stands_for(key) for row in self.heads)

    def pins(self, key: bytes) -> bool:
        """Whether this is the admin key that the node goes by."""
        taken = [row for row in self.heads if row.kind != "refused"]
        return bool(taken) and taken[-1].stands_for(key)

    @classmethod
    def read(cls, path: Path) -> Witness:
        """Raises: BadFile."""
        return read_json(path, cls)


def binding_heads(
    witnesses: Iterable[Witness],
    entries: Iterable[Entry],
    admin_key: bytes,
    changes: Iterable[KeyChange] = (),
) -> tuple[list[Head], int]:
    """The heads that the log must hold, and how many it need not hold since a restore gave them up.

    A head is given up if the log has an entry of a restore before its number, and the hospital's operator
    has accepted a head at or after that entry. An operator's word alone gives nothing up.

    Args:
        admin_key: the one that signs the log now. changes: every change of it in the log.
    Raises: BadEntry for a head that the hospital took as signed and that the admin key in force at its number
        has not signed. (A head that was given up may be signed by a key that went with the restored log.)
    """
    found, given_up, keys = list(witnesses), 0, Keys.of(changes, admin_key)
    heads: list[Head] = []
    accepts = any(row.kind == "accepted" for witness in found for row in witness.heads)
    restores = [entry.number for entry in entries if entry.action == RESTORED] if accepts else []
    for witness in found:
        for head, kept_up in _of_one(witness, restores, keys):
            heads += [head] if kept_up else []
            given_up += not kept_up
    return heads, given_up


def _of_one(witness: Witness, restores: list[int], keys: Keys) -> Iterable[tuple[Head, bool]]:
    """Each head, and whether it still binds."""
    bounds: list[int] = []
    for row in witness.heads:
        if row.kind == "accepted":
            before = [number for number in restores if number <= row.number]
            bounds.append(max(before, default=2**53))
    period = 0
    for row in witness.heads:
        head = row.head(witness.node)
        if row.kind == "accepted":
            period += 1
            yield head, all(head.number < bound for bound in bounds[period:])
            continue
        # What was refused belongs to the log that came after.
        later = bounds[period + (row.kind == "refused") :]
        kept_up = all(head.number < bound for bound in later)
        key = bytes.fromhex(row.key)
        try:
            head.check(keys.at(head.number) if kept_up else key)
        except BadSignature as error:
            if row.kind == "refused":
                continue  # evidence against whoever signed it, not a word about this log
            retired = keys.retired_at(key) if _has_signed(key, head) else None
            by = "another key than this log" if retired is None else f"a key that entry {retired} retired"
            raise BadEntry(number=head.number, problem=f"{head.seen_by()} is signed by {by}") from error
        yield head, kept_up


def _has_signed(key: bytes, head: Head) -> bool:
    try:
        head.check(key)
    except BadSignature:
        return False
    return True
