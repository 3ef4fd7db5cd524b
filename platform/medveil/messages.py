"""What node and aggregator say to each other over HTTPS, as deterministic CBOR.

The messages of the masking protocol itself are in ``privacy.secagg.messages``; they travel inside these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from medveil.errors import RemoteProtocolError
from medveil.identity import Identity, verify
from medveil.ids import canonical, digest
from medveil.outside import decode_cbor
from medveil.shown import is_plain
from medveil.values import Name

Hash = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature = Annotated[bytes, Field(min_length=64, max_length=64)]
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
        return canonical(self.model_dump(by_alias=True))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode and validate.

        Raises: BadMessage, whatever is wrong.
        """
        if len(data) > MAX_MESSAGE_BYTES:
            raise BadMessage()
        try:
            message = cls.model_validate(decode_cbor(data), by_alias=True, by_name=False)
        except (ValueError, TypeError) as error:  # NotPlain and pydantic's ValidationError are ValueErrors
            raise BadMessage() from error
        if message.to_bytes() != data:
            raise BadMessage()  # a second spelling of the same message
        return message


class Enrol(Wire):
    """A newcomer shows its one-time token. Its name and key are in the request's head, and it signs that."""

    token: Annotated[str, Field(min_length=1, max_length=200)]


def enrolment_path(public_key: bytes) -> str:
    """Where a newcomer with this key enrols: the key is known, and signed, before the body is read."""
    return f"/v1/enrol?key={public_key.hex()}"


HANDED_OVER = "admin-key.handed-over"
"""The action of the audit entry by which one admin key hands over to the next."""
ADMIN_KEY = "admin-key"
"""The subject of that entry."""
MOST_HAND_OVERS = 200


class HandOver(Wire):
    """The audit entry by which one admin key hands over to the next, signed by both.

    The old key's word covers the entry's number and the hash of the entry before, so it is good at one place
    of one log. The new key signs the entry itself, which holds the word, and so shows that somebody has it.
    """

    number: Annotated[int, Field(ge=1, lt=2**53)]
    time_ms: Annotated[int, Field(ge=0, lt=2**53)]
    previous: Hash
    """Hash of the entry before."""
    old_key: Hash
    new_key: Hash
    word: Signature
    """The old key's signature, made by :func:`sign_hand_over`."""
    signature: Signature
    """The new key's signature under the entry."""

    @property
    def hash(self) -> bytes:
        """The entry's hash."""
        details = hand_over_details(self.old_key, self.new_key, self.word)
        told = (self.number, self.time_ms, "admin", HANDED_OVER, ADMIN_KEY, details)
        return audit_entry_hash(told, self.previous)

    def check(self) -> None:
        """Raises: BadSignature unless both keys have signed."""
        check_hand_over(self.old_key, self.word, self.number, self.previous, self.new_key)
        check_audit_head(self.new_key, self.number, self.hash, self.signature)


def hand_over_details(old: bytes, new: bytes, word: bytes) -> dict[str, str]:
    """What the entry of a hand-over tells."""
    return {"old": old.hex(), "new": new.hex(), "word": word.hex()}


def sign_hand_over(old: Identity, number: int, previous: bytes, new: bytes) -> bytes:
    """The old key's word that from entry ``number`` on, which follows ``previous``, the new key signs."""
    return old.sign("hand-over-admin-key", number.to_bytes(8, "big"), previous, new)


def check_hand_over(old: bytes, word: bytes, number: int, previous: bytes, new: bytes) -> None:
    """Raises: BadSignature unless it is the old key's word for exactly this."""
    verify(old, word, "hand-over-admin-key", number.to_bytes(8, "big"), previous, new)


class AuditHead(Wire):
    """The newest entry of the aggregator's audit log: who keeps it notices a log that was cut or forked."""

    number: Annotated[int, Field(ge=1, lt=2**53)]
    hash: Hash
    key: Hash
    """The admin's public key, which signs the log."""
    signature: Signature
    succession: Annotated[tuple[HandOver, ...], Field(max_length=MOST_HAND_OVERS)] = ()
    """Every hand-over from one admin key to the next up to ``key``, the oldest first."""

    def check(self, key: bytes) -> None:
        """Raises: BadSignature unless this key has signed the head."""
        check_audit_head(key, self.number, self.hash, self.signature)

    def __str__(self) -> str:
        return f"{self.number}:{self.hash.hex()}"


def audit_entry_hash(told: tuple[int, int, str, str, str, Mapping[str, Any]], previous: bytes) -> bytes:
    """The hash of an audit entry.

    Args:
        told: number, Unix time in ms, actor, action, subject, details.
        previous: hash of the entry before.
    """
    *words, details = told
    return digest("audit-entry", canonical([*words, dict(details)]), previous)


def check_audit_head(key: bytes, number: int, hash_: bytes, signature: bytes) -> None:
    """Raises: BadSignature unless this key has signed the audit entry of that number and hash."""
    verify(key, signature, "audit-entry", number.to_bytes(8, "big"), hash_)


class LedgerEnd(Wire):
    """Where a hospital's privacy ledger ends, for the aggregator to keep: only the hospital can read it."""

    count: Annotated[int, Field(ge=0, lt=2**20)]
    """How often its operator has gone on from an older copy."""
    number: Annotated[int, Field(ge=1, lt=2**31)]
    """Rows of the ledger."""
    mark: Hash
    """A keyed hash of the last row."""
    signature: Signature
    """The hospital's, made by :func:`sign_ledger_end`."""

    def __str__(self) -> str:
        return f"{self.count}.{self.number}.{self.mark.hex()}.{self.signature.hex()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``str(end)`` back. Raises: BadMessage."""
        try:
            count, number, mark, signature = text.split(".")
            end = cls(
                count=int(count),
                number=int(number),
                mark=bytes.fromhex(mark),
                signature=bytes.fromhex(signature),
            )
        except ValueError as error:
            raise BadMessage() from error
        if str(end) != text:
            raise BadMessage()
        return end

    def check(self, key: bytes) -> None:
        """Raises: BadSignature unless the hospital of this key has told it."""
        numbers = (self.count.to_bytes(4, "big"), self.number.to_bytes(4, "big"))
        verify(key, self.signature, "ledger-end", *numbers, self.mark)

    def follows(self, other: LedgerEnd) -> bool:
        """Whether ``other`` is an older one, or another one of this place."""
        mine, theirs = (self.count, self.number), (other.count, other.number)
        return theirs < mine or (theirs == mine and other.mark != self.mark)


def sign_ledger_end(identity: Identity, count: int, number: int, mark: bytes) -> LedgerEnd:
    """The hospital's word on where its ledger ends."""
    signature = identity.sign("ledger-end", count.to_bytes(4, "big"), number.to_bytes(4, "big"), mark)
    return LedgerEnd(count=count, number=number, mark=mark, signature=signature)


LONGEST_REASON = 300
RefusalKind = Literal["refused", "withdrawn"]
"""Never approved, or an approval that was taken back."""


def _plain_reason(text: str) -> str:
    if not is_plain(text) or not text.strip():
        raise ValueError("it is empty, or holds characters that cannot be shown")
    return text


Reason = Annotated[str, Field(max_length=LONGEST_REASON), AfterValidator(_plain_reason)]
"""Why, in the operator's own words: one line that can be shown."""


class SignedDirective(Wire):
    """What the admin has said of a plan, for its hospitals; a later one replaces it."""

    plan: Hash
    order: Literal["pause", "resume", "stop", "withdraw"]
    reason: Reason
    time_ms: Annotated[int, Field(ge=0, lt=2**53)]
    signature: Signature
    """The admin's, made by :func:`sign_directive`."""

    def check(self, key: bytes) -> None:
        """Raises: BadSignature unless this admin key has signed it."""
        verify(key, self.signature, "directive", *_directive_parts(self))


def sign_directive(
    admin: Identity,
    plan: bytes,
    order: Literal["pause", "resume", "stop", "withdraw"],
    reason: str,
    time_ms: int,
) -> SignedDirective:
    """The admin's word on exactly this plan, at this time."""
    bare = SignedDirective(plan=plan, order=order, reason=reason, time_ms=time_ms, signature=bytes(64))
    return bare.model_copy(update={"signature": admin.sign("directive", *_directive_parts(bare))})


def _directive_parts(told: SignedDirective) -> tuple[bytes, ...]:
    return told.plan, told.order.encode(), told.reason.encode(), told.time_ms.to_bytes(8, "big")


def _is_absent(value: object) -> bool:
    return not value


class PlanOffer(Wire):
    """A plan as the aggregator stores it: its JSON, the admin's signature, the approvals so far."""

    plan: str
    admin_key: Hash
    admin_signature: Signature
    approvals: dict[Name, bytes]


class PlanOffers(Wire):
    """Every plan whose roster names the asking hospital."""

    offers: tuple[Annotated[PlanOffer | object, Field(union_mode="left_to_right")], ...]
    """One that is no :class:`PlanOffer` stays as it came, for it says nothing about the others."""
    head: AuditHead | None = None
    """An answer without it is refused."""
    ledger: LedgerEnd | None = None
    """Where the asking hospital's ledger ended when it was heard of last."""
    directives: tuple[SignedDirective, ...] = Field(default=(), exclude_if=_is_absent)
    """The admin's last words on plans that name the hospital, offered or not; left out unless asked for."""


class Approval(Wire):
    """An operator's signature under a plan."""

    signature: Signature


class Refusal(Wire):
    """A hospital's word that it takes no part in a plan, or no part any more."""

    kind: RefusalKind
    reason: Reason
    signature: Signature
    """The hospital's, made by :func:`medveil.plan.sign_refusal`."""


class Work(Wire):
    """What a hospital is to do next in one plan."""

    model_config = ConfigDict(validate_by_name=True)

    mark: str = Field(validation_alias="token", serialization_alias="token")
    """Changes whenever there is something new; the hospital sends it back with its next poll."""
    status: Literal["waiting", "running", "finished"]
    round: int = 0
    attempt: int = 0
    kind: str = ""
    phase: str = ""
    model: bytes = b""
    payload: bytes = b""
    """The aggregator's protocol message for this hospital in this phase; empty if there is none."""
    head: AuditHead | None = None
    """An answer without it is refused."""
    directive: SignedDirective | None = Field(default=None, exclude_if=_is_absent)
    """The admin's last word on the plan, for a node that asks for it and has an older one. It is left out
    otherwise, so that nodes and aggregators without it can read each other."""
    version: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(default=None, exclude_if=_is_absent)
    """Number of the version that an attempt starts from, where its proof is told."""
    proof: bytes = Field(default=b"", exclude_if=_is_absent)
    """What proves that version, as a request for it would be answered: in phase ``advertise``, for a node
    that asks for the admin's word as well."""


Json = dict[str, Any]


def seconds_to_wait(retry_after: str | None) -> float:
    """What a ``Retry-After`` header asks for: at most a minute, one second if it names no whole number.

    Source: RFC 9110, section 10.2.3. The other form, a date, needs two clocks that agree.
    """
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return 1.0
    return min(float(retry_after[:9]), LONGEST_WAIT_S)
