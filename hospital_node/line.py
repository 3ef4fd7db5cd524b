"""What a node needs of its aggregator, and how that fails.

:class:`hospital_node.transport.Transport` is one such line; another one leads to a coordinator in the same
process, so that many hospitals can be simulated without a network.
"""

from __future__ import annotations

import asyncio
import re
from typing import Protocol, TypeVar

from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Body
from medveil.messages import PlanOffers, Refusal, Wire, Work
from medveil.rounds import AttemptKey
from medveil.shown import plain
from privacy.secagg.messages import Certificates, Published

INLINE_BYTES = 16_384
"""A message up to this size is decoded at once: its items, at most as many, take some 20 ms."""
CODE = re.compile(r"[a-z][a-z0-9-]{0,59}")
Message = TypeVar("Message", bound=Wire)


class AggregatorProblem(RemoteProtocolError):
    """The aggregator answered with a problem document; ``code`` is the aggregator's."""

    def __init__(self, *, status: int, code: str, title: str, detail: str, remedy: str = "") -> None:
        """
        Args: remedy: the end of ``detail``, if the aggregator has said where that begins.
        """
        advice = f"{plain(remedy, 600)} (The aggregator's words; it" if remedy else "(The aggregator"
        super().__init__(
            what=plain(title),
            meaning=plain(detail.removesuffix(remedy).rstrip(), 600),
            remedy=f"{advice} answered {status}.)",
        )
        self.status = status
        self.code = code if CODE.fullmatch(code) else "aggregator-error"


class Unreachable(RemoteProtocolError):
    """No answer from the aggregator."""

    code = "aggregator-unreachable"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The aggregator does not answer: {reason}.",
            meaning="Nothing was changed. A running node waits and tries again.",
            remedy="Check the address, the network and the proxy, then: medveil node doctor.",
        )
        self.reason = reason


class ProxyRefused(RemoteProtocolError):
    """A proxy in between answers, and does not connect."""

    code = "proxy-refused"

    def __init__(self, *, reason: str, remedy: str) -> None:
        super().__init__(
            what=f"The way to the aggregator ends here: {reason}.",
            meaning="Nothing has left this network. A running node waits and tries again.",
            remedy=remedy,
        )
        self.reason = reason


class VersionSource(Protocol):
    """Where models, their proofs and the sums behind them come from."""

    async def model(self, plan: str, model: str, *, limit: int) -> bytes:
        """A global model as safetensors, of at most ``limit`` bytes."""
        ...

    async def proof(self, plan: str, version: int) -> Published:
        """Where a model version comes from."""
        ...

    async def sum(self, plan: str, version: int, *, limit: int) -> bytes:
        """The sum a version was made of: 64-bit words, little-endian, at most ``limit`` bytes."""
        ...


class CertificateSource(Protocol):
    """Where abort certificates come from."""

    async def certificates(self, plan: str, number: int) -> Certificates:
        """Every abort certificate of a round."""
        ...


class Line(VersionSource, CertificateSource, Protocol):
    """What following one plan takes. Every call raises AggregatorProblem, BadMessage or Unreachable."""

    async def work(
        self,
        plan: str,
        *,
        seen: str,
        wait_s: float,
        sitting_out: AttemptKey | None = None,
        away: bool = False,
    ) -> Work:
        """What to do next; waits for news at the aggregator.

        Args:
            seen: the mark of the work that this node was told last.
            sitting_out: an attempt that this node has left, so that nobody waits for it.
            away: whether it joins no attempt for now, so that no round counts on it.
        """
        ...

    async def message(self, key: AttemptKey, kind: str, body: bytes, *, wait_s: float) -> Work:
        """Hand in a protocol message; what to do next, as :meth:`work` would tell it to its sender."""
        ...

    async def segment(self, key: AttemptKey, segment: int, data: Body, *, digest: bytes) -> None:
        """One segment of a masked vector, and its SHA-256. It is not looked at once this has returned."""
        ...


class QueueLine(Line, Protocol):
    """What going from plan to plan takes besides."""

    async def offers(self) -> PlanOffers:
        """The plans whose roster names this hospital."""
        ...

    async def approve(self, plan: str, signature: bytes) -> None:
        """Hand in this hospital's approval."""
        ...

    async def refuse(self, plan: str, told: Refusal) -> None:
        """Hand in this hospital's word that it takes no part."""
        ...


STANDING = {
    "revoked": "the consortium's admin has revoked this hospital's key. Telephone the admin.",
    "unknown-sender": "it does not know this hospital's key. Was it enrolled there? Telephone the admin.",
    "not-allowed": "this key may not do what a hospital does. Telephone the admin.",
    "wrong-certificate": "it asks for a client certificate. Get one: medveil node certificate.",
    "bad-signature": "this node's key is not the one that was enrolled under its name. Telephone the admin.",
}
"""Refusals that no waiting changes: a person must. In words for the operator."""
SHORTEST_S, LONGEST_S = 2.0, 300.0


class Patience:
    """How long to wait after a refusal: seconds, and up to minutes after one that no waiting changes."""

    def __init__(self) -> None:
        self._in_a_row, self._code = 0, ""

    def answered(self) -> None:
        """The last request was taken."""
        self._in_a_row, self._code = 0, ""

    def after(self, error: Error) -> tuple[float, bool]:
        """Seconds to wait, and whether this is news: the same standing refusal is told once."""
        if error.code not in STANDING:
            self._in_a_row, self._code = 0, error.code
            return SHORTEST_S, True
        news, self._code = error.code != self._code, error.code
        self._in_a_row = 1 if news else self._in_a_row + 1
        return min(SHORTEST_S * 2.0 ** (self._in_a_row - 1), LONGEST_S), news


async def decoded(kind: type[Message], data: bytes) -> Message:
    """A message; a large one is read on another thread. Raises: BadMessage."""
    if len(data) <= INLINE_BYTES:
        return kind.from_bytes(data)
    return await asyncio.get_running_loop().run_in_executor(None, kind.from_bytes, data)
