"""Every screen's three addresses: the page, its twin as JSON, and the stream of what changes of it."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Path, Query
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from aggregator.access.sessions import SignInFirst
from aggregator.errors import NotFound, Overloaded
from aggregator.settings import Settings
from aggregator.storage.register import Role
from aggregator.web.dashboard.board import Board, Key
from aggregator.web.dashboard.checking import checking_router
from aggregator.web.dashboard.door import Viewer, viewer, viewer_of, watcher
from aggregator.web.dashboard.live import Streams
from aggregator.web.dashboard.painter import address, command_of
from aggregator.web.dashboard.screen import Screen
from aggregator.web.dashboard.screens import all_screens
from aggregator.web.entrance.guard import guarded, language_in, wants_page
from aggregator.web.problems import CONFLICT, SIGNED, STATUS, BadRequest, on_bad_address, refusals
from aggregator.web.routes.parameters import READING, Number, PlanId
from medveil.errors import Error
from medveil.log import get_logger
from medveil.shown import plain
from medveil.values import Frozen

IN_ADDRESSES: Mapping[str, Any] = {
    "plan": PlanId,
    "number": Number,
    "attempt": Number,
    "hospital": Annotated[str, Path(max_length=60)],
}
Filter = Annotated[str, Query(max_length=100)]
NO_PAGE = (404, 405)
"""Statuses of an address that no route has, or only for forms."""
FOR_EVER = "public, max-age=31536000, immutable"
log = get_logger()
T = TypeVar("T", bound=Frozen)


class Twin(BaseModel, Generic[T]):
    """A page as JSON."""

    now: float
    """The aggregator's time, Unix seconds."""
    command: str
    """Tells the same in a terminal."""
    value: T


def add_dashboard(app: FastAPI, settings: Settings) -> Board:
    """Put the dashboard on an application."""
    board = Board(app, settings, all_screens())
    streams = Streams(board)
    app.state.board, app.state.streams = board, streams
    router = APIRouter(route_class=_page_route(board))
    for screen in all_screens():  # twins first: a page's last name in the address would take them in
        _add_twin(router, board, screen)
        _add_stream(router, board, streams, screen)
    for screen in all_screens():
        _add_page(router, board, screen)
    _add_files(router, board)
    app.include_router(checking_router(board, app.state.checking))
    app.include_router(router)
    _add_unknown(app, board)
    return board


def _page_route(board: Board) -> type[APIRoute]:
    """Routes whose answers browsers keep to themselves, and whose refusals are pages where a person asks."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def guardedly(request: Request) -> Response:
                try:
                    _check_site(request)
                    return guarded(await handler(request))
                except SignInFirst:
                    raise
                except (Error, RequestValidationError, HTTPException) as error:
                    if not wants_page(request):
                        raise
                    return guarded(_refused(board, request, error))

            return guardedly

    return PageRoute


def _check_site(request: Request) -> None:
    """What another site's page loads is not answered; who follows a link from it is. Raises: BadRequest."""
    site, mode = request.headers.get("sec-fetch-site", ""), request.headers.get("sec-fetch-mode", "")
    if site in ("cross-site", "same-site") and mode != "navigate":
        raise BadRequest()


def _refused(board: Board, request: Request, error: Exception) -> Response:
    """A page that says why there is none; it repeats nothing of the address."""
    known = error if isinstance(error, Error) else BadRequest()
    status = STATUS.get(known.code, 422)
    log.info("request.refused", code=known.code, route=_route_of(request), method="GET")
    said = {name: plain(getattr(known, name)) for name in ("what", "meaning", "remedy", "code")}
    html = board.painter.refusal(language_in(request), status, said)
    return HTMLResponse(html, status)


def _add_unknown(app: FastAPI, board: Board) -> None:
    """An address that nothing has is a page for whoever shows pages, and a problem for a program."""

    async def unknown(request: Request, error: Exception) -> Response:
        shows = "text/html" in request.headers.get("accept", "").lower() and wants_page(request)
        if shows and isinstance(error, HTTPException) and error.status_code in NO_PAGE:
            return guarded(_refused(board, request, NotFound()))
        return await on_bad_address(request, error)

    app.add_exception_handler(HTTPException, unknown)


def _route_of(request: Request) -> str:
    return str(getattr(request.scope.get("route"), "path", "?"))


# ---- who sees what


async def plans_of(board: Board, who: Viewer) -> frozenset[str] | None:
    """The plans that somebody may read; None stands for all."""
    if who.role != Role.RESEARCHER:
        return None
    return frozenset(await board.serving().callers.readable(who.party))


async def _key(board: Board, screen: Screen, request: Request, who: Viewer) -> Key:
    """Raises: NotAllowed; NotFound for a plan of others, exactly as for one that does not exist."""
    who.check(*screen.roles)
    plans = await plans_of(board, who)
    path = {name: str(value) for name, value in request.path_params.items()}
    if plans is not None and "plan" in path and path["plan"] not in plans:
        raise NotFound()
    asked = {name: request.query_params.get(name, "")[:100] for name in screen.filters}
    return Key(
        screen=screen.key,
        path=tuple(sorted(path.items())),
        filters=tuple((name, text) for name, text in asked.items() if text),
        role=who.role,
        plans=plans,
        language=language_in(request),
    )


# ---- the three addresses


def _add_page(router: APIRouter, board: Board, screen: Screen) -> None:
    async def page(request: Request, who: Viewer, **_: Any) -> Response:
        if request.headers.get("accept", "").lower().startswith("application/json"):
            return await _twin(board, screen, request, who)
        key = await _key(board, screen, request, who)
        made, view = await board.made(key), board.view(key)
        own = {"mark": made.mark, "now": time.time(), "back": address(screen.path, view)}
        html = await board.run(lambda: board.painter.page(screen, made.parts, view, who, key.language, **own))
        return HTMLResponse(html)

    router.add_api_route(
        screen.path,
        _with_parameters(page, screen, viewer),
        methods=["GET"],
        name=f"page {screen.key}",
        include_in_schema=False,  # the document is for programs, and they have the twin
    )


def _add_twin(router: APIRouter, board: Board, screen: Screen) -> None:
    async def twin(request: Request, who: Viewer, **_: Any) -> Response:
        return await _twin(board, screen, request, who)

    router.add_api_route(
        screen.twin,
        _with_parameters(twin, screen, viewer),
        methods=["GET"],
        name=f"twin {screen.key}",
        tags=[READING],
        response_model=Twin[screen.gives],  # type: ignore[name-defined]
        responses=refusals(*SIGNED, *CONFLICT),
        summary=f"The page '{screen.key}' as JSON.",
    )


async def _twin(board: Board, screen: Screen, request: Request, who: Viewer) -> Response:
    key = await _key(board, screen, request, who)
    made, command = await board.made(key), command_of(screen, board.view(key))
    value = await board.run(made.value.model_dump_json)
    head = json.dumps({"now": time.time(), "command": command})
    return Response(f'{head[:-1]}, "value": {value}}}', media_type="application/json")


def _add_stream(router: APIRouter, board: Board, streams: Streams, screen: Screen) -> None:
    async def stream(request: Request, who: Viewer, **_: Any) -> Response:
        if streams.full:
            raise Overloaded()
        key = await _key(board, screen, request, who)
        await board.made(key)  # what is refused is refused before the stream begins
        seen = request.headers.get("last-event-id") or request.query_params.get("mark", "")
        found = streams.follow(key, seen[:64], lambda: _may_still_look(board, request, key))
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(found, media_type="text/event-stream", headers=headers)

    path = screen.twin.removesuffix(".json") + ".live"
    router.add_api_route(
        path,
        _with_parameters(stream, screen, watcher),
        methods=["GET"],
        name=f"stream {screen.key}",
        include_in_schema=False,
    )


async def _may_still_look(board: Board, request: Request, key: Key) -> bool:
    """Whether the person before a stream is still signed in, and may read what it shows."""
    try:
        session = await board.serving().visitors.session(request, acts=False)
        who = viewer_of(session, "")
        return who.role == key.role and await plans_of(board, who) == key.plans
    except Error:
        return False


def _with_parameters(
    answer: Callable[..., Awaitable[Response]], screen: Screen, who: Callable[..., Awaitable[Viewer]]
) -> Callable[..., Awaitable[Response]]:
    """The same function, as the web framework reads it: with what stands in this screen's address."""
    by_name = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("request", by_name, annotation=Request)]
    for name, kind in IN_ADDRESSES.items():
        if f"{{{name}}}" in screen.path:
            parameters.append(inspect.Parameter(name, by_name, annotation=kind))
    for name in screen.filters:
        parameters.append(inspect.Parameter(name, by_name, annotation=Filter, default=""))
    parameters.append(inspect.Parameter("who", by_name, annotation=Viewer, default=Depends(who)))
    answer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return answer


def _add_files(router: APIRouter, board: Board) -> None:
    """What pages load. It is the same for everybody, so nobody is asked who is there."""
    for name, (body, kind) in board.painter.files.items():
        router.add_api_route(
            f"/static/{name}", _constant(body, kind), methods=["GET"], include_in_schema=False
        )


def _constant(body: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(body, media_type=kind, headers={"Cache-Control": FOR_EVER})

    return answer
