"""Routes for what a plan has made: models, sums, and what shows where they come from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from aggregator.storage.register import Party, Role
from aggregator.web.problems import CONFLICT, SIGNED, refusals
from aggregator.web.reading import Reading
from aggregator.web.routes.parameters import BYTES, CBOR, READING, ModelId, Number, PlanId, answers
from aggregator.web.standby import reading_of

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
    reading = reading_of(request)
    party = await reading.callers.reader(request, plan)
    return _stream(reading, plan, party, await reading.model(plan, model))


@router.get(
    "/plans/{plan}/versions/{number}/proof",
    response_class=Response,
    responses=answers(CBOR) | refusals(*SIGNED, *CONFLICT),
)
async def proof(request: Request, plan: PlanId, number: Number) -> Response:
    """Where a model version comes from: sets, signatures and the sum's hash."""
    reading = reading_of(request)
    party = await reading.callers.reader(request, plan, roles=WITNESSES)
    return _stream(reading, plan, party, await reading.proof(plan, number), CBOR)


@router.get(
    "/plans/{plan}/rounds/{number}/certificates",
    response_class=Response,
    responses=answers(CBOR) | refusals(*SIGNED, *CONFLICT),
)
async def certificates(request: Request, plan: PlanId, number: Number) -> Response:
    """The abort certificates of a round: which attempts at it the hospitals have given up."""
    reading = reading_of(request)
    party = await reading.callers.reader(request, plan, roles=WITNESSES)
    data = await reading.certificates(plan, number)
    reading.count(plan, party, len(data))
    return Response(data, media_type=CBOR)


@router.get(
    "/plans/{plan}/versions/{number}/sum",
    response_class=Response,
    responses=answers(BYTES) | refusals(*SIGNED, *CONFLICT),
)
async def version_sum(request: Request, plan: PlanId, number: Number) -> Response:
    """The sum of the survivors' encoded updates behind a model version: little-endian 64-bit words."""
    reading = reading_of(request)
    party = await reading.callers.reader(request, plan)
    return _stream(reading, plan, party, await reading.sum(plan, number))


def _stream(reading: Reading, plan: str, party: Party, file: BinaryIO, media_type: str = BYTES) -> Response:
    """A file piece by piece: many may fetch a large one at the same time."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    reading.count(plan, party, size)
    headers = {"content-length": str(size)}
    return StreamingResponse(_pieces(file), media_type=media_type, headers=headers)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece
