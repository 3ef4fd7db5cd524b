"""What addresses and queries may hold, and the media types of bodies and answers."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BeforeValidator

CBOR, BYTES = "application/cbor", "application/octet-stream"
PEM = "application/x-pem-file"
JSON = "application/json"
POLL_LIMIT_S = 30.0
READING = "reading"
"""Tag of what people may ask for with a token."""
_PLAIN_NUMBER = re.compile("0|[1-9][0-9]{0,15}")


def plain_number(text: object) -> object:
    """A number in an address, if it has its one spelling: no sign, space, leading zero or underscore.

    Raises: ValueError, which the web framework answers as ``bad-request``.
    """
    if isinstance(text, str) and not _PLAIN_NUMBER.fullmatch(text):
        raise ValueError("not the one spelling of a number")
    return text


PlanId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
ModelId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, BeforeValidator(plain_number), Path(ge=1, le=100_000)]
Segment = Annotated[int, BeforeValidator(plain_number), Path(ge=0, le=100_000)]
Kind = Annotated[str, Path(max_length=20)]
Key = Annotated[str, Query(pattern=r"^[0-9a-f]{64}$")]
SeenMark = Annotated[str, Query(max_length=100)]
"""The mark of a plan that the hospital has seen."""
WaitS = Annotated[float, Query(ge=0, le=POLL_LIMIT_S)]
SittingOut = Annotated[str, Query(pattern=r"^([0-9]{1,6}\.[0-9]{1,6})?$")]
Away = Annotated[bool, Query()]
End = Annotated[str, Query(pattern=r"^([0-9]{1,7}\.[0-9]{1,10}\.[0-9a-f]{64}\.[0-9a-f]{128})?$")]
"""A :class:`medveil.messages.LedgerEnd` as text."""
Word = Annotated[int | None, BeforeValidator(plain_number), Query(ge=0, le=2**53)]
"""The time (ms) of the admin's word on a plan that the hospital knows; 0 if it knows none."""
Words = Annotated[bool, Query()]
After = Annotated[int, BeforeValidator(plain_number), Query(ge=0, le=2**53)]


def takes(media_type: str) -> dict[str, Any]:
    """The entry of a raw body in the OpenAPI document."""
    schema = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def answers(media_type: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The entry of a successful answer in the OpenAPI document."""
    return {status: {"content": {media_type: {}}, "description": "Successful Response"}}
