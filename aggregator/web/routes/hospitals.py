"""Routes for hospital nodes: enrol, plans, work, protocol messages, segments (CBOR or raw bytes)."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BeforeValidator

from aggregator.access.signatures import declared_length, read_body, signed_target
from aggregator.access.tls import sign_node_certificate
from aggregator.errors import NotFound
from aggregator.storage.store import Party, Role, TokenRefused
from aggregator.web.limits import leases_of
from aggregator.web.problems import CONFLICT, SIGNED, refusals
from aggregator.web.service import (
    ENROLMENT_LIMIT,
    MESSAGE_LIMIT,
    POLL_LIMIT_S,
    SEGMENT_LIMIT,
    SMALL_LIMIT,
    Desk,
    desk,
    plain_number,
)
from medveil.identity import RequestProof
from medveil.log import get_logger
from medveil.messages import Approval, Enrol
from medveil.rounds import AttemptKey, Phase

log = get_logger()
router = APIRouter(prefix="/v1")
CBOR, BYTES = "application/cbor", "application/octet-stream"
PEM = "application/x-pem-file"
PlanId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, BeforeValidator(plain_number), Path(ge=1, le=100_000)]
WaitS = Annotated[float, Query(ge=0, le=POLL_LIMIT_S)]
End = Annotated[str, Query(pattern=r"^([0-9]{1,7}\.[0-9]{1,10}\.[0-9a-f]{64}\.[0-9a-f]{128})?$")]
"""A :class:`medveil.messages.LedgerEnd` as text."""
HOSPITAL = ("hospital",)
ANSWERS_CBOR: dict[int | str, dict[str, Any]] = {200: {"content": {CBOR: {}}}}
ANSWERS_PEM: dict[int | str, dict[str, Any]] = {200: {"content": {PEM: {}}}}
ANSWERS_BYTES: dict[int | str, dict[str, Any]] = {200: {"content": {BYTES: {}}}}


def takes(media_type: str) -> dict[str, Any]:
    """The entry of a raw body in the OpenAPI document."""
    schema = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


@router.post("/enrol", status_code=204, responses=refusals(*SIGNED, *CONFLICT), openapi_extra=takes(CBOR))
async def enrol(request: Request, key: Annotated[str, Query(pattern=r"^[0-9a-f]{64}$")]) -> Response:
    """A newcomer with a one-time token; the request is signed with the key that is being enrolled.

    Name and key are in the head, under the signature: the body is not read before that holds.
    """
    office = desk(request)
    proof = RequestProof.from_headers(request.headers)
    newcomer = Party(proof.sender, "newcomer", bytes.fromhex(key))
    target = signed_target(request)
    office.gatekeeper.admit_newcomer(newcomer.public_key, proof, request.method, target)
    body = await read_body(request, ENROLMENT_LIMIT, office.memory, leases_of(request), sender="")
    proof.check_body(body)
    try:
        await office.enrol(Enrol.from_bytes(body).token, newcomer)
    except TokenRefused:
        office.newcomers.charge(request.client.host if request.client else "")
        raise
    return Response(status_code=204)


@router.post(
    "/certificate",
    response_class=Response,
    responses=ANSWERS_PEM | refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes("application/pkcs10"),
)
async def certificate(request: Request) -> Response:
    """A client certificate of 30 days for the asking hospital, where the aggregator asks for them."""
    office = desk(request)
    party, body = await office.authenticate(request, roles=HOSPITAL, limit=SMALL_LIMIT, certificate=False)
    if not office.client_certificates:
        raise NotFound()
    signed = sign_node_certificate(office.tls, body, party.name)
    log.info("certificate.issued", node=party.name)
    return Response(signed, media_type=PEM)


@router.get("/plans", response_class=Response, responses=ANSWERS_CBOR | refusals(*SIGNED, *CONFLICT))
async def plans(request: Request) -> Response:
    """The plans whose roster names the asking hospital, with signatures."""
    office = desk(request)
    party, _ = await office.authenticate(request, roles=HOSPITAL)
    offers = await office.run(lambda: office.coordinator.offers(party.name))
    return Response(offers.to_bytes(), media_type=CBOR)


@router.post(
    "/plans/{plan}/approval",
    status_code=204,
    responses=refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes(CBOR),
)
async def approve(request: Request, plan: PlanId) -> Response:
    """An operator's approval of a plan."""
    office = desk(request)
    party, body = await office.authenticate(request, roles=HOSPITAL)
    message = Approval.from_bytes(body)
    await office.run(lambda: office.coordinator.approve(plan, party.name, message.signature))
    return Response(status_code=204)


@router.get(
    "/plans/{plan}/work", response_class=Response, responses=ANSWERS_CBOR | refusals(*SIGNED, *CONFLICT)
)
async def work(
    request: Request,
    plan: PlanId,
    seen: Annotated[str, Query(max_length=100)] = "",
    wait_s: WaitS = 0.0,
    sitting_out: Annotated[str, Query(pattern=r"^([0-9]{1,6}\.[0-9]{1,6})?$")] = "",
    ledger: End = "",
) -> Response:
    """What the hospital is to do; waits up to ``wait_s`` for news if it has seen the present state.

    ``sitting_out`` names an attempt ("round.attempt") that the hospital has left. ``ledger`` tells where the
    hospital's privacy ledger ends.
    """
    office = desk(request)
    party, body = await office.authenticate(request, roles=HOSPITAL)
    if ledger:
        await office.run(lambda: office.coordinator.ledger_ends.note(party, ledger))
    if sitting_out:
        left = AttemptKey(plan, *map(int, sitting_out.split(".")))
        await office.run(lambda: office.coordinator.sits_out(left, party.name))
    office.coordinator.count_bytes(plan, party.name, up=len(body), down=0)
    return await _next_work(office, plan, party, seen=seen, wait_s=wait_s)


async def _next_work(office: Desk, plan: str, party: Party, *, seen: str, wait_s: float) -> Response:
    """What the hospital is to do, once that is not what it has seen, or when ``wait_s`` are over."""
    deadline, waited = office.polls.end_of(wait_s), False
    while time.monotonic() < deadline and not office.stopping:
        if office.coordinator.is_news(plan, party.name, seen):
            break
        await office.polls.rest(plan, seen, deadline)
        waited = True
    if waited:
        await office.still_welcome(party)
    found = office.coordinator.still_idle(plan, party.name, seen) if waited and office.surely_leads else None
    if found is None:
        found = await office.run(lambda: office.coordinator.work(plan, party.name))
    answer = found.to_bytes()
    office.coordinator.touch(party.name)
    office.coordinator.count_bytes(plan, party.name, up=0, down=len(answer))
    return Response(answer, media_type=CBOR)


@router.post(
    "/plans/{plan}/rounds/{number}/attempts/{attempt}/{kind}",
    response_class=Response,
    responses=ANSWERS_CBOR | refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes(CBOR),
)
async def message(
    request: Request,
    plan: PlanId,
    number: Number,
    attempt: Number,
    kind: Annotated[str, Path(max_length=20)],
    wait_s: WaitS = 0.0,
    ledger: End = "",
) -> Response:
    """A protocol message of the masking protocol; an exact repeat is answered like the first.

    The answer tells what the hospital is to do next, as a poll would. It waits up to ``wait_s`` for news; by
    then the message is on the disk.
    """
    office, key = desk(request), AttemptKey(plan, number, attempt)
    longest = min(office.coordinator.longest_message(plan) or SMALL_LIMIT, MESSAGE_LIMIT)
    party, body = await office.authenticate(request, roles=HOSPITAL, limit=longest)
    if kind == Phase.UPLOAD:
        await office.with_segments(lambda: office.coordinator.read_back(plan, party.name, body))

    def take() -> tuple[str, bool]:
        if ledger:
            office.coordinator.ledger_ends.note(party, ledger)
        answered = office.coordinator.receive(key, party.name, kind, body)
        office.coordinator.count_bytes(plan, party.name, up=len(body), down=0)
        return answered, office.coordinator.go_on()

    seen, changed = await office.run(take)
    if changed:
        office.announce()
    return await _next_work(office, plan, party, seen=seen, wait_s=wait_s)


@router.put(
    "/plans/{plan}/rounds/{number}/attempts/{attempt}/segments/{segment}",
    status_code=204,
    responses=refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes(BYTES),
)
async def segment(
    request: Request,
    plan: PlanId,
    number: Number,
    attempt: Number,
    segment: Annotated[int, BeforeValidator(plain_number), Path(ge=0, le=100_000)],
) -> Response:
    """One segment of a masked vector; whether it is wanted is settled before its body is read."""
    office = desk(request)
    sender = await office.admit(request, roles=HOSPITAL)
    party, size = sender.party, declared_length(request, SEGMENT_LIMIT) or 0
    which = AttemptKey(plan, number, attempt), party.name, segment
    await office.run(partial(office.coordinator.look_at_segment, *which, size=size))
    body = await office.body(request, sender, limit=SEGMENT_LIMIT)
    claim = await office.run(partial(office.coordinator.claim_segment, *which, size=len(body)))
    if claim is not None:
        await office.keep_segment(claim, body)
    office.coordinator.count_bytes(plan, party.name, up=len(body), down=0)
    return Response(status_code=204)


@router.get(
    "/plans/{plan}/models/{model}",
    tags=["reading"],
    response_class=Response,
    responses=ANSWERS_BYTES | refusals(*SIGNED, *CONFLICT),
)
async def model(
    request: Request, plan: PlanId, model: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
) -> Response:
    """A model version as safetensors."""
    office = desk(request)
    party = await office.admit_reader(request, plan)
    return office.stream(plan, party, await office.run(lambda: office.coordinator.open_model(plan, model)))


async def _evidence(request: Request, plan: str, question: Callable[[], bytes]) -> Response:
    """What shows how a plan came to where it is, for its hospitals and for people who may look."""
    office = desk(request)
    party = await office.admit_reader(
        request, plan, roles=("hospital", Role.RESEARCHER, Role.ADMIN, Role.AUDITOR)
    )
    data = await office.run(question)
    office.coordinator.count_bytes(plan, party.name, up=0, down=len(data))
    return Response(data, media_type=CBOR)


@router.get(
    "/plans/{plan}/versions/{number}/proof",
    tags=["reading"],
    response_class=Response,
    responses=ANSWERS_CBOR | refusals(*SIGNED, *CONFLICT),
)
async def proof(request: Request, plan: PlanId, number: Number) -> Response:
    """Where a model version comes from: sets, signatures and the sum's hash."""
    coordinator = desk(request).coordinator
    return await _evidence(request, plan, lambda: coordinator.proof(plan, number))


@router.get(
    "/plans/{plan}/rounds/{number}/certificates",
    tags=["reading"],
    response_class=Response,
    responses=ANSWERS_CBOR | refusals(*SIGNED, *CONFLICT),
)
async def certificates(request: Request, plan: PlanId, number: Number) -> Response:
    """The abort certificates of a round: which attempts at it the hospitals have given up."""
    coordinator = desk(request).coordinator
    return await _evidence(request, plan, lambda: coordinator.certificates(plan, number))


@router.get(
    "/plans/{plan}/versions/{number}/sum",
    tags=["reading"],
    response_class=Response,
    responses=ANSWERS_BYTES | refusals(*SIGNED, *CONFLICT),
)
async def version_sum(request: Request, plan: PlanId, number: Number) -> Response:
    """The sum of the survivors' encoded updates behind a model version: little-endian 64-bit words."""
    office = desk(request)
    party = await office.admit_reader(request, plan)
    return office.stream(plan, party, await office.run(lambda: office.coordinator.open_sum(plan, number)))
