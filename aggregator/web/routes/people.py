"""Routes for people and monitors: status as JSON, health, metrics. Nothing here changes anything."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from aggregator.storage.register import Role
from aggregator.telling.audit_file import as_json
from aggregator.web.problems import CONFLICT, SIGNED, refusals
from aggregator.web.routes.parameters import READING, After, PlanId, answers
from aggregator.web.service import service_of
from aggregator.web.standby import reading_of
from medveil.reports import PlanLine, PlanStatus

router = APIRouter(tags=[READING])
OVERVIEW = (Role.ADMIN, Role.RESEARCHER, Role.AUDITOR)
STATUS = ("hospital", *OVERVIEW)
EVERYBODY = (*STATUS, Role.MONITOR)


@router.get("/openapi.json", include_in_schema=False)
async def description(request: Request) -> dict[str, Any]:
    """The OpenAPI document, for everybody who has a key or a token."""
    await service_of(request).callers.authenticate(request, roles=EVERYBODY)
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/healthz", responses=refusals())
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/leadz", status_code=204, responses=refusals())
async def leads(request: Request) -> Response:
    """Whether this process leads: a proxy in front asks, before it lets a large body through to it."""
    service_of(request)
    return Response(status_code=204)


@router.get("/readyz", responses=refusals())
async def ready(request: Request) -> dict[str, str]:
    """Whether database, blobs and the coordinator take work; 503 names those that do not."""
    await service_of(request).check_ready()
    return {"status": "ready"}


@router.get(
    "/metrics",
    response_class=Response,
    responses=answers("text/plain") | refusals(*SIGNED, *CONFLICT),
)
async def metrics(request: Request) -> Response:
    """Counts for Prometheus, of a process that stands by too; for the roles monitor and admin."""
    await reading_of(request).callers.authenticate(request, roles=(Role.MONITOR, Role.ADMIN))
    service, page = request.app.state.service, request.app.state.metrics.page
    text, media_type = await (asyncio.to_thread(page) if service is None else service.run(page))
    return Response(text, media_type=media_type)


@router.get("/v1/status", responses=refusals(*SIGNED, *CONFLICT))
async def overview(request: Request) -> list[PlanLine]:
    """One line per plan that the asking person may read."""
    reading = reading_of(request)
    party, _ = await reading.callers.authenticate(request, roles=OVERVIEW)
    return await reading.overview(party)


@router.get("/v1/audit", responses=refusals(*SIGNED, *CONFLICT))
async def audit(request: Request, after: After = 0) -> list[dict[str, Any]]:
    """The audit log from number ``after`` + 1 on, a hundred entries at a time; each can be checked."""
    service = service_of(request)
    await service.callers.authenticate(request, roles=(Role.AUDITOR, Role.ADMIN))
    return [as_json(entry) for entry in await service.audit_entries(after)]


@router.get("/v1/plans/{plan}/status", response_model=PlanStatus, responses=refusals(*SIGNED, *CONFLICT))
async def status(request: Request, plan: PlanId) -> Response:
    """A plan's attempts, model versions, approvals and open phase."""
    reading = reading_of(request)
    await reading.callers.reader(request, plan, roles=STATUS)
    return Response(await reading.status(plan), media_type="application/json")
