"""The page as an application: routes, each a few lines over the reader, the door and the verbs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files

from fastapi import FastAPI
from pydantic_core import to_jsonable_python
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from hospital_node import consent
from hospital_node.operator import opened
from hospital_node.page import deciding, password
from hospital_node.page.asking import Asking
from hospital_node.page.door import LIFE_S, Door, Session
from hospital_node.page.errors import BadForm, NoSuchPart, PageRefusal, SignedOut, TooManyTries
from hospital_node.page.events import Events
from hospital_node.page.guard import Guard
from hospital_node.page.painter import Painter, mark_of
from hospital_node.page.reading import Reader
from hospital_node.page.support import bundle
from hospital_node.page.values import Panels, Trouble
from hospital_node.settings import Node
from medveil import look
from medveil.catalogue import LANGUAGES, Language, language_of
from medveil.errors import Error
from medveil.look import browsers

PANELS = ("state", "leaves", "data", "requests", "training", "ledger", "health")
LONGEST_FORM = 16_384
"""Bytes of a form; a reason of refusal is the longest text in one."""
EVERY_S = 2.0
"""Between two looks for whoever has the page open. Its age is at most this and the time of one look."""
MOST_STREAMS = 16
Form = dict[str, str]
ROUTES = {
    "approved": "/requests",
    "refused-plan": "/requests",
    "paused": "/pause",
    "resumed": "/resume",
    "leaving": "/leave",
    "withdrawn": "/leave",
    "stopping": "/stop",
    "examined": "/examine",
}
"""Event → where it is asked for."""


class Page:
    """One node's page: its parts, and what every route does.

    Args:
        port: that the page listens on; another one's cookies and requests are not its own.
        new_link: told whenever a link was used up, so that the terminal can show the next.
    """

    def __init__(
        self,
        node: Node,
        port: int,
        *,
        door: Door | None = None,
        new_link: Callable[[str], None] = lambda _: None,
        every_s: float = EVERY_S,
    ) -> None:
        self.node, self.port, self.every_s = node, port, every_s
        self.door = door or Door(lambda typed: password.is_right(node, typed))
        with opened(node):  # a new journal gets its tables before two threads want them
            pass
        self.events, self.asking = Events(node), Asking(node)
        self.reader, self.painter = Reader(node, self.asking, self.events), Painter(node.settings.name)
        self.cookie = f"medveil-page-{port}"
        self._new_link, self._streams = new_link, 0
        self._stopping = asyncio.Event()
        self._asks: set[asyncio.Task[None]] = set()

    def show_link(self) -> None:
        """Make the next link and show it."""
        self._new_link(f"http://127.0.0.1:{self.port}/enter/{self.door.new_link()}")

    def session(self, request: Request, *, acts: bool = True) -> Session:
        """Whose browser this is. Raises: SignedOut."""
        return self.door.session(request.cookies.get(self.cookie, ""), acts=acts)

    def signed_in(self, cookie: str) -> Response:
        """To the page, with its cookie."""
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, cookie, max_age=int(LIFE_S), httponly=True, samesite="strict")
        self.events.note("signed-in", "/")
        return answer

    def ask_soon(self) -> None:
        """Ask the aggregator meanwhile, if it is time to."""
        if self.asking.due() and not self._asks:
            task = asyncio.ensure_future(asyncio.to_thread(self.asking.look))
            self._asks.add(task)
            task.add_done_callback(self._asks.discard)

    def stop(self) -> None:
        """The server ends: whoever watches is let go."""
        self._stopping.set()

    async def panels(self) -> Panels:
        """All seven, as they are now."""
        return await asyncio.to_thread(self.reader.panels)

    def refuse(self, request: Request, refusal: PageRefusal) -> Response:
        """Say what was refused, and record it."""
        route = route_of(request)
        self.events.note("refused", route, refusal.code)
        if route.endswith(".json") or route in ("/live", "/here"):
            answer: Response = JSONResponse(asdict(Trouble.of(refusal)), refusal.status)
        else:
            language = language_in(request)
            template = "sign-in.html.j2" if isinstance(refusal, ENTRANCE) else "refusal.html.j2"
            html = self.painter.page(
                template,
                language,
                refused=Trouble.of(refusal),
                with_password=password.is_set(self.node),
            )
            answer = HTMLResponse(html, refusal.status)
        if isinstance(refusal, TooManyTries):
            answer.headers["Retry-After"] = str(refusal.wait_s)
        return answer

    async def stream(self, request: Request) -> AsyncIterator[str]:
        """Parts that have changed, as server-sent events, until the session ends."""
        shown = request.headers.get("last-event-id") or request.query_params.get("mark", "")
        language, panels, parts = language_in(request), None, dict[str, str]()
        self._streams += 1
        try:
            while not self._stopping.is_set():
                try:
                    session = self.session(request, acts=False)
                except SignedOut:
                    yield "event: gone\ndata: {}\n\n"
                    return
                self.ask_soon()
                now, changed = await self.panels(), dict[str, str]()
                if now != panels:
                    panels, fresh = now, self.painter.parts(now, language, session)
                    mark = mark_of(now, language, session)
                    if mark != shown:
                        changed = {name: html for name, html in fresh.items() if parts.get(name) != html}
                    parts, shown = fresh, mark
                yield f"id: {shown}\nevent: parts\ndata: {json.dumps(changed)}\n\n"
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self.every_s)
        finally:
            self._streams -= 1

    @property
    def full(self) -> bool:
        """Whether as many browsers watch as may."""
        return self._streams >= MOST_STREAMS


ENTRANCE = (SignedOut,)
"""What is answered by the way in."""


def create_app(page: Page) -> FastAPI:
    """The application; serve it on loopback only."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.page = page
    _add_ways_in(app, page)
    _add_pages(app, page)
    _add_verbs(app, page)
    _add_steering(app, page)
    app.add_exception_handler(Error, _failed)
    app.add_exception_handler(HTTPException, _failed)
    app.add_middleware(Guard, port=page.port, refuse=page.refuse)
    return app


async def _failed(request: Request, error: Exception) -> Response:
    page: Page = request.app.state.page
    if isinstance(error, PageRefusal):
        return page.refuse(request, error)
    if isinstance(error, HTTPException):
        return page.refuse(request, NoSuchPart())
    raise error


def _add_ways_in(app: FastAPI, page: Page) -> None:
    @app.get("/enter/{key}")
    async def enter(key: str) -> Response:
        cookie = page.door.enter(key)
        page.show_link()
        return page.signed_in(cookie)

    @app.get("/sign-in")
    async def sign_in(request: Request) -> Response:
        html = page.painter.page(
            "sign-in.html.j2",
            language_in(request),
            refused=None,
            with_password=password.is_set(page.node),
        )
        return HTMLResponse(html)

    @app.post("/sign-in")
    async def password_typed(request: Request) -> Response:
        form = await form_of(request)
        return page.signed_in(await asyncio.to_thread(page.door.sign_in, form.get("password", "")))

    @app.get("/language/{language}")
    async def language(language: str) -> Response:
        if language not in LANGUAGES:
            raise NoSuchPart()
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            browsers.LANGUAGE_COOKIE, language, max_age=browsers.YEAR_S, httponly=True, samesite="strict"
        )
        return answer

    for name, kind, text in (
        ("style.css", "text/css", page.painter.style()),
        ("page.js", "text/javascript", _file("page.js")),
        ("icon.svg", "image/svg+xml", look.icon().decode()),
    ):
        app.add_api_route(f"/{name}", _constant(text, kind), methods=["GET"])


def _constant(text: str, kind: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(text, media_type=kind)

    return answer


def _file(name: str) -> str:
    return (files("hospital_node.page") / "static" / name).read_text("utf-8")


def _add_pages(app: FastAPI, page: Page) -> None:
    @app.get("/")
    async def operator(request: Request) -> Response:
        if page.cookie not in request.cookies:
            return RedirectResponse("/sign-in", 303)
        session = page.session(request)
        page.ask_soon()
        panels = await page.panels()
        return HTMLResponse(page.painter.operator(panels, language_in(request), session, time.time()))

    @app.get("/live")
    async def live(request: Request) -> Response:
        page.session(request, acts=False)
        if page.full:
            raise BadForm()
        return StreamingResponse(page.stream(request), media_type="text/event-stream")

    @app.get("/support")
    async def support(request: Request) -> Response:
        page.session(request)
        text = json.dumps(bundle(page.node, await page.panels()), indent=2)
        return HTMLResponse(
            page.painter.page("support.html.j2", language_in(request), bundle=text.splitlines())
        )

    @app.get("/support.json")
    async def support_file(request: Request) -> Response:
        page.session(request)
        return Response(
            json.dumps(bundle(page.node, await page.panels()), indent=2), media_type="application/json"
        )

    @app.get("/{panel}.json")
    async def twin(request: Request, panel: str) -> Response:
        page.session(request)
        panels = await page.panels()
        if panel == "all":
            return JSONResponse({name: to_jsonable_python(getattr(panels, name)) for name in PANELS})
        if panel not in PANELS:
            raise NoSuchPart()
        return JSONResponse(to_jsonable_python(getattr(panels, panel)))


def _add_verbs(app: FastAPI, page: Page) -> None:
    @app.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        await sealed_form(page, request)
        page.door.sign_out(request.cookies.get(page.cookie, ""))
        page.events.note("signed-out", "/sign-out")
        return RedirectResponse("/sign-in", 303)

    @app.post("/here")
    async def here(request: Request) -> Response:
        await sealed_form(page, request)
        return Response(status_code=204)

    @app.post("/ask")
    async def ask(request: Request) -> Response:
        session, _ = await sealed_form(page, request)
        await asyncio.to_thread(page.asking.look, again=True)
        page.events.note("asked", "/ask")
        session.notices.append("asked")
        return RedirectResponse("/#requests", 303)

    @app.post("/requests/{plan}/approve")
    async def approve(request: Request, plan: str) -> Response:
        session, form = await sealed_form(page, request)
        if form.get("agreed") != "yes":
            raise BadForm()
        patients = form.get("patients", "").strip()
        if patients and not (patients.isascii() and patients.isdecimal() and len(patients) < 9):
            raise BadForm()
        words = form.get("words", "")

        def sign() -> None:
            page.asking.approve(plan, words, int(patients) if patients else None)

        return await _done(page, session, "approved", sign)

    @app.post("/requests/{plan}/refuse")
    async def refuse(request: Request, plan: str) -> Response:
        session, form = await sealed_form(page, request)
        reason = form.get("reason", "")
        return await _done(
            page, session, "refused-plan", lambda: deciding.refuse(page.node, page.asking, plan, reason)
        )


def _add_steering(app: FastAPI, page: Page) -> None:
    @app.post("/pause")
    async def pause(request: Request) -> Response:
        session, _ = await sealed_form(page, request)
        return await _done(page, session, "paused", lambda: consent.pause(page.node))

    @app.post("/resume")
    async def resume(request: Request) -> Response:
        session, _ = await sealed_form(page, request)
        return await _done(page, session, "resumed", lambda: consent.resume(page.node))

    @app.post("/leave")
    async def leave(request: Request) -> Response:
        session, form = await sealed_form(page, request)
        plan, reason, when = (form.get(name, "") for name in ("plan", "reason", "when"))
        if when not in ("round", "now"):
            raise BadForm()

        def take_back() -> None:
            deciding.leave(page.node, plan, reason, at_once=when == "now")

        return await _done(page, session, "withdrawn" if when == "now" else "leaving", take_back)

    @app.post("/stop")
    async def stop(request: Request) -> Response:
        session, form = await sealed_form(page, request)
        if form.get("sure") != "yes":
            raise BadForm()
        return await _done(page, session, "stopping", lambda: consent.stop(page.node))

    @app.post("/examine")
    async def examine(request: Request) -> Response:
        session, _ = await sealed_form(page, request)
        return await _done(page, session, "examined", page.reader.examine)


async def _done(page: Page, session: Session, event: str, verb: Callable[[], object]) -> Response:
    """Do something, and go back to the page, which tells what came of it."""
    route = ROUTES.get(event, f"/{event}")
    try:
        await asyncio.to_thread(verb)
    except Error as error:
        session.refused = error
        page.events.note(event, route, error.code)
    else:
        session.notices.append(event)
        page.events.note(event, route)
    return RedirectResponse("/", 303)


async def form_of(request: Request) -> Form:
    """A form's fields. Raises: BadForm."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != browsers.FORM:
        raise BadForm()
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise BadForm()
    try:
        return browsers.fields_of(body)
    except ValueError as error:
        raise BadForm() from error


async def sealed_form(page: Page, request: Request) -> tuple[Session, Form]:
    """A form that this page gave to this browser. Raises: SignedOut, BadForm, ForgedForm."""
    session = page.session(request)
    form = await form_of(request)
    session.check_seal(request.url.path, form.get("seal", ""))
    return session, form


def language_in(request: Request) -> Language:
    """That the person chose, or else the browser asks for."""
    chosen = request.cookies.get(browsers.LANGUAGE_COOKIE, "")
    return language_of(request.headers.get("accept-language", ""), chosen)


def route_of(request: Request) -> str:
    """The kind of address that was asked for; what stood in it is nobody's business."""
    parts = request.url.path.split("/")
    known = {
        "",
        "enter",
        "sign-in",
        "sign-out",
        "language",
        "live",
        "here",
        "ask",
        "requests",
        "support",
        "pause",
        "resume",
        "leave",
        "stop",
        "examine",
    }
    first = parts[1] if len(parts) > 1 else ""
    stem, dot, ending = first.partition(".")
    if first in known:
        return f"/{first}"
    return f"/{stem}.json" if dot and ending == "json" and stem in (*PANELS, "all", "support") else "/…"
