"""Routes for what a plan has made: models, sums, and what shows where they come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from aggregator.storage.store import Party, Role
from aggregator.web.problems import CONFLICT, SIGNED, refusals
from aggregator.web.routes.parameters import BYTES, CBOR, READING, ModelId, Number, PlanId, answers
from aggregator.web.service import Service, service_of

PIECE = 2**20
WITNESSES = ("hospital", Role.RESEARCHER, Role.ADMIN, Role.AUDITOR)
"""Who may look at how a plan came to where it is."""
router = APIRouter(prefix="/v1", tags=[READING])


@router.get(
    "/plans/{plan}/models/{model}",
    response_class=Response,
    responses=answers(BYTES) | refusals(*SIGNED, *CONFLICT),
)
async def model(request: Request, plan: PlanId, model: ModelId) -> Response:
    """A model version as safetensors."""
    service = service_of(request)
    party = await service.callers.reader(request, plan)
    file = await service.run(lambda: service.coordinator.open_model(plan, model))
    return _stream(service, plan, party, file)


@router.get(
    "/plans/{plan}/versions/{number}/proof",
    response_class=Response,
    responses=answers(CBOR) | refusals(*SIGNED, *CONFLICT),
)
async def proof(request: Request, plan: PlanId, number: Number) -> Response:
    """Where a model version comes from: sets, signatures and the sum's hash."""
    coordinator = service_of(request).coordinator
    return await _evidence(request, plan, lambda: coordinator.proof(plan, number))


@router.get(
    "/plans/{plan}/rounds/{number}/certificates",
    response_class=Response,
    responses=answers(CBOR) | refusals(*SIGNED, *CONFLICT),
)
async def certificates(request: Request, plan: PlanId, number: Number) -> Response:
    """The abort certificates of a round: which attempts at it the hospitals have given up."""
    coordinator = service_of(request).coordinator
    return await _evidence(request, plan, lambda: coordinator.certificates(plan, number))


@router.get(
    "/plans/{plan}/versions/{number}/sum",
    response_class=Response,
    responses=answers(BYTES) | refusals(*SIGNED, *CONFLICT),
)
async def version_sum(request: Request, plan: PlanId, number: Number) -> Response:
    """The sum of the survivors' encoded updates behind a model version: little-endian 64-bit words."""
    service = service_of(request)
    party = await service.callers.reader(request, plan)
    file = await service.run(lambda: service.coordinator.open_sum(plan, number))
    return _stream(service, plan, party, file)


async def _evidence(request: Request, plan: str, question: Callable[[], bytes]) -> Response:
    """What shows how a plan came to where it is, for its hospitals and for people who may look."""
    service = service_of(request)
    party = await service.callers.reader(request, plan, roles=WITNESSES)
    data = await service.run(question)
    service.coordinator.count_bytes(plan, party.name, up=0, down=len(data))
    return Response(data, media_type=CBOR)


def _stream(service: Service, plan: str, party: Party, file: BinaryIO) -> Response:
    """A file piece by piece: many may fetch a large one at the same time."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    service.coordinator.count_bytes(plan, party.name, up=0, down=size)
    headers = {"content-length": str(size)}
    return StreamingResponse(_pieces(file), media_type=BYTES, headers=headers)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece
