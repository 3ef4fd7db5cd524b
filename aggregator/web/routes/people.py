"""Routes for people and monitors: status as JSON, health, metrics. Nothing here changes anything."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator

from aggregator.errors import NotFound
from aggregator.storage.store import Role
from aggregator.web.problems import CONFLICT, SIGNED, refusals
from aggregator.web.routes.hospitals import PlanId
from aggregator.web.service import SMALL_LIMIT, desk, plain_number, with_history
from medveil.reports import PlanLine, PlanStatus

TAG = "reading"
"""Marks what people may ask for with a token."""
router = APIRouter(tags=[TAG])
TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
OVERVIEW = (Role.ADMIN, Role.RESEARCHER, Role.AUDITOR)
After = Annotated[int, BeforeValidator(plain_number), Query(ge=0, le=2**53)]
STATUS = ("hospital", *OVERVIEW)
EVERYBODY = (*STATUS, Role.MONITOR)


@router.get("/openapi.json", include_in_schema=False)
async def description(request: Request) -> dict[str, Any]:
    """The OpenAPI document, for everybody who has a key or a token."""
    await desk(request).authenticate(request, roles=EVERYBODY)
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/healthz", responses=refusals())
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/leadz", status_code=204, responses=refusals())
async def leads(request: Request) -> Response:
    """Whether this process leads: a proxy in front asks, before it lets a large body through to it."""
    desk(request)
    return Response(status_code=204)


@router.get("/readyz", responses=refusals())
async def ready(request: Request) -> dict[str, str]:
    """Whether database, blobs and the coordinator take work; 503 names those that do not."""
    await desk(request).check_ready()
    return {"status": "ready"}


@router.get(
    "/metrics",
    response_class=Response,
    responses=TEXT | refusals(*SIGNED, *CONFLICT),
)
async def metrics(request: Request) -> Response:
    """Counts for Prometheus; for the roles monitor and admin."""
    office = desk(request)
    await office.authenticate(request, roles=(Role.MONITOR, Role.ADMIN), limit=SMALL_LIMIT)
    text, media_type = await office.run(request.app.state.metrics.page)
    return Response(text, media_type=media_type)


@router.get("/v1/status", responses=refusals(*SIGNED, *CONFLICT))
async def overview(request: Request) -> list[PlanLine]:
    """One line per plan that the asking person may read."""
    office = desk(request)
    party, _ = await office.authenticate(request, roles=OVERVIEW, limit=SMALL_LIMIT)
    lines = await office.run(office.coordinator.plans)
    if party.role == Role.RESEARCHER:
        readable = await office.readable(party)
        return [line for line in lines if line.plan in readable]
    return lines


@router.get("/v1/audit", responses=refusals(*SIGNED, *CONFLICT))
async def audit(
    request: Request, after: Annotated[int, BeforeValidator(plain_number), Query(ge=0, le=2**53)] = 0
) -> list[dict[str, Any]]:
    """The audit log from number ``after`` + 1 on, a hundred entries at a time; each can be checked."""
    office = desk(request)
    await office.authenticate(request, roles=(Role.AUDITOR, Role.ADMIN), limit=SMALL_LIMIT)
    entries = await office.look_up(lambda: list(islice(office.store.entries(after), 100)))
    return [
        {
            "number": entry.number,
            "time_ms": entry.time_ms,
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "details": dict(entry.details),
            "previous": entry.previous.hex(),
            "hash": entry.hash.hex(),
            "signature": entry.signature.hex(),
        }
        for entry in entries
    ]


@router.get("/v1/plans/{plan}/status", response_model=PlanStatus, responses=refusals(*SIGNED, *CONFLICT))
async def status(request: Request, plan: PlanId) -> Response:
    """A plan's attempts, model versions, approvals and open phase."""
    office = desk(request)
    await office.admit_reader(request, plan, roles=STATUS)
    found = office.coordinator.glance(plan)
    if found is None:
        await office.run(lambda: office.coordinator.present(plan))
        found = office.coordinator.glance(plan)
    if found is None:
        raise NotFound()
    present, ended = found
    history = await office.past(plan, ended)
    return Response(with_history(present, history), media_type="application/json")
