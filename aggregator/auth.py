"""Who is asking: the request's signature against the enrolled keys, and no request twice.

The signature is checked before the body is read, so that only somebody who is enrolled can make the
aggregator read much. People may show an API token instead (:mod:`aggregator.tokens`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack

from fastapi import Request
from starlette.requests import ClientDisconnect

from aggregator.limits import BodyMemory
from aggregator.nonces import EarlyNonces, Used
from aggregator.problems import TooLarge
from aggregator.store import Party
from medveil.errors import RemoteProtocolError
from medveil.identity import FRESHNESS_S, RequestProof, verify_head


class UnknownSender(RemoteProtocolError):
    """Nobody of that name is enrolled."""

    code = "unknown-sender"

    def __init__(self) -> None:
        super().__init__(
            what="The sender is not enrolled here.",
            meaning="The request was not looked at.",
            remedy="Enrol first, with a one-time token (hospitals: medveil node enroll TOKEN).",
        )


class Revoked(RemoteProtocolError):
    """A key that was enrolled and is not welcome any more."""

    code = "revoked"

    def __init__(self) -> None:
        super().__init__(
            what="The admin has revoked this key.",
            meaning="Nothing that it signs is looked at any more; nothing was changed.",
            remedy="Talk to the consortium's admin. A new key needs a new name and a new token.",
        )


class Replayed(RemoteProtocolError):
    """A request that was already used."""

    code = "replayed-request"

    def __init__(self) -> None:
        super().__init__(
            what="This very request has been here before.",
            meaning="It was not carried out a second time.",
            remedy="A retry signs a new request around the same message.",
        )


class SignedBeforeStart(RemoteProtocolError):
    """A fresh request whose time is before that of the aggregator's start: it may have been used before."""

    code = "signed-before-start"

    def __init__(self, *, retry_after_s: float) -> None:
        super().__init__(
            what=f"The aggregator started {retry_after_s:g} s after this request was signed, by its clock.",
            meaning="It remembers no requests from before its start, so it takes none; nothing was changed.",
            remedy="Nothing to do: it is signed and sent again. If that takes long, set the clocks by NTP.",
        )
        self.retry_after_s = retry_after_s


class BrokenOff(RemoteProtocolError):
    """The sender went away in the middle of a request."""

    code = "broken-off"

    def __init__(self) -> None:
        super().__init__(
            what="The request ended before its body was complete.",
            meaning="The sender or the line to it went away; nothing of it was used.",
            remedy="Nothing to do; the node sends it again.",
        )


class Gatekeeper:
    """Checks signatures and remembers nonces for as long as they could be replayed.

    Nonces live in memory. After a restart, requests signed before it are refused, so nothing that was used
    before can be used again. Those whose time is still to come are kept on disk as well.

    Args:
        clock: Unix seconds.
        early: nonces of the processes before this one; without it a fast clock's requests can be replayed
            to the next process.
    """

    def __init__(self, clock: Callable[[], float] = time.time, early: EarlyNonces | None = None) -> None:
        self._clock, self._early = clock, early
        self._started = int(clock())
        self._seen: set[Used] = set()
        self._order: deque[tuple[float, Used]] = deque()
        for used in early.used(self._started) if early is not None else ():
            self._remember(used, clock())

    def admit(self, party: Party | None, proof: RequestProof, method: str, target: str) -> Party:
        """The sender, if the request's head is theirs, fresh and new. The body is still to be checked.

        Raises: UnknownSender, BadSignature, StaleRequest, Revoked, SignedBeforeStart, Replayed.
        """
        if party is None:
            raise UnknownSender()
        now = self._clock()
        verify_head(party.public_key, proof, method, target, now=now)
        if party.revoked:
            raise Revoked()
        if proof.time < self._started:
            raise SignedBeforeStart(retry_after_s=self._started - proof.time)
        self._remember((proof.sender, proof.nonce), now)
        return party

    def outlives(self, proof: RequestProof) -> bool:
        """Whether a restart would not make this request stale; then :meth:`keep` it first."""
        return self._early is not None and proof.time >= int(self._clock()) + 1

    def keep(self, proof: RequestProof) -> None:
        """Write its nonce down, on any thread. Raises: StorageFailed."""
        if self._early is not None:
            self._early.keep(proof, now=self._clock())

    def _remember(self, nonce: Used, now: float) -> None:
        while self._order and self._order[0][0] < now - 2 * FRESHNESS_S:
            self._seen.discard(self._order.popleft()[1])
        if nonce in self._seen:
            raise Replayed()
        self._seen.add(nonce)
        self._order.append((now, nonce))


async def read_body(request: Request, limit: int, memory: BodyMemory, leases: ExitStack) -> bytes:
    """The body, refused as soon as it is known to be too large; read only when there is room for it.

    Raises: TooLarge, Overloaded, BrokenOff.
    """
    declared = request.headers.get("content-length")
    if declared is not None and not (declared.isdecimal() and len(declared) < 20 and int(declared) <= limit):
        raise TooLarge(limit=limit)
    unknown = limit if "transfer-encoding" in request.headers else 0
    await memory.take(unknown if declared is None else int(declared), leases)
    pieces, size = [], 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise TooLarge(limit=limit)
            pieces.append(piece)
    except ClientDisconnect as error:
        raise BrokenOff() from error
    return b"".join(pieces)


def signed_target(request: Request) -> str:
    """Path and query exactly as they were sent: what the sender signed."""
    path: str = request.scope["raw_path"].decode("latin-1")
    query: str = request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path
