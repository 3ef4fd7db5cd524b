"""Routes for a plan and what it has made: models, sums, and what shows where they come from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from aggregator.storage.register import Party, Role
from aggregator.web.problems import CONFLICT, SIGNED, refusals
from aggregator.web.reading import Reading
from aggregator.web.routes.parameters import BYTES, CBOR, JSON, READING, ModelId, Number, PlanId, answers
from aggregator.web.standby import reading_of

PIECE = 2**20
WITNESSES = ("hospital", Role.RESEARCHER, Role.ADMIN, Role.AUDITOR)
"""Who may look at how a plan came to where it is."""
_FROM = re.compile(r"bytes=(0|[1-9][0-9]{0,15})-")
"""The one form of a ``Range`` that is obeyed: what is left of a file; any other gets the whole of it."""
router = APIRouter(prefix="/v1", tags=[READING])


@router.get("/plans/{plan}", response_class=Response, responses=answers(JSON) | refusals(*SIGNED, *CONFLICT))
async def plan(request: Request, plan: PlanId) -> Response:
    """A plan: the study and the roster. Its canonical form has the hash that was asked for."""
    reading = reading_of(request)
    await reading.callers.reader(request, plan, roles=WITNESSES)
    return Response(await reading.plan(plan), media_type=JSON)


@router.get(
    "/plans/{plan}/models/{model}",
    response_class=Response,
    responses=answers(BYTES) | answers(BYTES, 206) | refusals(*SIGNED, *CONFLICT),
)
async def model(request: Request, plan: PlanId, model: ModelId) -> Response:
    """A model version as safetensors; what is left of it for ``Range: bytes=N-``."""
    reading = reading_of(request)
    party = await reading.callers.reader(request, plan)
    asked = _FROM.fullmatch(request.headers.get("range", ""))
    start = int(asked[1]) if asked else 0
    return _stream(reading, plan, party, await reading.model(plan, model), start=start)


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


def _stream(
    reading: Reading, plan: str, party: Party, file: BinaryIO, media_type: str = BYTES, *, start: int = 0
) -> Response:
    """A file piece by piece: many may fetch a large one at the same time.

    Args:
        start: the first byte that is wanted; one beyond the end is not obeyed, and the whole is sent.
    """
    size = file.seek(0, os.SEEK_END)
    start = start if start < size else 0
    file.seek(start)
    reading.count(plan, party, size - start)
    headers = {"content-length": str(size - start), "accept-ranges": "bytes"}
    if start:
        headers["content-range"] = f"bytes {start}-{size - 1}/{size}"
    status = 206 if start else 200
    return StreamingResponse(_pieces(file), status_code=status, media_type=media_type, headers=headers)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece
