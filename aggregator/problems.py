"""Errors on the wire: problem+json (RFC 9457) with the stable code, never a traceback."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from medveil.errors import Error
from medveil.log import get_logger

STATUS = {
    "broken-off": 400,
    "bad-signature": 401,
    "stale-request": 401,
    "unknown-sender": 401,
    "replayed-request": 409,
    "not-allowed": 403,
    "token-refused": 403,
    "not-a-member": 403,
    "not-found": 404,
    "already-there": 409,
    "wrong-round": 409,
    "out-of-phase": 409,
    "conflicting-message": 409,
    "too-large": 413,
    "wrong-length": 422,
    "bad-message": 422,
    "damaged-blob": 422,
    "encoded-body": 415,
    "method-not-allowed": 405,
    "storage-failed": 503,
    "not-leading": 503,
}
RETRY_AFTER_S = 2
log = get_logger()


class NotFound(Error):
    """A thing that is not there, or that the sender may not know of."""

    code = "not-found"

    def __init__(self) -> None:
        super().__init__(
            what="There is no such thing here for this sender.",
            meaning="Nothing was changed.",
            remedy="Check the address, and that this hospital is on the plan's roster.",
        )


class NotAllowed(Error):
    """The sender is known but may not do this."""

    code = "not-allowed"

    def __init__(self) -> None:
        super().__init__(
            what="This sender may not do this.",
            meaning="Nothing was changed.",
            remedy="Ask the consortium's admin for a token with the right role.",
        )


class TooLarge(Error):
    """A body over the limit, refused before it was read in full."""

    code = "too-large"

    def __init__(self, *, limit: int) -> None:
        super().__init__(
            what=f"The request is larger than {limit} bytes.",
            meaning="It was not read.",
            remedy="Send masked vectors in segments of 16 MiB.",
        )


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


def problem(error: Error) -> JSONResponse:
    """The public text of an error."""
    status = STATUS.get(error.code, 422)
    content = {
        "type": f"urn:medveil:{error.code}",
        "title": error.what,
        "status": status,
        "detail": f"{error.meaning} {error.remedy}",
        "code": error.code,
    }
    later = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else None
    return JSONResponse(content, status_code=status, headers=later, media_type="application/problem+json")


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Turn a known error into its problem document and log its code."""
    if not isinstance(error, Error):
        raise error
    route = request.scope.get("route")
    log.info("request.refused", code=error.code, route=getattr(route, "path", "?"), method=request.method)
    return problem(error)


async def on_bad_address(request: Request, error: Exception) -> JSONResponse:
    """What the web framework itself refuses, in the same form; it never repeats what was sent."""
    status = error.status_code if isinstance(error, HTTPException) else 422
    known: dict[int, Error] = {404: NotFound(), 405: MethodNotAllowed()}
    return await on_error(request, known.get(status, BadRequest()))
