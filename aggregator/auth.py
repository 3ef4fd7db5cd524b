"""Who is asking: the request's signature against the enrolled keys, and no request twice."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from fastapi import Request
from starlette.requests import ClientDisconnect

from aggregator.problems import EncodedBody, TooLarge
from aggregator.store import Party
from medveil.errors import RemoteProtocolError
from medveil.identity import FRESHNESS_S, RequestProof, StaleRequest, verify_request


class UnknownSender(RemoteProtocolError):
    """Nobody of that name is enrolled."""

    code = "unknown-sender"

    def __init__(self) -> None:
        super().__init__(
            what="The sender is not enrolled here.",
            meaning="The request was not looked at.",
            remedy="Enrol first, with a one-time token (hospitals: medveil node enroll TOKEN).",
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

    Nonces live in memory. After a restart, requests signed before it are refused as stale, so nothing that
    was used before can be used again.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._started = int(clock())
        self._seen: set[tuple[str, str]] = set()
        self._order: deque[tuple[float, tuple[str, str]]] = deque()

    def admit(self, party: Party | None, proof: RequestProof, method: str, target: str, body: bytes) -> Party:
        """The sender, if the request is theirs, fresh and new.

        Raises: UnknownSender, BadSignature, StaleRequest, Replayed.
        """
        if party is None:
            raise UnknownSender()
        now = self._clock()
        verify_request(party.public_key, proof, method, target, body, now=now)
        if proof.time < self._started:
            raise StaleRequest(theirs=proof.time, ours=int(now))
        self._remember((proof.sender, proof.nonce), now)
        return party

    def _remember(self, nonce: tuple[str, str], now: float) -> None:
        while self._order and self._order[0][0] < now - 2 * FRESHNESS_S:
            self._seen.discard(self._order.popleft()[1])
        if nonce in self._seen:
            raise Replayed()
        self._seen.add(nonce)
        self._order.append((now, nonce))


async def read_body(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is known to be too large.

    Raises: TooLarge, EncodedBody, BrokenOff.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise EncodedBody()
    declared = request.headers.get("content-length", "0")
    if not (declared.isdecimal() and len(declared) < 20 and int(declared) <= limit):
        raise TooLarge(limit=limit)
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                raise TooLarge(limit=limit)
    except ClientDisconnect as error:
        raise BrokenOff() from error
    return bytes(body)


def signed_target(request: Request) -> str:
    """Path and query exactly as they were sent: what the sender signed."""
    path: str = request.scope["raw_path"].decode("latin-1")
    query: str = request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path
