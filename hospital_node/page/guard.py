"""What stands before every answer of the page: is the request ours at all, and what may a browser do with it.

A browser reaches loopback for whatever site it shows. Three things keep other sites out. The host must be
this page's own name and port, so that a foreign name that leads to 127.0.0.1 (DNS rebinding) opens nothing.
What the browser itself says of a request's origin must be this page, for anything that changes something and
for anything that is loaded into a page. And each form carries a seal (:mod:`hospital_node.page.door`).
Programs of other users on this machine reach the port as well: they have neither link nor password.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hospital_node.page.errors import CrossSite, ForeignHost, PageRefusal, SomethingElse
from medveil.log import get_logger
from medveil.look.browsers import HEADERS

SAFE = ("GET", "HEAD")
log = get_logger()


class Guard:
    """Around the whole application.

    Args:
        port: of this page.
        refuse: makes the answer to a refused request, and records it.
    """

    def __init__(self, app: ASGIApp, port: int, refuse: Callable[[Request, PageRefusal], Response]) -> None:
        self._app, self._refuse = app, refuse
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        answer = self._app
        try:
            self._check(scope["method"], Headers(scope=scope))
        except PageRefusal as refusal:
            answer = self._refuse(Request(scope), refusal)

        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            await answer(scope, receive, guarded)
        except Exception as error:
            log.error("page.failed", code=type(error).__name__)
            if begun:
                return  # the connection is cut: half an answer is none
            await self._refuse(Request(scope), SomethingElse())(scope, receive, guarded)

    def _check(self, method: str, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise ForeignHost()
        site, origin = headers.get("sec-fetch-site", ""), headers.get("origin")
        ours = f"http://{hosts[0].lower()}"
        if method in SAFE:
            # Whoever follows a link from elsewhere is not signed in by it: the cookie stays at home.
            if site in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
                raise CrossSite()
            if origin is not None and origin.lower() != ours:
                raise CrossSite()
            return
        if origin is None or origin.lower() != ours or site not in ("", "same-origin"):
            raise CrossSite()
