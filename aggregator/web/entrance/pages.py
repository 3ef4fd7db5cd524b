"""Routes of the way in. Each is a few lines over the visitors and the painter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from aggregator.access.sessions import ADMIN, COOKIE, MACHINE, SignInFirst, check_seal, hashed
from aggregator.errors import NotFound
from aggregator.settings import Settings
from aggregator.storage.register import Role
from aggregator.web.entrance.guard import (
    LANGUAGE_COOKIE,
    YEAR_S,
    form_of,
    guarded,
    language_in,
    to_sign_in,
    wants_page,
    way_back,
)
from aggregator.web.entrance.painter import Painter
from aggregator.web.problems import STATUS, on_error
from aggregator.web.standby import serving_of
from aggregator.web.visitors import Visitors
from medveil.catalogue import LANGUAGES
from medveil.errors import Error
from medveil.log import get_logger

LONGEST_KEY = 100
log = get_logger()


class Entrance:
    """What all its pages need."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.painter = settings, Painter(settings)

    def show(self, request: Request, template: str, *, status: int = 200, **values: object) -> Response:
        """A page in the reader's language."""
        values.setdefault("back", way_back(request.query_params.get("back", "/")))
        html = self.painter.page(template, language_in(request), **values)  # type: ignore[arg-type]
        return guarded(HTMLResponse(html, status))

    def refuse(self, request: Request, error: Error) -> Response:
        """Say on a page why nobody was signed in."""
        route = getattr(request.scope.get("route"), "path", "?")
        log.info("request.refused", code=error.code, route=route, method=request.method)
        return self.show(request, "refused.html.j2", status=STATUS.get(error.code, 422), refused=error)

    def welcome(self, cookie: str, back: str, visitors: Visitors) -> Response:
        """To the page, with the cookie of a session."""
        answer = RedirectResponse(back, 303)
        # Lax: the way back from a provider begins on another site, and a strict cookie would stay at home.
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=int(visitors.settings.sign_in.life_s),
            secure=True,
            httponly=True,
            samesite="lax",
        )
        return guarded(answer)


def add_entrance(app: FastAPI, settings: Settings) -> None:
    """Put the way in before an application's pages."""
    entrance = Entrance(settings)
    app.include_router(_router(entrance))
    app.include_router(_ways_out(entrance))

    async def sign_in_first(request: Request, error: Exception) -> Response:
        if wants_page(request):
            return guarded(RedirectResponse(to_sign_in(request), 303))
        return guarded(await on_error(request, error))

    app.add_exception_handler(SignInFirst, sign_in_first)


def _refusing(
    entrance: Entrance, answer: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """The same, with a page for every refusal."""

    async def route(request: Request) -> Response:
        try:
            return await answer(request)
        except Error as error:
            return entrance.refuse(request, error)

    return route


def _router(entrance: Entrance) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    async def sign_in(request: Request) -> Response:
        visitors = serving_of(request).visitors
        try:
            await visitors.session(request)
        except SignInFirst:
            return entrance.show(request, "sign-in.html.j2")
        return guarded(RedirectResponse(way_back(request.query_params.get("back", "/")), 303))

    async def by_link(request: Request) -> Response:
        visitors, key = serving_of(request).visitors, request.path_params["key"][:LONGEST_KEY]
        cookie, _ = await visitors.begin(
            request, name=ADMIN, role=Role.ADMIN.value, shown=ADMIN, way=MACHINE, link=hashed(key)
        )
        return entrance.welcome(cookie, "/", visitors)

    async def style(request: Request) -> Response:
        return guarded(Response(entrance.painter.style, media_type="text/css"))

    async def icon(request: Request) -> Response:
        return guarded(Response(entrance.painter.icon, media_type="image/svg+xml"))

    router.add_api_route("/signin", _refusing(entrance, sign_in), methods=["GET"])
    router.add_api_route("/signin/link/{key}", _refusing(entrance, by_link), methods=["GET"])
    router.add_api_route("/signin/style.css", style, methods=["GET"])
    router.add_api_route("/signin/icon.svg", icon, methods=["GET"])
    return router


def _ways_out(entrance: Entrance) -> APIRouter:
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
        answer = RedirectResponse("/signin/out", 303)
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="lax")
        return guarded(answer)

    async def signed_out(request: Request) -> Response:
        return entrance.show(request, "signed-out.html.j2")

    async def language(request: Request) -> Response:
        chosen = request.path_params["language"]
        if chosen not in LANGUAGES:
            raise NotFound()
        asked = request.query_params.get("back", "/")
        back = way_back(asked)
        to = "/signin" if back == "/" else f"/signin?back={back}"
        answer = RedirectResponse(to, 303)
        answer.set_cookie(
            LANGUAGE_COOKIE, chosen, max_age=YEAR_S, secure=True, httponly=True, samesite="strict"
        )
        return guarded(answer)

    router.add_api_route("/signout", _refusing(entrance, sign_out), methods=["POST"])
    router.add_api_route("/signin/out", _refusing(entrance, signed_out), methods=["GET"])
    router.add_api_route("/signin/language/{language}", _refusing(entrance, language), methods=["GET"])
    return router
