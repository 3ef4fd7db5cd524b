"""Errors on the wire: problem+json (RFC 9457) with the stable code, never a traceback."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from aggregator.errors import NotFound
from medveil.errors import Error
from medveil.log import get_logger

STATUS = {
    "ambiguous-length": 400,
    "broken-off": 400,
    "malformed-request": 400,
    "bad-signature": 401,
    "bad-token": 401,
    "stale-request": 401,
    "unknown-sender": 401,
    "sign-in-first": 401,
    "used-up": 401,
    "person-revoked": 403,
    "forged-form": 403,
    "wrong-password": 401,
    "sign-in-strayed": 400,
    "sign-in-unproven": 403,
    "sign-in-denied": 403,
    "no-role-here": 403,
    "provider-away": 503,
    "replayed-request": 409,
    "not-allowed": 403,
    "revoked": 403,
    "token-refused": 403,
    "wrong-certificate": 403,
    "not-a-member": 403,
    "wrong-relay": 403,
    "not-in-region": 403,
    "not-found": 404,
    "already-there": 409,
    "wrong-round": 409,
    "not-whole": 409,
    "relay-closed": 409,
    "out-of-phase": 409,
    "conflicting-message": 409,
    "ledger-behind": 409,
    "keeper-silent": 409,
    "too-slow": 408,
    "too-large": 413,
    "target-too-long": 414,
    "head-too-large": 431,
    "too-many-requests": 429,
    "wrong-length": 422,
    "bad-message": 422,
    "bad-certificate-request": 422,
    "damaged-blob": 422,
    "encoded-body": 415,
    "method-not-allowed": 405,
    "internal": 500,
    "not-ready": 503,
    "wrong-admin-key": 503,
    "overloaded": 503,
    "storage-failed": 503,
    "still-writing": 503,
    "not-leading": 502,
    "signed-before-start": 503,
}
"""By code. 502 is for "not-leading" alone: a proxy passes a request on for it and for nothing else, so no
refusal that somebody draws on purpose costs anybody else a request."""
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())
RETRY_AFTER_S = 2
log = get_logger()


class EncodedBody(Error):
    """A compressed body: not accepted, so that nothing small can become large here."""

    code = "encoded-body"

    def __init__(self) -> None:
        super().__init__(
            what="The request has a content encoding.",
            meaning="It was not read.",
            remedy="Send the body as it is.",
        )


class BadRequest(Error):
    """An address or query that no route takes."""

    code = "bad-request"

    def __init__(self) -> None:
        super().__init__(
            what="The address or a query value of the request is malformed.",
            meaning="Nothing was changed.",
            remedy="Check that node and aggregator run the same version of MedVeil.",
        )


class MethodNotAllowed(Error):
    """A known address with a method that it does not have."""

    code = "method-not-allowed"

    def __init__(self) -> None:
        super().__init__(
            what="This address does not take that method.",
            meaning="Nothing was changed.",
            remedy="Check that node and aggregator run the same version of MedVeil.",
        )


class MalformedRequest(Error):
    """Bytes that are no HTTP request."""

    code = "malformed-request"

    def __init__(self) -> None:
        super().__init__(
            what="This is no valid HTTP request.",
            meaning="The connection is closed; nothing was changed.",
            remedy="Check what stands between the node and the aggregator.",
        )


class AmbiguousLength(Error):
    """A request that says twice how long it is: two programs could read two different requests."""

    code = "ambiguous-length"

    def __init__(self) -> None:
        super().__init__(
            what="The request states the length of its body more than once.",
            meaning="It was not read.",
            remedy="Send one Content-Length, or one Transfer-Encoding.",
        )


class HeadTooLarge(Error):
    """Too many headers, or too large ones."""

    code = "head-too-large"

    def __init__(self, *, limit: int) -> None:
        super().__init__(
            what=f"The request has too many headers, or more than {limit} bytes of them.",
            meaning="It was not read.",
            remedy="Send the headers that the protocol needs and no others; look at proxies in between.",
        )


class TargetTooLong(Error):
    """An address that no route has."""

    code = "target-too-long"

    def __init__(self, *, limit: int) -> None:
        super().__init__(
            what=f"The address of the request is longer than {limit} bytes.",
            meaning="It was not read.",
            remedy="Check that node and aggregator run the same version of MedVeil.",
        )


class TooSlow(Error):
    """Headers or a body that came too slowly."""

    code = "too-slow"

    def __init__(self) -> None:
        super().__init__(
            what="The request came too slowly and was cut off.",
            meaning="Nothing of it was used, so that slow senders cannot use up all connections.",
            remedy="Check the line. A body needs 16 KiB per second on average.",
        )


class Internal(Error):
    """A fault of the aggregator itself."""

    code = "internal"

    def __init__(self) -> None:
        super().__init__(
            what="The aggregator met a fault of its own.",
            meaning="The request may or may not have been carried out; repeating it is safe.",
            remedy="The admin finds the fault in the aggregator's log; please report it.",
        )


def problem(error: Error) -> JSONResponse:
    """The public text of an error."""
    status = STATUS.get(error.code, 422)
    content = {
        "type": f"urn:medveil:{error.code}",
        "title": error.what,
        "status": status,
        "detail": f"{error.meaning} {error.remedy}",
        "remedy": error.remedy,
        "code": error.code,
    }
    headers = {}
    if status in (429, 502, 503):
        headers["Retry-After"] = str(max(1, math.ceil(getattr(error, "retry_after_s", RETRY_AFTER_S))))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="medveil"'
    return JSONResponse(content, status_code=status, headers=headers, media_type="application/problem+json")


ALWAYS = (400, 404, 414, 415, 422, 431, 500, 502, 503)
"""Statuses that any address may answer."""
SIGNED = (401, 403, 408, 413, 429)
"""Further ones of addresses that ask who is there."""
CONFLICT = (409,)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides success, for its entry in the OpenAPI document."""
    schema = {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "remedy": {"type": "string", "description": "The end of the detail: what to do."},
            "code": {"type": "string", "enum": [*sorted(STATUS), "bad-request"]},
        },
    }
    content = {"application/problem+json": {"schema": schema}}
    return {
        s: {
            "description": ", ".join(k for k, v in STATUS.items() if v == s) or "bad-request",
            "content": content,
        }
        for s in sorted({*statuses, *ALWAYS})
    }


def known_method(method: str) -> str:
    """A method that may be logged and counted: what senders make up is not repeated."""
    return method if method in METHODS else "other"


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Turn a known error into its problem document and log its code."""
    if not isinstance(error, Error):
        raise error
    route = request.scope.get("route")
    log.info(
        "request.refused",
        code=error.code,
        route=getattr(route, "path", "?"),
        method=known_method(request.method),
    )
    return problem(error)


async def on_bad_address(request: Request, error: Exception) -> JSONResponse:
    """What the web framework itself refuses, in the same form; it never repeats what was sent."""
    status = error.status_code if isinstance(error, HTTPException) else 422
    known: dict[int, Error] = {404: NotFound(), 405: MethodNotAllowed()}
    answer = await on_error(request, known.get(status, BadRequest()))
    allowed = error.headers if isinstance(error, HTTPException) else None
    if allowed and "Allow" in allowed:
        answer.headers["Allow"] = allowed["Allow"]
    return answer


async def on_fault(request: Request, error: Exception) -> JSONResponse:
    """A fault of our own, in the same form; the web framework raises it again for the log."""
    return problem(Internal())


def bare_app(title: str, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    """An application that answers every problem in words, and has no page of its own and no route yet."""
    return FastAPI(
        title=title,
        version="1",
        lifespan=lifespan,
        exception_handlers={
            Error: on_error,
            RequestValidationError: on_bad_address,
            HTTPException: on_bad_address,
            Exception: on_fault,
        },
        openapi_url=None,  # of the aggregator people.description asks who wants it
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the redirect would repeat the Host header of whoever asks
    )
