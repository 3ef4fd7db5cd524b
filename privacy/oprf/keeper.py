"""A keeper's side: one share of the key, and one copy of the register that says whose a person is.

A keeper answers two questions. *Evaluate*: what its key makes of blinded identifiers; each counts towards the
hospital's limit, once, before anything is answered. *Claim*: whether a person, known by a tag, is whose who
asks; the first who claims a tag has it for ever. It learns no identifier, and of a claim not who claims.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from medveil.errors import Error
from medveil.identity import BadSignature, Secret
from medveil.ids import join
from medveil.messages import BadMessage
from privacy.oprf.errors import BadElement
from privacy.oprf.group import Element
from privacy.oprf.messages import Answer, Evaluate, Evaluated, Request, Sealed
from privacy.oprf.sealing import NONCE_BYTES, BadBox, Claim, open_claims
from privacy.oprf.voprf import evaluate, scalar_of


class LimitReached(Error):
    """A hospital asks for more than it has patients."""

    code = "keeper-limit"

    def __init__(self) -> None:
        super().__init__(
            what="This would be more evaluations than the keeper allows this hospital.",
            meaning="Whoever may ask without end may try every identifier there is. Nothing was evaluated.",
            remedy="If the hospital has that many patients, its keeper says so: "
            "medveil aggregator keeper admit NAME --patients NUMBER.",
        )


class UnknownHospital(Error):
    """Nobody whom the keeper has admitted."""

    code = "keeper-unknown-hospital"

    def __init__(self) -> None:
        super().__init__(
            what="The keeper has not admitted this hospital, or knows it with another key.",
            meaning="Nothing was evaluated.",
            remedy="Telephone the keeper: medveil aggregator keeper admit NAME --key KEY --patients NUMBER.",
        )


class OtherPersons(Error):
    """A request under another persons file."""

    code = "keeper-other-persons"

    def __init__(self) -> None:
        super().__init__(
            what="The keeper keeps the persons of another persons file.",
            meaning="Pseudonyms of two files have nothing in common. Nothing was evaluated, nobody claimed.",
            remedy="Compare the file's fingerprint with the consortium's admin and the keeper.",
        )


class RegisterFull(Error):
    """More persons than all hospitals have together."""

    code = "keeper-full"

    def __init__(self) -> None:
        super().__init__(
            what="The keeper's register holds as many persons as all hospitals may have together.",
            meaning="Somebody claims persons who were never evaluated. Nobody was claimed.",
            remedy="Let the keeper compare its log with what the hospitals say that they have asked.",
        )


REFUSALS: dict[str, Callable[[], Error]] = {
    BadBox.code: BadBox,
    BadElement.code: BadElement,
    BadMessage.code: BadMessage,
    BadSignature.code: BadSignature,
    LimitReached.code: LimitReached,
    OtherPersons.code: OtherPersons,
    RegisterFull.code: RegisterFull,
    UnknownHospital.code: UnknownHospital,
}
"""What a keeper tells a hospital when it does not answer, by its code."""


class Book(Protocol):
    """What a keeper remembers; every change is on stable storage when its call returns."""

    def key_of(self, hospital: str) -> bytes | None:
        """An admitted hospital's key."""
        ...

    def charge(self, hospital: str, marks: Sequence[bytes]) -> None:
        """Count what was not counted before. Raises: LimitReached; then nothing was counted."""
        ...

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Give each tag that nobody has to its mark; whose mark each then has.

        Raises: RegisterFull; then nobody was given.
        """
        ...


@dataclass(frozen=True)
class KeeperKeys:
    """What a keeper must never show."""

    evaluation: Secret
    sealing: Secret

    @property
    def scalar(self) -> int:
        """The share of the key."""
        return scalar_of(self.evaluation.reveal(), b"keeper-key")


class KeeperSide:
    """Bytes in, bytes out.

    Args:
        persons: hash of the persons file.
        random: fresh random bytes, as many as asked for.
    """

    def __init__(
        self, name: str, persons: bytes, keys: KeeperKeys, book: Book, random: Callable[[int], bytes]
    ) -> None:
        self._name, self._persons, self._keys = name, persons, keys
        self._book, self._random = book, random

    def answer(self, data: bytes) -> bytes:
        """The answer to a request, or the code of what speaks against it."""
        try:
            request = Request.from_bytes(data)
            body = self._evaluate(request.body) if request.kind == "evaluate" else self._claim(request.body)
        except Error as error:
            if error.code not in REFUSALS:
                raise  # the keeper's own trouble: no answer at all
            return Answer(refusal=error.code).to_bytes()
        return Answer(body=body).to_bytes()

    def _evaluate(self, body: bytes) -> bytes:
        asked = Evaluate.from_bytes(body)
        if asked.persons != self._persons or asked.keeper != self._name:
            raise OtherPersons()
        key = self._book.key_of(asked.hospital)
        if key is None:
            raise UnknownHospital()
        asked.check(key)
        elements = [Element.from_bytes(one) for one in asked.elements]
        self._book.charge(asked.hospital, [mark_of(asked.hospital, one) for one in asked.elements])
        number = scalar_of(self._random(48), b"keeper-proof")
        made, proof = evaluate(self._keys.scalar, elements, number)
        return Evaluated(elements=tuple(one.to_bytes() for one in made), proof=proof.to_bytes()).to_bytes()

    def _claim(self, body: bytes) -> bytes:
        asked = Sealed.from_bytes(body)
        if asked.persons != self._persons:
            raise OtherPersons()
        opened = open_claims(asked, self._keys.sealing.reveal())
        given = self._book.claim(opened.claims)
        return opened.answer(given, self._random(NONCE_BYTES))


def mark_of(hospital: str, element: bytes) -> bytes:
    """By what an evaluation that was counted is known again."""
    return hashlib.sha256(join(b"medveil-v1", b"keeper-evaluated", hospital.encode(), element)).digest()
