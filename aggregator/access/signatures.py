"""Who is asking: the request's signature against the enrolled keys, and no request twice.

The signature is checked before the body is read, so that only somebody who is enrolled can make the
aggregator read much. People may show an API token instead (:mod:`aggregator.access.tokens`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from aggregator.access.nonces import EarlyNonces, Used
from aggregator.storage.register import Party
from medveil.errors import RemoteProtocolError
from medveil.identity import FRESHNESS_S, BadSignature, Identity, RequestProof, verify_head

_NOBODY = Identity.generate("nobody").public_key
"""What a request in an unknown name is checked against."""


class UnknownSender(RemoteProtocolError):
    """Nobody of that name is enrolled, or the request was not signed with that one's key."""

    code = "unknown-sender"

    def __init__(self) -> None:
        super().__init__(
            what="No sender of this name and key is enrolled here.",
            meaning="The request was not looked at. Which of the two is wrong is told to nobody.",
            remedy="Enrol first, with a one-time token (hospitals: medveil node enroll TOKEN). If that is "
            "done, check that the key is the enrolled one and that no proxy rewrites requests.",
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

        A name that nobody has costs the same work and gets the same answer as a wrong key.

        Raises: UnknownSender, StaleRequest, Revoked, SignedBeforeStart, Replayed.
        """
        now = self._clock()
        key = _NOBODY if party is None else party.public_key
        try:
            verify_head(key, proof, method, target, now=now)
        except BadSignature as error:
            raise UnknownSender() from error
        if party is None:  # nobody has that private key
            raise UnknownSender()
        if party.revoked:
            raise Revoked()
        if proof.time < self._started:
            raise SignedBeforeStart(retry_after_s=self._started - proof.time)
        self._remember((proof.sender, proof.nonce), now)
        return party

    def admit_newcomer(self, key: bytes, proof: RequestProof, method: str, target: str) -> None:
        """Check that the request's head is signed with the key that it brings, and is fresh.

        Nothing is remembered, or strangers could fill the memory: a token works once in any case.

        Raises: BadSignature, StaleRequest.
        """
        verify_head(key, proof, method, target, now=self._clock())

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
