"""What a hospital and a keeper say to each other; the aggregator passes it on and can read little of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medveil.identity import Identity, verify
from medveil.messages import Hash, Signature, Wire
from medveil.values import Name
from privacy.oprf.group import ELEMENT_BYTES

BATCH = 128
"""Persons of one request."""
Point = Annotated[bytes, Field(min_length=ELEMENT_BYTES, max_length=ELEMENT_BYTES)]
Points = Annotated[tuple[Point, ...], Field(min_length=1, max_length=BATCH)]
MAX_REQUEST_BYTES = 2**15
MAX_ANSWER_BYTES = 2**15


class Request(Wire):
    """What a keeper gets."""

    kind: Literal["evaluate", "claim"]
    body: Annotated[bytes, Field(max_length=MAX_REQUEST_BYTES)]


class Answer(Wire):
    """What a keeper says: its answer, or the code of what speaks against one."""

    refusal: Annotated[str, Field(pattern=r"^[a-z-]{0,40}$")] = ""
    body: Annotated[bytes, Field(max_length=MAX_ANSWER_BYTES)] = b""


class Evaluate(Wire):
    """Blinded identifiers of a hospital's patients, under its signature: each counts once."""

    persons: Hash
    keeper: Name
    hospital: Name
    elements: Points
    signature: Signature

    def check(self, key: bytes) -> None:
        """Raises: BadSignature unless the hospital with this key has signed it."""
        parts = _signed(self.persons, self.keeper, self.hospital, self.elements)
        verify(key, self.signature, "keeper-evaluate", *parts)


def sign_evaluate(identity: Identity, persons: bytes, keeper: str, elements: tuple[bytes, ...]) -> Evaluate:
    """A hospital's request to one keeper."""
    parts = _signed(persons, keeper, identity.name, elements)
    return Evaluate(
        persons=persons,
        keeper=keeper,
        hospital=identity.name,
        elements=elements,
        signature=identity.sign("keeper-evaluate", *parts),
    )


def _signed(persons: bytes, keeper: str, hospital: str, elements: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return persons, keeper.encode(), hospital.encode(), b"".join(elements)


class Evaluated(Wire):
    """What the keeper's key makes of them, in order, and the proof that it was this key."""

    elements: Points
    proof: Annotated[bytes, Field(min_length=64, max_length=64)]


class Sealed(Wire):
    """Claims that only the keeper can read; nothing in it says whose they are."""

    persons: Hash
    ephemeral: Hash
    box: Annotated[bytes, Field(max_length=MAX_REQUEST_BYTES)]
