"""Routes of the way in. Each is a few lines over the visitors and the painter."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from aggregator.access.sessions import ADMIN, COOKIE, MACHINE, SignInFirst, check_seal, hashed
from aggregator.errors import NotFound
from aggregator.settings import Settings
from aggregator.storage.register import Role
from aggregator.web.entrance.guard import (
    form_of,
    guarded,
    to_sign_in,
    wants_page,
    way_back,
)
from aggregator.web.entrance.hall import Hall, page
from aggregator.web.entrance.local import local_router
from aggregator.web.entrance.providers import providers_router
from aggregator.web.problems import on_error
from aggregator.web.standby import serving_of
from medveil import look
from medveil.catalogue import LANGUAGES
from medveil.errors import Error
from medveil.look.browsers import LANGUAGE_COOKIE, YEAR_S

LONGEST_KEY = 100


def add_entrance(app: FastAPI, settings: Settings) -> None:
    """Put the way in before an application's pages."""
    hall = app.state.hall = Hall(settings)
    for router in (
        _ways_in(hall),
        _ways_out(hall),
        _leaving(hall),
        local_router(hall),
        providers_router(hall),
    ):
        app.include_router(router)

    async def sign_in_first(request: Request, error: Exception) -> Response:
        if wants_page(request):
            return guarded(RedirectResponse(to_sign_in(request), 303))
        return guarded(await on_error(request, error))

    app.add_exception_handler(SignInFirst, sign_in_first)


def _ways_in(hall: Hall) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    async def sign_in(request: Request) -> Response:
        visitors, back = serving_of(request).visitors, way_back(request.query_params.get("back", "/"))
        try:
            await visitors.session(request)
        except SignInFirst:
            providers = [(one.name, one.title) for one in hall.settings.sign_in.providers]
            local = await visitors.has_local_admins()
            return hall.show(request, "sign-in.html.j2", back=back, providers=providers, local=local)
        return guarded(RedirectResponse(back, 303))

    async def by_link(request: Request) -> Response:
        visitors, key = serving_of(request).visitors, request.path_params["key"][:LONGEST_KEY]
        cookie, _ = await visitors.begin(
            request, name=ADMIN, role=Role.ADMIN.value, shown=ADMIN, way=MACHINE, link=hashed(key)
        )
        return hall.welcome(cookie, "/")

    async def style(request: Request) -> Response:
        return guarded(Response(hall.painter.style, media_type="text/css"))

    async def icon(request: Request) -> Response:
        return guarded(Response(look.icon(), media_type="image/svg+xml"))

    router.add_api_route("/signin", page(hall, sign_in), methods=["GET"])
    router.add_api_route("/signin/link/{key}", page(hall, by_link), methods=["GET"])
    router.add_api_route("/signin/style.css", style, methods=["GET"])
    router.add_api_route("/signin/icon.svg", icon, methods=["GET"])
    return router


def _ways_out(hall: Hall) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    async def sign_out(request: Request) -> Response:
        visitors = serving_of(request).visitors
        visitors.check_origin(request)
        form = await form_of(request)
        try:
            session = await visitors.session(request)
        except SignInFirst:
            session = None
        if session is not None:
            check_seal(request.cookies.get(COOKIE, ""), "/signout", form.get("seal", ""))
            await visitors.end(session)
        by = "" if session is None or session.way not in hall.lines else f"?way={session.way}"
        answer = RedirectResponse(f"/signin/out{by}", 303)
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="lax")
        return guarded(answer)

    async def signed_out(request: Request) -> Response:
        line, there = hall.lines.get(request.query_params.get("way", "")), None
        if line is not None:
            with suppress(Error):  # a provider that is away is no reason to say that somebody is still here
                there = await line.leaving(f"{hall.settings.url}/signin/out")
        leaves = None if line is None or there is None else line.provider
        return hall.show(request, "signed-out.html.j2", leaves=leaves)

    async def language(request: Request) -> Response:
        chosen = request.path_params["language"]
        if chosen not in LANGUAGES:
            raise NotFound()
        back = way_back(request.query_params.get("back", "/"))
        answer = RedirectResponse("/signin" if back == "/" else f"/signin?back={quote(back, safe='')}", 303)
        answer.set_cookie(
            LANGUAGE_COOKIE, chosen, max_age=YEAR_S, secure=True, httponly=True, samesite="strict"
        )
        return guarded(answer)

    router.add_api_route("/signout", page(hall, sign_out), methods=["POST"])
    router.add_api_route("/signin/out", page(hall, signed_out), methods=["GET"])
    router.add_api_route("/signin/language/{language}", page(hall, language), methods=["GET"])
    return router


def _leaving(hall: Hall) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    async def leave(request: Request) -> Response:
        """On to a provider's own page for signing out, which asks whether that is meant."""
        line = hall.lines.get(request.path_params["provider"])
        there = None if line is None else await line.leaving(f"{hall.settings.url}/signin/out")
        if there is None:
            raise NotFound()
        return guarded(RedirectResponse(there, 303))

    router.add_api_route("/signin/leave/{provider}", page(hall, leave), methods=["GET"])
    return router
