"""Routes for hospital nodes: enrol, plans, work, protocol messages, segments (CBOR or raw bytes)."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from aggregator.web import exchanges
from aggregator.web.bodies import declared_length
from aggregator.web.callers import address_of
from aggregator.web.exchanges import SEGMENT_LIMIT
from aggregator.web.problems import CONFLICT, SIGNED, refusals
from aggregator.web.routes.parameters import (
    BYTES,
    CBOR,
    PEM,
    Away,
    End,
    Key,
    Kind,
    Number,
    PlanId,
    SeenMark,
    Segment,
    SittingOut,
    WaitS,
    Word,
    Words,
    answers,
    takes,
)
from aggregator.web.service import service_of
from aggregator.web.standby import serving_of
from medveil.messages import Approval, Enrol, Refusal
from medveil.rounds import AttemptKey

router = APIRouter(prefix="/v1")
HOSPITAL = ("hospital",)


@router.post("/enrol", status_code=204, responses=refusals(*SIGNED, *CONFLICT), openapi_extra=takes(CBOR))
async def enrol(request: Request, key: Key) -> Response:
    """A newcomer with a one-time token; the request is signed with the key that is being enrolled.

    Name and key are in the head, under the signature: the body is not read before that holds.
    """
    service = service_of(request)
    newcomer, body = await service.callers.newcomer(request, bytes.fromhex(key))
    await service.enrol(Enrol.from_bytes(body).token, newcomer, address=address_of(request))
    return Response(status_code=204)


@router.post(
    "/certificate",
    response_class=Response,
    responses=answers(PEM) | refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes("application/pkcs10"),
)
async def certificate(request: Request) -> Response:
    """A client certificate of 30 days for the asking hospital, where the aggregator asks for them."""
    service = service_of(request)
    party, body = await service.callers.authenticate(request, roles=HOSPITAL, certificate=False)
    return Response(service.issue_certificate(party, body), media_type=PEM)


@router.get("/plans", response_class=Response, responses=answers(CBOR) | refusals(*SIGNED, *CONFLICT))
async def plans(request: Request, words: Words = False) -> Response:
    """The plans whose roster names the asking hospital, with signatures.

    ``words`` asks for what the admin has said of them.
    """
    service = service_of(request)
    party, _ = await service.callers.authenticate(request, roles=HOSPITAL)
    offers = await service.run(lambda: service.coordinator.instructions.offers(party.name, words=words))
    return Response(offers.to_bytes(), media_type=CBOR)


@router.post(
    "/plans/{plan}/approval",
    status_code=204,
    responses=refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes(CBOR),
)
async def approve(request: Request, plan: PlanId) -> Response:
    """An operator's approval of a plan."""
    service = service_of(request)
    party, body = await service.callers.authenticate(request, roles=HOSPITAL)
    message = Approval.from_bytes(body)
    await service.run(lambda: service.coordinator.approve(plan, party.name, message.signature))
    return Response(status_code=204)


@router.post(
    "/plans/{plan}/refusal",
    status_code=204,
    responses=refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes(CBOR),
)
async def refuse(request: Request, plan: PlanId) -> Response:
    """A hospital's word that it takes no part in a plan, or no part any more, and why."""
    service = service_of(request)
    party, body = await service.callers.authenticate(request, roles=HOSPITAL)
    message = Refusal.from_bytes(body)
    await service.run(lambda: service.coordinator.intake.refuse(plan, party.name, message))
    service.wake()  # the others go on without it
    return Response(status_code=204)


@router.get(
    "/plans/{plan}/work", response_class=Response, responses=answers(CBOR) | refusals(*SIGNED, *CONFLICT)
)
async def work(
    request: Request,
    plan: PlanId,
    seen: SeenMark = "",
    wait_s: WaitS = 0.0,
    sitting_out: SittingOut = "",
    ledger: End = "",
    away: Away = False,
    word: Word = None,
) -> Response:
    """What the hospital is to do; waits up to ``wait_s`` for news if it has seen the present state.

    ``sitting_out`` names an attempt ("round.attempt") that the hospital has left. ``ledger`` tells where the
    hospital's privacy ledger ends, ``away`` that it joins no attempt for now: nobody waits for it. ``word``
    is the time of the admin's word that it knows; a later one comes with the answer, and with an attempt the
    proof of the version that it starts from.
    """
    service = service_of(request)
    party, body = await service.callers.authenticate(request, roles=HOSPITAL)
    told = exchanges.Told(ledger=ledger, sitting_out=sitting_out, away=away)
    await exchanges.take_poll(service, plan, party, told, size=len(body))
    answer = await exchanges.next_work(service, plan, party, seen=seen, wait_s=wait_s, word=word)
    return Response(answer, media_type=CBOR)


@router.post(
    "/plans/{plan}/rounds/{number}/attempts/{attempt}/{kind}",
    response_class=Response,
    responses=answers(CBOR) | refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes(CBOR),
)
async def message(
    request: Request,
    plan: PlanId,
    number: Number,
    attempt: Number,
    kind: Kind,
    wait_s: WaitS = 0.0,
    ledger: End = "",
    word: Word = None,
) -> Response:
    """A protocol message of the masking protocol; an exact repeat is answered like the first.

    The answer tells what the hospital is to do next, as a poll would. It waits up to ``wait_s`` for news; by
    then the message is on the disk.
    """
    service, key = service_of(request), AttemptKey(plan, number, attempt)
    longest = exchanges.longest_message(service, plan)
    party, body = await service.callers.authenticate(request, roles=HOSPITAL, limit=longest)
    answered = await exchanges.take_message(service, key, party, kind, body, ledger=ledger)
    answer = await exchanges.next_work(service, plan, party, seen=answered, wait_s=wait_s, word=word)
    return Response(answer, media_type=CBOR)


@router.put(
    "/plans/{plan}/rounds/{number}/attempts/{attempt}/segments/{segment}",
    status_code=204,
    responses=refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes(BYTES),
)
async def segment(
    request: Request, plan: PlanId, number: Number, attempt: Number, segment: Segment
) -> Response:
    """One segment of a masked vector; whether it is wanted is settled before its body is read.

    A process that stands by takes it as well.
    """
    service, key = serving_of(request), AttemptKey(plan, number, attempt)
    sender = await service.callers.admit(request, roles=HOSPITAL)
    size = declared_length(request, SEGMENT_LIMIT) or 0
    await exchanges.look_at_segment(service, key, sender.party, segment, size=size)
    body = await service.callers.body(request, sender, limit=SEGMENT_LIMIT)
    await exchanges.take_segment(service, key, sender.party, segment, body)
    return Response(status_code=204)
