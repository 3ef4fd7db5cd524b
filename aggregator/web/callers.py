"""Who asks, and may they: signatures, tokens, client certificates, roles and grants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from aggregator.access.signatures import Gatekeeper, Revoked, UnknownSender
from aggregator.access.tls import WrongCertificate
from aggregator.access.tokens import BadToken, TokenCheck
from aggregator.errors import NotAllowed, NotFound
from aggregator.rounds.status import PlanReader
from aggregator.settings import Settings
from aggregator.storage.editions import Remembered
from aggregator.storage.register import Party, Register, Role
from aggregator.web.bodies import BodyMemory, read_body
from aggregator.web.limits import Newcomers, Quotas, leases_of
from aggregator.work.threads import Lookups
from medveil.identity import RequestProof
from medveil.software import HEADER

CERTIFICATE = "medveil.certificate"
"""Key of the ASGI state under which the connection keeps the names of its client certificate."""
SMALL_LIMIT = 4096
ENROLMENT_LIMIT = 256


@dataclass(frozen=True)
class Sender:
    """Who has sent a request, and its signature if it did not show a token."""

    party: Party
    proof: RequestProof | None
    version: str = ""
    """Of its software, by its own word."""


class Callers:
    """Everybody who asks. Nothing of a body is read before its sender is known and allowed.

    Args:
        heard_from: told of a hospital whose request was whole.
    """

    def __init__(
        self,
        register: Register,
        lookups: Lookups,
        gatekeeper: Gatekeeper,
        settings: Settings,
        plans: PlanReader,
        *,
        heard_from: Callable[[Sender], None],
    ) -> None:
        self.register, self.gatekeeper = register, gatekeeper
        self.tokens = TokenCheck(lambda token: lookups.ask(lambda: register.api_token(token)))
        self.quotas, self.memory = Quotas(settings.limits), BodyMemory(settings.limits)
        self.newcomers = Newcomers(settings.limits)
        self._lookups, self._client_certificates = lookups, settings.client_certificates
        self._plans, self._heard_from = plans, heard_from
        self._known = Remembered[Party](register.edition)

    async def authenticate(
        self,
        request: Request,
        *,
        roles: tuple[str, ...],
        limit: int = SMALL_LIMIT,
        certificate: bool = True,
    ) -> tuple[Party, bytes]:
        """Who asks, and the body.

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
        asked = certificate and self._client_certificates and party.role == "hospital"
        if asked and party.name not in request.scope.get("state", {}).get(CERTIFICATE, ()):
            raise WrongCertificate()
        self.quotas.admit(party.name, leases_of(request))
        if proof is not None and self.gatekeeper.outlives(proof):
            lasting = proof
            await self._lookups.ask(lambda: self.gatekeeper.keep(lasting))
        return Sender(party, proof, request.headers.get(HEADER, ""))

    async def body(self, request: Request, sender: Sender, *, limit: int) -> bytes:
        """The body of a sender who is known. Raises: TooLarge, Overloaded, BrokenOff, BadSignature."""
        party, proof = sender.party, sender.proof
        body = await read_body(request, limit, self.memory, leases_of(request), sender=party.name)
        if proof is not None:
            proof.check_body(body)
        if party.role == "hospital":
            self._heard_from(sender)
        return body

    async def newcomer(self, request: Request, key: bytes) -> tuple[Party, bytes]:
        """Somebody who is not enrolled yet and signs with the key to be enrolled; and the body.

        Raises: BadSignature, StaleRequest, what :meth:`body` raises.
        """
        proof = RequestProof.from_headers(request.headers)
        self.gatekeeper.admit_newcomer(key, proof, request.method, signed_target(request))
        body = await read_body(request, ENROLMENT_LIMIT, self.memory, leases_of(request), sender="")
        proof.check_body(body)
        return Party(proof.sender, "newcomer", key), body

    async def reader(
        self,
        request: Request,
        plan: str,
        *,
        roles: tuple[str, ...] = ("hospital", Role.RESEARCHER, Role.ADMIN),
    ) -> Party:
        """Who asks, if they may read this plan.

        Hospitals read plans that name them, researchers those granted to them, the others all.

        Raises: NotFound, exactly as for a plan that does not exist; what :meth:`authenticate` raises.
        """
        party, _ = await self.authenticate(request, roles=roles)
        if party.role == "hospital":
            asked = await self._lookups.ask(lambda: self._plans.plan(plan))
            if asked.member(party.name) is None:
                raise NotFound()
        elif party.role == "researcher" and plan not in await self.readable(party):
            raise NotFound()
        return party

    async def check_granted(self, party: Party, plan: str) -> None:
        """Whether a relay may add a plan's vectors. Raises: NotFound, as for a plan that does not exist."""
        if plan not in await self.readable(party):
            raise NotFound()

    async def readable(self, party: Party) -> set[str]:
        """The plans granted to a researcher or a relay."""
        return await self._lookups.ask(lambda: self.register.readable(party.name))

    async def still_welcome(self, party: Party) -> None:
        """Look again after a wait. Raises: Revoked."""
        _check_welcome(await self._enrolled(party.name))

    def is_remembered(self, party: Party) -> bool:
        """Whether what is known of somebody is as new as a look at the register."""
        known = self._known.get(party.name)
        return known is not None and not known.revoked

    def check_enrolled(self, party: Party) -> None:
        """:meth:`still_welcome` for a thread that may wait for the database. Raises: Revoked."""
        _check_welcome(self.register.party(party.name))

    async def _by_signature(self, request: Request, proof: RequestProof) -> Party:
        """Whose signature it is. The time of a refusal does not tell whether there is somebody of that name.

        Raises: what :meth:`Gatekeeper.admit` raises.
        """
        remembered = self._known.get(proof.sender)
        known = remembered or await self._enrolled(proof.sender)
        try:
            return self.gatekeeper.admit(known, proof, request.method, signed_target(request))
        except UnknownSender:
            if remembered is not None:
                await self._lookups.ask(lambda: self.register.party(proof.sender))
            raise

    async def _by_token(self, request: Request) -> Party:
        if "medveil-signature" in request.headers:
            raise BadToken()  # two answers to the question who asks
        token = await self.tokens.check(request.headers["authorization"])
        return Party(token.name, token.role, b"")

    async def _enrolled(self, name: str) -> Party | None:
        """Somebody with a key as the register has them at this moment.

        What was read before is used again only if nobody has been enrolled or revoked since, by anybody.
        """
        remembered = self._known.get(name)
        if remembered is not None:
            return remembered
        found, edition = await self._lookups.ask(lambda: self.register.party_as_of(name))
        self._known.keep(name, found, edition)
        return found


def _check_welcome(found: Party | None) -> None:
    if found is None or found.revoked:
        raise Revoked()


def signed_target(request: Request) -> str:
    """Path and query exactly as they were sent: what the sender signed."""
    path: str = request.scope["raw_path"].decode("latin-1")
    query: str = request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def address_of(request: Request) -> str:
    """The network address of whoever asks; empty if it is not known."""
    return request.client.host if request.client else ""
