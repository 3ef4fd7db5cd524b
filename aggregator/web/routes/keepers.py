"""Routes by which hospitals and keepers of pseudonyms write to each other; nothing of it is read here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from aggregator.errors import NotFound
from aggregator.web.problems import CONFLICT, SIGNED, refusals
from aggregator.web.routes.parameters import BYTES, CBOR, WaitS, answers, takes
from aggregator.web.service import service_of
from medveil.ids import NAME
from medveil.keeping import LETTER_ID, MOST_LETTER_BYTES

router = APIRouter(prefix="/v1")
KEEPER = "keeper"
KeeperName = Annotated[str, Path(pattern=rf"^{NAME.pattern}$")]
LetterId = Annotated[str, Path(pattern=LETTER_ID)]


@router.post(
    "/keepers/{keeper}/letters",
    response_class=Response,
    responses=answers(BYTES) | refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes(BYTES),
)
async def ask(request: Request, keeper: KeeperName) -> Response:
    """A hospital's letter to a keeper; answered when the keeper has answered."""
    service = service_of(request)
    party, body = await service.callers.authenticate(request, roles=("hospital",), limit=MOST_LETTER_BYTES)
    known = await service.lookups.ask(lambda: service.register.party(keeper))
    if known is None or known.role != KEEPER or known.revoked:
        raise NotFound()
    answer = await service.letters.ask(keeper, body, sender=party.name)
    return Response(answer, media_type=BYTES)


@router.get(
    "/letters",
    response_class=Response,
    responses=answers(CBOR) | {204: {"description": "There is none."}} | refusals(*SIGNED, *CONFLICT),
)
async def next_letter(request: Request, wait_s: WaitS = 0.0) -> Response:
    """The next letter to the asking keeper; waits up to ``wait_s`` for one."""
    service = service_of(request)
    party, _ = await service.callers.authenticate(request, roles=(KEEPER,))
    letter = await service.letters.next(party.name, wait_s=0.0 if service.stopping else wait_s)
    if letter is None:
        return Response(status_code=204)
    return Response(letter.to_bytes(), media_type=CBOR)


@router.post(
    "/letters/{letter}",
    status_code=204,
    responses=refusals(*SIGNED, *CONFLICT),
    openapi_extra=takes(BYTES),
)
async def answer(request: Request, letter: LetterId) -> Response:
    """A keeper's answer to a letter."""
    service = service_of(request)
    party, body = await service.callers.authenticate(request, roles=(KEEPER,), limit=MOST_LETTER_BYTES)
    service.letters.answer(party.name, letter, body)
    return Response(status_code=204)
