"""What every route needs: the coordinator's thread, who is asking, and the signal for long polls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from aggregator.auth import Gatekeeper, Revoked, read_body, signed_target
from aggregator.coordinator import Coordinator
from aggregator.limits import BodyMemory, Quotas, leases_of
from aggregator.problems import NotAllowed, NotFound
from aggregator.settings import Settings
from aggregator.store import Party, Register, Store
from aggregator.tls import WrongCertificate
from aggregator.tokens import BadToken, TokenCheck
from medveil.identity import RequestProof

T = TypeVar("T")
CERTIFICATE = "medveil.certificate"
"""Key of the ASGI state under which the connection keeps the names of its client certificate."""
SMALL_LIMIT = 4096
MESSAGE_LIMIT = 4 * 2**20
SEGMENT_LIMIT = 16 * 2**20
POLL_LIMIT_S = 30.0


class Desk:
    """Ties the routes to one coordinator. All its calls run on one thread, one after the other."""

    def __init__(
        self, store: Store, coordinator: Coordinator, gatekeeper: Gatekeeper, settings: Settings
    ) -> None:
        self.store, self.coordinator, self.gatekeeper = store, coordinator, gatekeeper
        self.register = Register(store)
        self.tokens = TokenCheck(lambda token: self._look_up(lambda: self.register.api_token(token)))
        self.quotas, self.memory = Quotas(settings.limits), BodyMemory(settings.limits)
        self.client_certificates = settings.client_certificates
        self.tls = settings.folder / "tls"
        self._thread = ThreadPoolExecutor(1, "coordinator")
        self._lookups = ThreadPoolExecutor(2, "register")
        self._changed = asyncio.Event()
        self.stopping = False

    async def run(self, action: Callable[[], T]) -> T:
        """Run on the coordinator's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, action)

    def announce(self) -> None:
        """Wake every long poll."""
        self._changed.set()
        self._changed = asyncio.Event()

    def stop_waiting(self) -> None:
        """Answer every long poll now, and every later one at once: the process is about to end."""
        self.stopping = True
        self.announce()

    async def next_change(self, timeout_s: float) -> None:
        """Wait until something changes, at most ``timeout_s``."""
        changed = self._changed
        try:
            await asyncio.wait_for(changed.wait(), timeout_s)
        except TimeoutError:
            return

    async def authenticate(
        self,
        request: Request,
        *,
        roles: tuple[str, ...],
        limit: int = MESSAGE_LIMIT,
        certificate: bool = True,
    ) -> tuple[Party, bytes]:
        """Who asks, and the body. Nothing of the body is read before the sender is known and allowed.

        Args:
            certificate: whether a hospital must show its client certificate, where they are asked for.
        Raises: BadSignature, StaleRequest, UnknownSender, Revoked, Replayed, BadToken, NotAllowed,
            WrongCertificate, TooManyRequests, Overloaded, TooLarge, BrokenOff.
        """
        if "authorization" in request.headers:
            party, proof = await self._by_token(request), None
        else:
            proof = RequestProof.from_headers(request.headers)
            known = await self._look_up(lambda: self.register.party(proof.sender))
            party = self.gatekeeper.admit(known, proof, request.method, signed_target(request))
        if party.role not in roles:
            raise NotAllowed()
        asked = certificate and self.client_certificates and party.role == "hospital"
        if asked and party.name not in request.scope.get("state", {}).get(CERTIFICATE, ()):
            raise WrongCertificate()
        leases = leases_of(request)
        self.quotas.admit(party.name, leases)
        body = await read_body(request, limit, self.memory, leases)
        if proof is not None:
            proof.check_body(body)
        if party.role == "hospital":
            self.coordinator.touch(party.name)
        return party, body

    async def _by_token(self, request: Request) -> Party:
        if "medveil-signature" in request.headers:
            raise BadToken()  # two answers to the question who asks
        token = await self.tokens.check(request.headers["authorization"])
        return Party(token.name, token.role, b"")

    async def still_welcome(self, party: Party) -> None:
        """Look again after a wait. Raises: Revoked."""
        found = await self._look_up(lambda: self.register.party(party.name))
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
        return await self._look_up(lambda: self.register.readable(party.name))

    def gauges(self) -> dict[str, dict[str, float]]:
        """The present state in numbers, for the metrics; no hospital has a line of its own."""
        plans = self.coordinator.plans()
        finished = sum(bool(p["finished"]) for p in plans)
        return {
            "plans": {"finished": finished, "open": len(plans) - finished},
            "requests_in_hand": {"now": self.quotas.in_hand},
            "body_bytes": {"reserved": self.memory.used},
        }

    async def _look_up(self, question: Callable[[], T]) -> T:
        """Read the register without waiting for the coordinator's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._lookups, question)

    def close(self) -> None:
        """Finish the work in hand and stop."""
        self.tokens.close()
        self._lookups.shutdown()
        self._thread.shutdown()
        self.store.close()


def desk(request: Request) -> Desk:
    """The application's desk."""
    found: Desk = request.app.state.desk
    return found
