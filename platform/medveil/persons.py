"""A person in two hospitals: who keeps the shares of the key by which a consortium knows a person again.

The keepers' public keys, and what identifies a person, stand in one file that every hospital has. A study
names the file's hash; every hospital then uses only persons whom the keepers have given to it, so that no
person is in it twice (docs/decisions/0068-a-patient-in-two-hospitals.md).
"""

from __future__ import annotations

from typing import Annotated, Self

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import Field, model_validator

from medveil.errors import Error
from medveil.ids import canonical, digest
from medveil.pseudonyms import BadPseudonym, one_spelling
from medveil.values import Frozen, Name

MOST_KEEPERS = 8
Point = Annotated[str, Field(pattern=r"^0[23][0-9a-f]{64}$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Keeper(Frozen):
    """One keeper: its name at the aggregator and its public keys, as hexadecimal digits."""

    name: Name
    evaluation: Point
    """Of its share of the key (P-256, compressed)."""
    sealing: Key
    """What is meant for the keeper alone is sealed to it (X25519)."""

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        """Mistyped ones are noticed here, not by the first hospital that asks."""
        try:
            EllipticCurvePublicKey.from_encoded_point(SECP256R1(), bytes.fromhex(self.evaluation))
        except ValueError as error:
            raise ValueError(f"the evaluation key of '{self.name}' is no point of P-256") from error
        try:
            sealing = X25519PublicKey.from_public_bytes(bytes.fromhex(self.sealing))
            X25519PrivateKey.generate().exchange(sealing)  # one of small order gives no secret
        except ValueError as error:
            raise ValueError(f"the sealing key of '{self.name}' is no key of X25519") from error
        return self


class Persons(Frozen):
    """How a consortium knows persons: the same file in every hospital, for the consortium's life."""

    name: Name
    identifier: Annotated[str, Field(min_length=1, max_length=100)]
    """For people: what identifies a person in every hospital, e.g. "NHS number"."""
    keepers: Annotated[tuple[Keeper, ...], Field(min_length=2, max_length=MOST_KEEPERS)]

    @model_validator(mode="after")
    def _are_different(self) -> Self:
        for field in ("name", "evaluation", "sealing"):
            if len({getattr(one, field) for one in self.keepers}) != len(self.keepers):
                raise ValueError(f"two keepers have the same {field}")
        return self

    @property
    def hash(self) -> bytes:
        """SHA-256 over the canonical form; what a study names."""
        return digest("persons", canonical(self.model_dump(mode="json")))


class NoIdentifier(Error):
    """A text that identifies nobody."""

    code = "no-identifier"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"What should identify a person {reason}.",
            meaning="Whether this person is in another hospital as well cannot be known, so the person is in "
            "no study that asks for it.",
            remedy="Fill in the column, as text, and run 'medveil node persons claim' again.",
        )


def identifier_form(*parts: str) -> bytes:
    """The one form of an identifier, however hospitals write it: letters and digits alone, in lower case.

    Args:
        parts: the cells that identify a person together, e.g. family name, given name, date of birth.
    Raises: NoIdentifier if one of them says nothing.
    """
    forms = []
    for part in parts:
        try:
            bare = "".join(filter(str.isalnum, one_spelling(part)))
            forms.append(one_spelling(bare).encode())
        except BadPseudonym as error:
            raise NoIdentifier(reason=error.reason) from error
    return canonical(forms)
