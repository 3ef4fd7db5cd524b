"""What browsers may do with a page of the aggregator, and where a page may send them."""

from __future__ import annotations

import re
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from aggregator.web.problems import BadRequest
from medveil.catalogue import Language, language_of
from medveil.look import browsers

HEADERS = browsers.HEADERS | {"Strict-Transport-Security": "max-age=31536000"}
LONGEST_BACK, LONGEST_FORM = 300, 8_192
_PATH = re.compile(r"/(?:[A-Za-z0-9._~-][A-Za-z0-9._~/%-]*)?(?:\?[A-Za-z0-9._~/%=&:,+-]*)?")
NEVER_BACK = ("/signin", "/signout", "/v1")


def guarded(answer: Response) -> Response:
    """The same answer with what its browser must obey."""
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    return answer


def way_back(asked: str) -> str:
    """Where to go after signing in: a path of this host, and ``/`` in place of anything else.

    An address of another host (``//elsewhere``, ``/\\elsewhere``, one with a scheme) is none.
    """
    fits = len(asked) <= LONGEST_BACK and _PATH.fullmatch(asked) is not None and "//" not in asked
    return asked if fits and not asked.startswith(NEVER_BACK) else "/"


def to_sign_in(request: Request) -> str:
    """The address of the way in for whoever asks for this page."""
    query = request.url.query
    back = way_back(request.url.path + (f"?{query}" if query else ""))
    return "/signin" if back == "/" else f"/signin?back={quote(back, safe='')}"


async def form_of(request: Request) -> dict[str, str]:
    """A form's fields. Raises: BadRequest."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = b""
    if kind == browsers.FORM:
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST_FORM:
                raise BadRequest()
    try:
        return browsers.fields_of(body)
    except ValueError as error:
        raise BadRequest() from error


def language_in(request: Request) -> Language:
    """That the person chose, or else the browser asks for."""
    chosen = request.cookies.get(browsers.LANGUAGE_COOKIE, "")
    return language_of(request.headers.get("accept-language", ""), chosen)


def is_twin(request: Request) -> bool:
    """Whether a JSON twin is asked for."""
    return request.url.path.endswith(".json")


def wants_page(request: Request) -> bool:
    """Whether a person's browser goes to a page, so that it may be sent to the way in."""
    if request.method not in ("GET", "HEAD") or is_twin(request) or "hx-request" in request.headers:
        return False
    accepted = request.headers.get("accept", "").strip().lower()
    if accepted.startswith(("text/event-stream", "application/json")):
        return False
    return request.headers.get("sec-fetch-mode", "navigate") == "navigate"
