"""What all pages of the way in share: how they are shown, how they refuse, and how they let somebody in."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from aggregator.access.oidc.flow import COOKIE as FLOW_COOKIE
from aggregator.access.oidc.provider import ProviderLine, redirect_of
from aggregator.access.sessions import COOKIE
from aggregator.settings import Settings
from aggregator.web.entrance.guard import guarded, language_in, way_back
from aggregator.web.entrance.painter import Painter
from aggregator.web.entrance.rules import RulesNow
from aggregator.web.problems import STATUS
from medveil.errors import Error
from medveil.log import get_logger

log = get_logger()
Page = Callable[[Request], Awaitable[Response]]


class Hall:
    """Before the pages of one aggregator."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.painter = settings, Painter(settings)
        self.lines = {
            one.name: ProviderLine(one, settings.folder, redirect_of(settings.url, one))
            for one in settings.sign_in.providers
        }
        self.rules = RulesNow(settings)

    def show(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        back: str | None = None,
        refused: Error | None = None,
        **values: object,
    ) -> Response:
        """A page in the reader's language."""
        to = way_back(request.query_params.get("back", "/")) if back is None else back
        html = self.painter.page(template, language_in(request), back=to, refused=refused, **values)
        return guarded(HTMLResponse(html, status))

    def refuse(
        self, request: Request, error: Error, template: str = "refused.html.j2", *, back: str | None = None
    ) -> Response:
        """Say on a page why nobody was signed in; the log has the code and the reason."""
        log.info("sign-in.refused", code=error.code, reason=error.what)
        status = STATUS.get(error.code, 422)
        answer = self.show(request, template, status=status, refused=error, back=back)
        wait = getattr(error, "retry_after_s", None)
        if wait is not None:
            answer.headers["Retry-After"] = str(max(1, math.ceil(wait)))
        return answer

    def welcome(self, cookie: str, back: str) -> Response:
        """To the page that was asked for, with the cookie of a session."""
        answer = RedirectResponse(way_back(back), 303)
        # Lax: the way back from a provider begins on another site, and a strict cookie would stay at home.
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=int(self.settings.sign_in.life_s),
            secure=True,
            httponly=True,
            samesite="lax",
        )
        answer.delete_cookie(FLOW_COOKIE, secure=True, httponly=True, samesite="lax")
        return guarded(answer)


def page(hall: Hall, answer: Page) -> Page:
    """The same, with a page for every refusal."""

    async def route(request: Request) -> Response:
        try:
            return await answer(request)
        except Error as error:
            return hall.refuse(request, error)

    return route
