"""What node and aggregator say to each other over HTTPS, as deterministic CBOR.

The messages of the masking protocol itself are in ``privacy.secagg.messages``; they travel inside these.
"""

from __future__ import annotations

from io import BytesIO
from typing import Annotated, Any, Literal, Self

import cbor2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medveil.errors import RemoteProtocolError
from medveil.ids import canonical
from medveil.study import Name

Hash = Annotated[bytes, Field(min_length=32, max_length=32)]
MAX_MESSAGE_BYTES = 4 * 2**20
LONGEST_WAIT_S = 60.0


class BadMessage(RemoteProtocolError):
    """Bytes that are no message of this protocol."""

    code = "bad-message"

    def __init__(self) -> None:
        super().__init__(
            what="A message could not be read.",
            meaning="It is damaged, or its sender runs another version; it was not used.",
            remedy="Check that node and aggregator run the same version of MedVeil.",
        )


class Wire(BaseModel):
    """A message body with exactly these fields and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return canonical(self.model_dump())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode and validate.

        Raises: BadMessage, whatever is wrong.
        """
        if len(data) > MAX_MESSAGE_BYTES:
            raise BadMessage()
        try:
            source = BytesIO(data)
            value = cbor2.load(source)
            message = cls.model_validate(_tuples(value))
        except (cbor2.CBORDecodeError, ValidationError, ValueError, RecursionError, TypeError) as error:
            raise BadMessage() from error
        if source.read(1) or message.to_bytes() != data:
            raise BadMessage()  # trailing bytes, or a second spelling of the same message
        return message


def _tuples(value: object) -> object:
    """CBOR arrays arrive as lists; the messages hold tuples."""
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value


class Enrol(Wire):
    """A newcomer shows its one-time token and its public key; the request is signed with that key."""

    token: Annotated[str, Field(min_length=1, max_length=200)]
    name: Name
    public_key: Hash


class PlanOffer(Wire):
    """A plan as the aggregator stores it: its JSON, the admin's signature, the approvals so far."""

    plan: str
    admin_key: Hash
    admin_signature: Annotated[bytes, Field(min_length=64, max_length=64)]
    approvals: dict[Name, bytes]


class PlanOffers(Wire):
    """Every plan whose roster names the asking hospital."""

    offers: tuple[PlanOffer, ...]


class Approval(Wire):
    """An operator's signature under a plan."""

    signature: Annotated[bytes, Field(min_length=64, max_length=64)]


class Work(Wire):
    """What a hospital is to do next in one plan."""

    token: str
    """Changes whenever there is something new; the hospital sends it back with its next poll."""
    status: Literal["waiting", "running", "finished"]
    round: int = 0
    attempt: int = 0
    kind: str = ""
    phase: str = ""
    model: bytes = b""
    payload: bytes = b""
    """The aggregator's protocol message for this hospital in this phase; empty if there is none."""


Json = dict[str, Any]


def seconds_to_wait(retry_after: str | None) -> float:
    """What a ``Retry-After`` header asks for: at most a minute, one second if it names no whole number.

    Source: RFC 9110, section 10.2.3. The other form, a date, needs two clocks that agree.
    """
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return 1.0
    return min(float(retry_after[:9]), LONGEST_WAIT_S)
