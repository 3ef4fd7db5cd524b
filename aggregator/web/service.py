"""What every route needs: the coordinator's thread, who is asking, and the signal for long polls."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from aggregator.access.signatures import Gatekeeper, Revoked, UnknownSender, read_body, signed_target
from aggregator.access.tls import WrongCertificate
from aggregator.access.tokens import BadToken, TokenCheck
from aggregator.errors import NotAllowed, NotFound
from aggregator.rounds.coordinator import Coordinator
from aggregator.rounds.runs import SegmentClaim
from aggregator.settings import Settings
from aggregator.storage.store import NotLeading, Party, Register, Role, Store, TokenRefused
from aggregator.web.limits import BodyMemory, Newcomers, Quotas, leases_of
from aggregator.web.longpolls import LongPolls
from aggregator.web.readiness import Readiness
from aggregator.work.threads import Pulse, breaking_off, in_thread
from medveil.identity import RequestProof
from medveil.reports import AttemptReport, PlanStatus
from medveil.rounds import ModelVersion

T = TypeVar("T")
CERTIFICATE = "medveil.certificate"
"""Key of the ASGI state under which the connection keeps the names of its client certificate."""
SMALL_LIMIT = 4096
ENROLMENT_LIMIT = 256
MESSAGE_LIMIT = 4 * 2**20
SEGMENT_LIMIT = 16 * 2**20
POLL_LIMIT_S = 30.0
LEAD_CHECK_S = 1.0
PIECE = 2**20
_PLAIN_NUMBER = re.compile("0|[1-9][0-9]{0,15}")


@dataclass(frozen=True)
class Sender:
    """Who has sent a request, and its signature if it did not show a token."""

    party: Party
    proof: RequestProof | None


class Desk:
    """Ties the routes to one coordinator. All its calls run on one thread, one after the other."""

    def __init__(
        self, store: Store, coordinator: Coordinator, gatekeeper: Gatekeeper, settings: Settings
    ) -> None:
        self.store, self.coordinator, self.gatekeeper = store, coordinator, gatekeeper
        self.register = Register(store)
        self.tokens = TokenCheck(lambda token: self.look_up(lambda: self.register.api_token(token)))
        self.readiness = Readiness({"database": store.probe, "blobs": coordinator.probe_blobs})
        self.quotas, self.memory = Quotas(settings.limits), BodyMemory(settings.limits)
        self.newcomers = Newcomers(settings.limits)
        self._known: dict[str, Party] = {}
        self._known_at = 0
        self._pasts: dict[str, tuple[int, bytes]] = {}
        self.client_certificates = settings.client_certificates
        self.tls = settings.folder / "tls"
        self._thread = ThreadPoolExecutor(1, "coordinator")
        self._lookups = ThreadPoolExecutor(2, "register")
        self._strangers = ThreadPoolExecutor(1, "newcomers")
        self._segments = ThreadPoolExecutor(4, "segments")
        self.polls = LongPolls(coordinator.token)
        self.stopping = False
        self._hurry = asyncio.Event()
        self._lead_seen = time.monotonic()
        self._pulse = Pulse()

    async def run(self, action: Callable[[], T]) -> T:
        """Run on the coordinator's thread; what the coordinator remembers is then what the store holds.

        Raises: NotLeading at the latest a second after another process has taken the lead; NotReady if the
        thread hangs.
        """
        self._pulse.check()
        return await self._on_thread(action)

    async def tick(self) -> bool:
        """One tick of the clock; whether anything changed. Raises: what :meth:`Coordinator.tick` raises."""
        try:
            return await breaking_off(self._on_thread(self.coordinator.tick), self.store.break_off)
        finally:
            self._pulse.beat()

    async def check_ready(self) -> None:
        """Raises: NotReady with the parts that do not work."""
        self._pulse.check()
        await self.readiness.check()

    def _on_thread(self, action: Callable[[], T]) -> asyncio.Future[T]:
        def safely() -> T:
            if time.monotonic() - self._lead_seen > LEAD_CHECK_S:
                self.store.check_lead()
                self._lead_seen = time.monotonic()
            if self.store.in_doubt:
                self.coordinator.start_over()
            return action()

        return in_thread(self._thread, safely)

    async def keep_segment(self, claim: SegmentClaim, data: bytes) -> None:
        """Write a claimed segment while the coordinator's thread does other things: storage may be slow.

        Raises: StorageFailed, WrongRound.
        """
        try:
            await self.with_segments(lambda: self.coordinator.keep_segment(claim, data))
        finally:
            await self.run(lambda: self.coordinator.settle_segment(claim))

    async def with_segments(self, action: Callable[[], T]) -> T:
        """Run something that reads or writes whole segments, a few at a time."""
        return await in_thread(self._segments, action)

    @property
    def surely_leads(self) -> bool:
        """Whether nothing but memory need be asked for an answer that is no more than a second old."""
        return time.monotonic() - self._lead_seen <= LEAD_CHECK_S

    def announce(self) -> None:
        """Wake the long polls of every plan that has gone on."""
        self.polls.announce()

    def stop_waiting(self) -> None:
        """Answer every long poll now, and every later one at once: the process is about to end."""
        self.stopping = True
        self.polls.stop()

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until :meth:`hurry` is called."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for would lose a cancellation that comes with a hurry
                await self._hurry.wait()
        self._hurry.clear()

    def hurry(self) -> None:
        """There is something for the clock to do."""
        self._hurry.set()

    async def authenticate(
        self,
        request: Request,
        *,
        roles: tuple[str, ...],
        limit: int = SMALL_LIMIT,
        certificate: bool = True,
    ) -> tuple[Party, bytes]:
        """Who asks, and the body. Nothing of the body is read before the sender is known and allowed.

        Raises: what :meth:`admit` and :meth:`body` raise.
        """
        sender = await self.admit(request, roles=roles, certificate=certificate)
        return sender.party, await self.body(request, sender, limit=limit)

    async def admit(self, request: Request, *, roles: tuple[str, ...], certificate: bool = True) -> Sender:
        """Who asks, by the request's head alone.

        Args:
            certificate: whether a hospital must show its client certificate, where they are asked for.
        Raises: BadSignature, StaleRequest, SignedBeforeStart, UnknownSender, Revoked, Replayed, BadToken,
            NotAllowed, WrongCertificate, TooManyRequests, StorageFailed.
        """
        if "authorization" in request.headers:
            party, proof = await self._by_token(request), None
        else:
            proof = RequestProof.from_headers(request.headers)
            party = await self._by_signature(request, proof)
        if party.role not in roles:
            raise NotAllowed()
        asked = certificate and self.client_certificates and party.role == "hospital"
        if asked and party.name not in request.scope.get("state", {}).get(CERTIFICATE, ()):
            raise WrongCertificate()
        self.quotas.admit(party.name, leases_of(request))
        if proof is not None and self.gatekeeper.outlives(proof):
            kept = proof
            await self.look_up(lambda: self.gatekeeper.keep(kept))
        return Sender(party, proof)

    async def body(self, request: Request, sender: Sender, *, limit: int) -> bytes:
        """The body of a sender who is known. Raises: TooLarge, Overloaded, BrokenOff, BadSignature."""
        party, proof = sender.party, sender.proof
        body = await read_body(request, limit, self.memory, leases_of(request), sender=party.name)
        if proof is not None:
            proof.check_body(body)
        if party.role == "hospital":
            self.coordinator.touch(party.name)
        return body

    async def _by_signature(self, request: Request, proof: RequestProof) -> Party:
        """Whose signature it is. The time of a refusal does not tell whether there is somebody of that name.

        Raises: what :meth:`Gatekeeper.admit` raises.
        """
        remembered = self._remembered(proof.sender)
        known = remembered or await self._enrolled(proof.sender)
        try:
            return self.gatekeeper.admit(known, proof, request.method, signed_target(request))
        except UnknownSender:
            if remembered is not None:
                await self.look_up(lambda: self.register.party(proof.sender))
            raise

    def _remembered(self, name: str) -> Party | None:
        """Somebody whom the register was asked for since the database was written last."""
        written = self.store.last_write
        return self._known.get(name) if written is not None and written == self._known_at else None

    async def _enrolled(self, name: str) -> Party | None:
        """Somebody with a key as the register has them at this moment.

        What was read before is used again only if the database was not written since, by anybody.
        """
        remembered = self._remembered(name)
        if remembered is not None:
            return remembered
        written = self.store.last_write
        found = await self.look_up(lambda: self.register.party(name))
        if written is not None and found is not None:
            if written != self._known_at:
                self._known, self._known_at = {}, written
            self._known[name] = found
        return found

    async def _by_token(self, request: Request) -> Party:
        if "medveil-signature" in request.headers:
            raise BadToken()  # two answers to the question who asks
        token = await self.tokens.check(request.headers["authorization"])
        return Party(token.name, token.role, b"")

    async def still_welcome(self, party: Party) -> None:
        """Look again after a wait. Raises: Revoked."""
        found = await self._enrolled(party.name)
        if found is None or found.revoked:
            raise Revoked()

    async def may_read(self, party: Party, plan: str) -> None:
        """Hospitals read plans that name them, researchers those granted to them, the others all.

        Raises: NotFound, exactly as for a plan that does not exist.
        """
        if party.role == "hospital":
            await self.run(lambda: self.coordinator.may_see(plan, party.name, party.role))
        elif party.role == "researcher" and plan not in await self.readable(party):
            raise NotFound()

    async def readable(self, party: Party) -> set[str]:
        """The plans granted to a researcher."""
        return await self.look_up(lambda: self.register.readable(party.name))

    async def past(self, plan: str, ended: int) -> bytes:
        """A plan's history as JSON, kept until another attempt has ended."""
        known = self._pasts.get(plan)
        if known is None or known[0] != ended:
            known = ended, await self.look_up(lambda: _as_json(*self.coordinator.past(plan)))
            self._pasts[plan] = known
        return known[1]

    def gauges(self) -> dict[str, dict[str, float]]:
        """The present state in numbers, for the metrics; no hospital has a line of its own."""
        plans = self.coordinator.plans()
        finished = sum(p.finished for p in plans)
        return {
            "plans": {"finished": finished, "open": len(plans) - finished},
            "requests_in_hand": {"now": self.quotas.in_hand},
            "body_bytes": {"reserved": self.memory.used},
        }

    async def look_up(self, question: Callable[[], T]) -> T:
        """Read the register without waiting for the coordinator's thread."""
        return await breaking_off(in_thread(self._lookups, question), self.store.break_off)

    async def enrol(self, token: str, newcomer: Party) -> None:
        """Let a newcomer in. The coordinator's thread hears only of tokens that are there for this name.

        Raises: TokenRefused, AlreadyThere.
        """
        asked = in_thread(self._strangers, lambda: self.register.opens(token, newcomer.name))
        if not await breaking_off(asked, self.store.break_off):
            raise TokenRefused()
        name, key = newcomer.name, newcomer.public_key
        await self.run(lambda: self.store.enrol(token, name=name, public_key=key, now=time.time()))

    async def admit_reader(
        self,
        request: Request,
        plan: str,
        *,
        roles: tuple[str, ...] = ("hospital", Role.RESEARCHER, Role.ADMIN),
    ) -> Party:
        """Who asks, if they may read this plan. Raises: NotFound, what :meth:`authenticate` raises."""
        party, _ = await self.authenticate(request, roles=roles, limit=SMALL_LIMIT)
        await self.may_read(party, plan)
        return party

    def stream(self, plan: str, party: Party, file: BinaryIO) -> Response:
        """A file piece by piece: many may fetch a large one at the same time."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.coordinator.count_bytes(plan, party.name, up=0, down=size)
        headers = {"content-length": str(size)}
        return StreamingResponse(_pieces(file), media_type="application/octet-stream", headers=headers)

    def close(self) -> None:
        """Finish the work in hand and stop; what hangs at the database is broken off."""
        if self._pulse.silent:
            self.store.break_off()
        self.readiness.close()
        self.tokens.close()
        self._lookups.shutdown()
        self._strangers.shutdown()
        self._segments.shutdown()
        self._thread.shutdown()
        self.store.close()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


def _as_json(attempts: Iterable[AttemptReport], versions: Iterable[ModelVersion]) -> bytes:
    """As JSON, item by item: ten thousand rounds at once would stop every other thread."""
    told = b",".join(report.model_dump_json().encode() for report in attempts)
    return b'"attempts":[%b],"versions":[%b]}' % (
        told,
        b",".join(version.model_dump_json().encode() for version in versions),
    )


def with_history(present: PlanStatus, history: bytes) -> bytes:
    """A whole :class:`PlanStatus` as JSON, out of what the plan does now and :meth:`Desk.past`."""
    now = present.model_dump_json(exclude={"attempts", "versions"}).encode()
    return now[:-1] + b"," + history


def plain_number(text: object) -> object:
    """A number in an address, if it has its one spelling: no sign, space, leading zero or underscore.

    Raises: ValueError, which the web framework answers as ``bad-request``.
    """
    if isinstance(text, str) and not _PLAIN_NUMBER.fullmatch(text):
        raise ValueError("not the one spelling of a number")
    return text


def desk(request: Request) -> Desk:
    """The application's desk. Raises: NotLeading while another process leads."""
    found: Desk | None = request.app.state.desk
    if found is None:
        raise NotLeading()
    return found
