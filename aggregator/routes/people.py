"""Routes for people and monitors: status as JSON, health."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from aggregator.routes.desk import desk
from aggregator.routes.hospitals import PlanId

router = APIRouter()


@router.get("/healthz")
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/v1/status")
async def overview(request: Request) -> list[dict[str, Any]]:
    """One line per plan, for researchers."""
    office = desk(request)
    await office.authenticate(request, roles=("researcher",))
    return await office.run(office.coordinator.plans)


@router.get("/v1/plans/{plan}/status")
async def status(request: Request, plan: PlanId) -> dict[str, Any]:
    """A plan's attempts, model versions, approvals and open phase."""
    office = desk(request)
    await office.admit_reader(request, plan)
    return await office.run(lambda: office.coordinator.status(plan))
