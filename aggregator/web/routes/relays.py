"""Routes for a region's relay: what it is to add, the sum's segments, and who is in it (CBOR, raw bytes)."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from aggregator.web import exchanges
from aggregator.web.bodies import declared_length
from aggregator.web.exchanges import MESSAGE_LIMIT, RELAY, SEGMENT_LIMIT
from aggregator.web.problems import CONFLICT, SIGNED, refusals
from aggregator.web.routes.parameters import BYTES, CBOR, Number, PlanId, Segment, answers, takes
from aggregator.web.service import service_of
from medveil.rounds import AttemptKey

router = APIRouter(prefix="/v1/plans/{plan}/rounds/{number}/attempts/{attempt}/relayed")


@router.get("", response_class=Response, responses=answers(CBOR) | refusals(*SIGNED, *CONFLICT))
async def work(request: Request, plan: PlanId, number: Number, attempt: Number) -> Response:
    """Whose masked vectors the open attempt waits for, and how long they are."""
    service, key = service_of(request), AttemptKey(plan, number, attempt)
    party, _ = await service.callers.authenticate(request, roles=(RELAY,))
    await service.callers.check_granted(party, plan)
    found = await service.run(lambda: service.coordinator.intake.relay_work(key))
    return Response(found.to_bytes(), media_type=CBOR)


@router.put(
    "/segments/{segment}",
    status_code=204,
    responses=refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes(BYTES),
)
async def segment(
    request: Request, plan: PlanId, number: Number, attempt: Number, segment: Segment
) -> Response:
    """One segment of the sum of a region's masked vectors."""
    service, key = service_of(request), AttemptKey(plan, number, attempt)
    sender = await service.callers.admit(request, roles=(RELAY,))
    await service.callers.check_granted(sender.party, plan)
    size = declared_length(request, SEGMENT_LIMIT) or 0
    await exchanges.look_at_segment(service, key, sender.party, segment, size=size)
    body = await service.callers.body(request, sender, limit=SEGMENT_LIMIT)
    await exchanges.take_segment(service, key, sender.party, segment, body)
    return Response(status_code=204)


@router.post("", status_code=204, responses=refusals(*SIGNED, *CONFLICT), openapi_extra=takes(CBOR))
async def uploads(request: Request, plan: PlanId, number: Number, attempt: Number) -> Response:
    """The signed words of the hospitals whose vectors are in the sum; all are taken, or none."""
    service, key = service_of(request), AttemptKey(plan, number, attempt)
    party, body = await service.callers.authenticate(request, roles=(RELAY,), limit=MESSAGE_LIMIT)
    await service.callers.check_granted(party, plan)
    await exchanges.take_relayed(service, key, party, body)
    return Response(status_code=204)
