"""RFC 9497, suite P256-SHA256, mode VOPRF: one side has an input, the other a key, and neither shows it.

The client learns F(key, input) and that it was made with the published key; the server learns nothing of
input or output. One proof covers a whole batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from privacy.oprf.errors import BadElement, BadEvaluation
from privacy.oprf.group import (
    ORDER,
    SCALAR_BYTES,
    Element,
    add,
    hash_to_element,
    hash_to_scalar,
    multiple,
    multiple_of_base,
)

MODE = 1
CONTEXT = b"OPRFV1-" + bytes([MODE]) + b"-P256-SHA256"
MOST = 1024
"""Elements of one batch."""
LONGEST_INPUT = 2**16 - 1
_BASE = multiple_of_base(1)


@dataclass(frozen=True)
class Proof:
    """That all evaluations of a batch were made with one published key; zero-knowledge (DLEQ)."""

    challenge: int
    response: int

    def to_bytes(self) -> bytes:
        """64 bytes."""
        return b"".join(n.to_bytes(SCALAR_BYTES, "big") for n in (self.challenge, self.response))

    @classmethod
    def from_bytes(cls, data: bytes) -> Proof:
        """Raises: BadEvaluation."""
        numbers = [int.from_bytes(data[i : i + SCALAR_BYTES], "big") for i in (0, SCALAR_BYTES)]
        if len(data) != 2 * SCALAR_BYTES or not all(0 < n < ORDER for n in numbers):
            raise BadEvaluation()
        return cls(*numbers)


@dataclass(frozen=True)
class Blinded:
    """An input under its blind: what is kept until the answer comes, and the element that is sent."""

    text: bytes = field(repr=False)
    blind: int = field(repr=False)
    element: Element = field(repr=False)


def scalar_of(data: bytes, use: bytes) -> int:
    """A number from 1 to ORDER - 1 out of secret bytes, which are 32 or more."""
    return 1 + hash_to_scalar(data, b"medveil-" + use + b"-" + CONTEXT) % (ORDER - 1)


def blind(text: bytes, number: int) -> Blinded:
    """Hide an input.

    Args:
        text: at most 65,535 bytes.
        number: secret, from 1 to ORDER - 1, another one for each input: the element is then uniform in the
            group, whatever the input is.
    """
    return Blinded(text, number, multiple(number, hash_to_element(text, b"HashToGroup-" + CONTEXT)))


def evaluate(key: int, elements: Sequence[Element], number: int) -> tuple[list[Element], Proof]:
    """What a key makes of 1 to :data:`MOST` blinded elements, and the proof.

    Args:
        number: secret, from 1 to ORDER - 1, never used twice: a second proof with it would give the key away.
    """
    public, made = multiple_of_base(key), [multiple(key, one) for one in elements]
    mixed = _mixed(_factors(public, elements, made), elements)
    both = mixed, multiple(key, mixed)
    challenge = _challenge(public, *both, multiple_of_base(number), multiple(number, mixed))
    return made, Proof(challenge, (number - challenge * key) % ORDER)


def finish(public: Element, sent: Sequence[Blinded], made: Sequence[Element], proof: Proof) -> list[bytes]:
    """F of each input: 32 bytes each. Raises: BadEvaluation; then nothing of the answer is to be used."""
    elements = [one.element for one in sent]
    if len(made) != len(sent):
        raise BadEvaluation()
    try:
        factors = _factors(public, elements, made)
        both = _mixed(factors, elements), _mixed(factors, made)
        nonces = [
            add(multiple(proof.response, base), multiple(proof.challenge, product))
            for base, product in ((_BASE, public), both)
        ]
    except BadElement as error:
        raise BadEvaluation() from error
    if _challenge(public, *both, *nonces) != proof.challenge:
        raise BadEvaluation()
    return [_output(one, element) for one, element in zip(sent, made, strict=True)]


def _output(one: Blinded, made: Element) -> bytes:
    bare = multiple(pow(one.blind, -1, ORDER), made)
    return hashlib.sha256(_sized(one.text, bare.to_bytes()) + b"Finalize").digest()


def _factors(public: Element, elements: Sequence[Element], made: Sequence[Element]) -> list[int]:
    """Weights that make one pair of a batch (ComputeComposites): nobody can choose elements to fit them."""
    seed = hashlib.sha256(_sized(public.to_bytes(), b"Seed-" + CONTEXT)).digest()
    return [
        _scalar(_sized(seed) + i.to_bytes(2, "big") + _sized(one.to_bytes(), other.to_bytes()) + b"Composite")
        for i, (one, other) in enumerate(zip(elements, made, strict=True))
    ]


def _mixed(factors: Sequence[int], elements: Sequence[Element]) -> Element:
    first, *others = (multiple(d, one) for d, one in zip(factors, elements, strict=True))
    for other in others:
        first = add(first, other)
    return first


def _challenge(*points: Element) -> int:
    return _scalar(_sized(*(point.to_bytes() for point in points)) + b"Challenge")


def _scalar(transcript: bytes) -> int:
    return hash_to_scalar(transcript, b"HashToScalar-" + CONTEXT)


def _sized(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)
