"""A hospital's side: identifiers in, tags out, and whom of them this hospital may use.

The tag of a person is made of what *every* keeper's key makes of the identifier, so whoever lacks one of the
keys cannot make it. A person is this hospital's if *every* keeper says so, so one honest keeper is enough
that nobody is in a sum twice.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity, Secret
from medveil.ids import digest, join
from medveil.persons import Keeper, Persons
from privacy.oprf.errors import BadElement, BadEvaluation
from privacy.oprf.group import Element
from privacy.oprf.keeper import REFUSALS
from privacy.oprf.messages import Answer, Evaluated, Request, Sealed, sign_evaluate
from privacy.oprf.sealing import Opener, seal_claims
from privacy.oprf.voprf import Blinded, Proof, blind, finish, scalar_of


class KeeperRefuses(RemoteProtocolError):
    """A keeper does not answer, and says why."""

    code = "keeper-refuses"

    def __init__(self, *, keeper: str, cause: Error | None) -> None:
        super().__init__(
            what=f"The keeper '{keeper}' refuses: {cause.what if cause else 'for a reason of its own.'}",
            meaning=cause.meaning if cause else "Nothing was evaluated, and nobody was claimed.",
            remedy=cause.remedy if cause else "Check that node and keeper run the same version of MedVeil.",
        )
        self.told = cause.code if cause else ""
        """The keeper's code, if this version knows it."""


@dataclass(frozen=True)
class Asked:
    """What was sent to one keeper, and what its answer is held against."""

    keeper: Keeper
    request: bytes
    sent: tuple[Blinded, ...] = field(repr=False)

    def outputs(self, data: bytes) -> list[bytes]:
        """What this keeper's key makes of each identifier.

        Raises: KeeperRefuses, BadMessage, BadEvaluation.
        """
        told = Evaluated.from_bytes(body_of(self.keeper, data))
        try:
            public = Element.from_bytes(bytes.fromhex(self.keeper.evaluation))
            made = [Element.from_bytes(one) for one in told.elements]
        except BadElement as error:
            raise BadEvaluation() from error
        return finish(public, self.sent, made, Proof.from_bytes(told.proof))


def ask(
    persons: Persons, keeper: Keeper, forms: Sequence[bytes], *, identity: Identity, secret: Secret
) -> Asked:
    """The request for a batch of identifiers, of which the keeper learns nothing but the number.

    Args:
        forms: of :func:`medveil.persons.identifier_form`.
        secret: of this hospital. Blinds are made of it, so that a repeated request is the same one and
            counts towards the keeper's limit once.
    """
    sent = []
    for form in forms:
        text = join(persons.hash, form)
        hidden = hmac.digest(secret.reveal(), join(b"blind", keeper.name.encode(), text), "sha384")
        sent.append(blind(text, scalar_of(hidden, b"blind")))
    elements = tuple(one.element.to_bytes() for one in sent)
    signed = sign_evaluate(identity, persons.hash, keeper.name, elements)
    return Asked(keeper, Request(kind="evaluate", body=signed.to_bytes()).to_bytes(), tuple(sent))


def tags(persons: Persons, outputs: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Each person's tag. Args: outputs: for each keeper, in the file's order, those of all persons."""
    return [digest("person", persons.hash, *each) for each in zip(*outputs, strict=True)]


@dataclass(frozen=True)
class Claimed:
    """Claims that were sent to one keeper, and what opens the answer."""

    keeper: Keeper
    request: bytes
    count: int
    opener: Opener

    def given(self, data: bytes) -> list[bool]:
        """Whether each person is this hospital's. Raises: KeeperRefuses, BadMessage, BadBox."""
        return self.opener.open(body_of(self.keeper, data), self.count)


def claim(
    persons: Persons, keeper: Keeper, named: Sequence[bytes], *, secret: Secret, private: bytes, nonce: bytes
) -> Claimed:
    """The claims of this hospital on persons.

    Args:
        named: their tags.
        secret: of this hospital: by it the hospital is known again as the one who claimed first.
        private, nonce: as for :func:`privacy.oprf.sealing.seal_claims`.
    """
    name = keeper.name.encode()
    pairs = []
    for tag in named:
        mark = hmac.digest(secret.reveal(), join(b"claim", persons.hash, name, tag), "sha256")
        pairs.append((digest("person-at", name, tag), mark))
    key = bytes.fromhex(keeper.sealing)
    sealed, opener = seal_claims(pairs, persons=persons.hash, keeper=key, private=private, nonce=nonce)
    request = Request(kind="claim", body=Sealed.to_bytes(sealed)).to_bytes()
    return Claimed(keeper, request, len(pairs), opener)


def body_of(keeper: Keeper, data: bytes) -> bytes:
    """What a keeper answers. Raises: KeeperRefuses, BadMessage."""
    told = Answer.from_bytes(data)
    if told.refusal:
        raise KeeperRefuses(
            keeper=keeper.name, cause=REFUSALS[told.refusal]() if told.refusal in REFUSALS else None
        )
    return told.body
