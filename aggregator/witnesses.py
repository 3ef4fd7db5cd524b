"""Heads of the audit log that hospitals have kept, read from the files of ``medveil node heads --export``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aggregator.auditlog import BadEntry, Entry, Head
from medveil.errors import BadFile
from medveil.identity import BadSignature
from medveil.study import Name

RESTORED = "database.restored"
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=128)]


class Row(BaseModel):
    """One line of a file: ``hospital_node.store.Seen`` as text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["first", "attempt", "newest", "refused", "accepted"]
    number: Annotated[int, Field(ge=0, lt=2**53)]
    hash: Hex
    signature: Hex
    key: Hex
    seen: int
    about: Annotated[str, Field(max_length=100)]

    def head(self, node: str) -> Head:
        """As the log's own type."""
        return Head(self.number, bytes.fromhex(self.hash), bytes.fromhex(self.signature), holder=node)


class Witness(BaseModel):
    """One node's file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["medveil audit heads 1"]
    node: Name
    heads: list[Row]

    @classmethod
    def read(cls, path: Path) -> Witness:
        """Raises: BadFile."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError, ValueError) as error:
            raise BadFile(name=path.name, problem="it is no file of 'medveil node heads --export'") from error


def binding_heads(
    witnesses: Iterable[Witness], entries: Iterable[Entry], admin_key: bytes
) -> tuple[list[Head], int]:
    """The heads that the log must hold, and how many it need not hold since a restore gave them up.

    A head is given up if the log has an entry of a restore before its number, and the hospital's operator
    has accepted a head at or after that entry. An operator's word alone gives nothing up.

    Raises: BadEntry for a head that the hospital took as signed and that this admin key has not signed.
    """
    found, given_up = list(witnesses), 0
    heads: list[Head] = []
    accepts = any(row.kind == "accepted" for witness in found for row in witness.heads)
    restores = [entry.number for entry in entries if entry.action == RESTORED] if accepts else []
    for witness in found:
        for head, kept_up in _of_one(witness, restores, admin_key):
            heads += [head] if kept_up else []
            given_up += not kept_up
    return heads, given_up


def _of_one(witness: Witness, restores: list[int], admin_key: bytes) -> Iterable[tuple[Head, bool]]:
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
        try:
            head.check(admin_key)
        except BadSignature as error:
            if row.kind == "refused":
                continue  # evidence against whoever signed it, not a word about this log
            problem = f"{head.seen_by()} is signed by another key than this log"
            raise BadEntry(number=head.number, problem=problem) from error
        # What was refused belongs to the log that came after.
        later = bounds[period + (row.kind == "refused") :]
        yield head, all(head.number < bound for bound in later)
