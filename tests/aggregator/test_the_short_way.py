"""The short way to a route and the framework's own: the same values, the same refusals, the same document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

import httpx2 as httpx
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.routing import Match

from aggregator.settings import Settings
from aggregator.web.app import create_app
from aggregator.web.problems import bare_app
from aggregator.web.routes import parameters as p
from aggregator.web.shortcut import Shortcut
from medveil.errors import Error
from privacy.secagg.messages import MESSAGES

router, others = APIRouter(prefix="/v1"), APIRouter(prefix="/v1")
PLAN = "a" * 64


class _Refused(Error):
    code = "not-found"

    def __init__(self) -> None:
        super().__init__(what="No.", meaning="None.", remedy="None.")


@others.post("/plans/{plan}/{number}/relayed")
async def relayed(plan: p.PlanId, number: p.Number) -> Response:
    return JSONResponse(["relayed", plan, number])


@router.get("/plans/{plan}/work")
async def work(
    request: Request,
    plan: p.PlanId,
    seen: p.SeenMark = "",
    wait_s: p.WaitS = 0.0,
    sitting_out: p.SittingOut = "",
    ledger: p.End = "",
    away: p.Away = False,
    word: p.Word = None,
) -> Response:
    if seen == "refused":
        raise _Refused()
    told = [plan, seen, wait_s, sitting_out, ledger, away, word]
    return JSONResponse([*told, *(type(one).__name__ for one in told), request.scope["route"].path])


@router.post("/plans/{plan}/{number}/{kind}")
async def message(request: Request, plan: p.PlanId, number: p.Number, kind: p.Kind) -> Response:
    return JSONResponse([plan, number, kind, len(await request.body()), dict(request.path_params)])


@router.put("/plans/{plan}/segments/{segment}", status_code=204)
async def segment(request: Request, plan: p.PlanId, segment: p.Segment) -> Response:
    return Response(status_code=204)


@asynccontextmanager
async def _nothing(app: FastAPI) -> AsyncIterator[None]:
    yield


def made(*, short: bool) -> FastAPI:
    app = bare_app("app", _nothing)
    app.include_router(others)
    app.include_router(router)
    if short:
        for route in (r for r in router.routes if isinstance(r, APIRoute)):
            only = {"kind": frozenset(MESSAGES)} if "{kind}" in route.path else {}
            app.router.routes.insert(0, Shortcut(route, **only))
    return app


QUERIES = (
    *(
        "",
        "seen=",
        "seen=1 2 share",
        "seen=a&seen=b",
        "seen=" + "x" * 101,
        "seen=refused",
        "unknown=1",
        "&&=",
    ),
    *("wait_s=5", "wait_s=+5", "wait_s=nan", "wait_s=-1", "wait_s=31", "wait_s=", "wait_s=1e1", "wait_s=%35"),
    *("away=1", "away=true", "away=maybe", "away=", "away", "sitting_out=1.2", "sitting_out=1", "ledger=1"),
    *("word=0", "word=007", "word=-1", "word=", "word=9007199254740993", "word=1_0", "word=%ff", "plan=b"),
)
PARTS = ("1", "0", "01", "100000", "100001", "1_0", "%31", " 1", "x")
KINDS = ("advertise", "relayed", "abort", "Advertise", "x" * 21, "a%2Fb", "")


async def answers(app: FastAPI) -> list[tuple[int, str, bytes]]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
        asked = [("GET", f"/v1/plans/{PLAN}/work?{query}") for query in QUERIES]
        asked += [("GET", f"/v1/plans/{plan}/work") for plan in ("A" * 64, PLAN + "/", "%61" * 64, "")]
        asked += [("POST", f"/v1/plans/{PLAN}/{number}/{kind}") for number, kind in product(PARTS, KINDS)]
        asked += [("PUT", f"/v1/plans/{PLAN}/segments/{number}") for number in PARTS]
        asked += [(method, f"/v1/plans/{PLAN}/work") for method in ("HEAD", "POST", "OPTIONS", "DELETE")]
        told = [await client.request(method, path, content=b"body") for method, path in asked]
    return [(one.status_code, str(sorted(one.headers.items())), one.content) for one in told]


def test_every_address_and_query_is_answered_as_the_framework_answers_it() -> None:
    short, long = asyncio.run(answers(made(short=True))), asyncio.run(answers(made(short=False)))
    assert short == long
    assert {status for status, _, _ in short} >= {200, 204, 404, 405, 422}


def test_the_document_is_the_same() -> None:
    assert made(short=True).openapi() == made(short=False).openapi()


def test_the_requests_of_a_round_go_the_short_way_and_no_other_does(tmp_path: Path) -> None:
    app = create_app(Settings(tmp_path))
    at = f"/v1/plans/{PLAN}"
    attempt = f"{at}/rounds/1/attempts/2"
    wanted = {
        ("GET", f"{at}/work"): True,
        **{("POST", f"{attempt}/{kind}"): True for kind in MESSAGES},
        ("PUT", f"{attempt}/segments/0"): True,
        ("GET", f"{at}/versions/3/sum"): True,
        ("GET", f"{at}/versions/3/proof"): True,
        ("POST", f"{attempt}/relayed"): False,
        ("PUT", f"{attempt}/relayed/segments/0"): False,
        ("POST", f"{at}/approval"): False,
        ("GET", "/v1/plans"): False,
    }
    short = [route for route in app.router.routes if isinstance(route, Shortcut)]
    for (method, path), expected in wanted.items():
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
        found = [route.matches(scope)[0] is Match.FULL for route in short]
        assert sum(found) == expected, path
