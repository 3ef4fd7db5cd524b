"""The relay's FastAPI application: it takes what a hospital would send to the aggregator, for its region."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response

from aggregator.access.signatures import Gatekeeper
from aggregator.relay.line import UpstreamLine
from aggregator.relay.relay import Relay
from aggregator.relay.settings import RelayFolder
from aggregator.relay.watched import check_token, monitor_token, relay_gauges
from aggregator.settings import Limits
from aggregator.storage.register import Party
from aggregator.web.bodies import BodyMemory, read_body
from aggregator.web.callers import signed_target
from aggregator.web.exchanges import MESSAGE_LIMIT, SEGMENT_LIMIT
from aggregator.web.limits import Gate, Quotas, leases_of
from aggregator.web.metrics import Metrics
from aggregator.web.problems import bare_app
from aggregator.web.routes.parameters import CBOR, Number, PlanId, Segment, WaitS
from medveil.identity import Identity, RequestProof
from medveil.relaying import Uploader
from medveil.rounds import AttemptKey


class Door:
    """Who asks the relay, and may they: hospitals of the region that the open attempt waits for."""

    def __init__(self, relay: Relay, limits: Limits) -> None:
        self.relay = relay
        self._gatekeeper, self._quotas, self._memory = Gatekeeper(), Quotas(limits), BodyMemory(limits)

    async def admit(self, request: Request, key: AttemptKey, *, limit: int) -> tuple[Uploader, bytes]:
        """Who sends this, and the body.

        Raises: NotInRegion, RelayClosed, what the gatekeeper, the quotas and reading raise.
        """
        proof = RequestProof.from_headers(request.headers)
        sender = await self.relay.uploader(key, proof.sender)
        party = Party(sender.name, "hospital", sender.key)
        self._gatekeeper.admit(party, proof, request.method, signed_target(request))
        self._quotas.admit(sender.name, leases_of(request))
        body = await read_body(request, limit, self._memory, leases_of(request), sender=sender.name)
        proof.check_body(body)
        return sender, body


def create_app(folder: RelayFolder, limits: Limits | None = None) -> FastAPI:
    """A relay over the folder that ``medveil aggregator relay init`` made."""
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        identity = Identity.load(folder.settings.name, folder.key)
        told = folder.settings
        line = UpstreamLine(told.aggregator, folder.authority, identity, proxy=told.proxy)
        relay = Relay(folder.held, identity, folder.settings.hospitals, line)
        app.state.door = Door(relay, limits)
        app.state.token = monitor_token(folder.token)
        yield
        await relay.close()
        await line.close()

    app = bare_app("MedVeil relay", lifespan)
    app.state.service = None
    app.state.token = ""
    app.state.metrics = Metrics(tls=folder.tls, disk=folder.folder)
    app.state.metrics.show(lambda: relay_gauges(_door(app).relay, len(folder.settings.hospitals)))
    app.add_middleware(Gate, limits=limits, observe=app.state.metrics.request)
    _add_routes(app)
    return app


def _add_routes(app: FastAPI) -> None:
    @app.get("/healthz", status_code=204)
    async def healthz() -> Response:
        return Response(status_code=204)

    @app.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """Counts for Prometheus, which shows the token of ``monitor.token``."""
        check_token(request.headers.get("authorization", ""), request.app.state.token)
        text, media_type = request.app.state.metrics.page()
        return Response(text, media_type=media_type)

    @app.get("/v1/relay", response_class=Response)
    async def who(request: Request) -> Response:
        """The relay's name and key: a hospital signs that its vector goes to it."""
        return Response(_door(request.app).relay.identity.to_bytes(), media_type=CBOR)

    @app.put("/v1/plans/{plan}/rounds/{number}/attempts/{attempt}/segments/{segment}", status_code=204)
    async def segment(
        request: Request, plan: PlanId, number: Number, attempt: Number, segment: Segment
    ) -> Response:
        """One segment of a masked vector."""
        door, key = _door(request.app), AttemptKey(plan, number, attempt)
        sender, body = await door.admit(request, key, limit=SEGMENT_LIMIT)
        await door.relay.put_segment(key, sender.name, segment, body)
        return Response(status_code=204)

    @app.post("/v1/plans/{plan}/rounds/{number}/attempts/{attempt}/upload", response_class=Response)
    async def upload(
        request: Request, plan: PlanId, number: Number, attempt: Number, wait_s: WaitS = 0.0
    ) -> Response:
        """A hospital's word for its masked vector; the answer waits for the region."""
        door, key = _door(request.app), AttemptKey(plan, number, attempt)
        sender, body = await door.admit(request, key, limit=MESSAGE_LIMIT)
        held = await door.relay.hold(key, sender, body, wait_s=wait_s)
        return Response(held.to_bytes(), media_type=CBOR)


def _door(app: FastAPI) -> Door:
    found: Door = app.state.door
    return found
