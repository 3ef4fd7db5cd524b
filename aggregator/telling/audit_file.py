"""The audit log as a file of its own: every entry whole, so that it verifies where no database is.

One JSON object a line. The first says from where on the file goes: the hash of the entry before it, and the
admin key in force there. Entries keep number, hash and signature, so the chain goes on through the file, and
whoever knows the admin key's fingerprint can tell that nothing in it was changed or left out. That its end
was not cut off only somebody else's head can show, as with the log itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from pydantic import Field, ValidationError

from aggregator.auditlog import KEY_CHANGES, Entry, Head, KeyChange, Signers, checked
from medveil import syslog
from medveil.errors import BadFile, Error
from medveil.handed import problem_of
from medveil.ids import fingerprint
from medveil.outside import NotPlain, decode_json
from medveil.shown import plain
from medveil.values import Frozen, Sha256

FORMAT: Literal["medveil audit log 1"] = "medveil audit log 1"
LINE_BYTES = 16_384
"""Longest line; an entry takes some hundred bytes."""
PROGRAM, KIND, BEGINS = "medveil-aggregator", "AUDIT", "AUDIT-BEGINS"
Format = Literal["jsonl", "syslog"]
T = TypeVar("T", bound=Frozen)
Bytes = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=256)]


class OtherAdminKey(Error):
    """An exported audit log that the expected key does not vouch for."""

    code = "audit-of-another-key"

    def __init__(self, *, key: bytes) -> None:
        super().__init__(
            what="The admin key of this fingerprint does not vouch for the exported audit log.",
            meaning=f"Its last entry is signed with the key of fingerprint {fingerprint(key)}. Another "
            "aggregator wrote it, or the key was replaced without the old one's word, or it is forged.",
            remedy="Ask the admin by telephone for the present fingerprint, or compare 'medveil node heads'.",
        )


class Header(Frozen):
    """The first line."""

    format: Literal["medveil audit log 1"] = FORMAT
    since: Annotated[int, Field(ge=0, lt=2**53)]
    """Number of the entry before the first one here; 0: it begins with the log."""
    previous: Sha256
    """Its hash."""
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The admin key in force after it."""
    consortium: Annotated[str, Field(max_length=200)] = ""


class Row(Frozen):
    """An entry of the log as a line holds it."""

    number: Annotated[int, Field(ge=1, lt=2**53)]
    time_ms: Annotated[int, Field(ge=0, lt=2**53)]
    actor: Annotated[str, Field(max_length=200)]
    action: Annotated[str, Field(max_length=200)]
    subject: Annotated[str, Field(max_length=1000)]
    details: Annotated[dict[str, str | int | None], Field(max_length=40)]
    previous: Sha256
    hash: Sha256
    signature: Bytes

    def entry(self) -> Entry:
        """As the log's own type."""
        told = self.number, self.time_ms, self.actor, self.action, self.subject, self.details
        return Entry(*told, *(bytes.fromhex(text) for text in (self.previous, self.hash, self.signature)))


def as_json(entry: Entry) -> dict[str, Any]:
    """Everything of an entry; :class:`Row` reads it back."""
    return {
        "number": entry.number,
        "time_ms": entry.time_ms,
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "details": dict(entry.details),
        "previous": entry.previous.hex(),
        "hash": entry.hash.hex(),
        "signature": entry.signature.hex(),
    }


def line_of(entry: Entry, form: Format, *, host: str = "-") -> bytes:
    """One line without its end."""
    text = _compact(as_json(entry))
    return text if form == "jsonl" else _syslog(text, KIND, entry.time_ms, host)


def header_line(header: Header, form: Format, *, time_ms: int, host: str = "-") -> bytes:
    """The first line without its end."""
    text = _compact(header.model_dump(mode="json"))
    return text if form == "jsonl" else _syslog(text, BEGINS, time_ms, host)


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()


def _syslog(text: bytes, kind: str, time_ms: int, host: str) -> bytes:
    return syslog.line(text, time_ms=time_ms, severity=syslog.NOTICE, program=PROGRAM, kind=kind, host=host)


@dataclass(frozen=True)
class Exported:
    """What a file holds, every entry of it checked."""

    since: int
    head: Head
    """Of the last entry; that before the first if there is none."""
    keys: tuple[bytes, ...]
    """The admin keys that sign it, in order."""
    trusted: bool
    """Whether a key that was asked for vouches for all of it."""

    @property
    def entries(self) -> int:
        """How many."""
        return self.head.number - self.since


def verify_file(path: Path, *, admin_key: str = "", heads: Iterable[Head] = ()) -> Exported:
    """Check an exported log alone: chain, hashes, signatures, changes of the key, heads that others saw.

    Args:
        admin_key: a fingerprint as a person typed it. It vouches for the file if it signs the end, or if each
            later key was handed over to, one by the other: the chain of hashes covers all before.
    Raises: BadFile, BadEntry, OtherAdminKey.
    """
    with _opened(path) as file:
        header = _header(path, file)
        before = Head(header.since, bytes.fromhex(header.previous))
        signers, changes, last = Signers(bytes.fromhex(header.key)), [], before
        known = [head for head in heads if head.number > header.since]
        for entry in checked(_entries(path, file), signers, heads=known, before=before):
            last = entry.head
            if entry.action in KEY_CHANGES:
                changes.append(KeyChange.read(entry))
    keys = (bytes.fromhex(header.key), *(change.new for change in changes))
    trusted = bool(admin_key)
    if trusted:
        _check_key(keys, changes, admin_key)
    return Exported(header.since, last, keys, trusted)


def _check_key(keys: tuple[bytes, ...], changes: list[KeyChange], admin_key: str) -> None:
    """Raises: OtherAdminKey."""
    for place, key in enumerate(keys):
        if _digits(admin_key) == _digits(fingerprint(key)) and all(change.word for change in changes[place:]):
            return
    raise OtherAdminKey(key=keys[-1])


def _digits(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isalnum())


def resumed(path: Path) -> Row | None:
    """The last whole entry of an exported file, for whoever goes on with it; half a line after it is cut off.

    None if it holds only its first line. Raises: BadFile, OSError.
    """
    with open(path, "rb+") as file:
        _header(path, file)
        start, size = file.tell(), file.seek(0, os.SEEK_END)
        file.seek(max(start, size - 2 * LINE_BYTES))
        tail = file.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        file.truncate(size - len(tail) + len(whole))
    if size - len(tail) + len(whole) <= start:
        return None
    return _parsed(path, 0, whole[whole[:-1].rfind(b"\n") + 1 :], Row)


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise BadFile(name=plain(path.name), problem=error.strerror or "it cannot be read") from error


def _header(path: Path, file: BinaryIO) -> Header:
    """Raises: BadFile."""
    return _parsed(path, 1, file.readline(LINE_BYTES), Header)


def _entries(path: Path, file: BinaryIO) -> Iterator[Entry]:
    """Raises: BadFile."""
    number = 1
    while text := file.readline(LINE_BYTES):
        number += 1
        yield _parsed(path, number, text, Row).entry()


def _parsed(path: Path, number: int, text: bytes, kind: type[T]) -> T:
    """A line of either format. Raises: BadFile."""
    name = f"{plain(path.name)}, line {number}" if number else f"{plain(path.name)}, its last line"
    if not text.endswith(b"\n"):
        raise BadFile(name=name, problem="it is cut off or longer than any line of an exported log")
    start = max(0, text.find(b"{")) if text.startswith(b"<") else 0
    try:
        return kind.model_validate(decode_json(text[start:], max_bytes=LINE_BYTES, max_items=200))
    except ValidationError as error:
        raise BadFile(name=name, problem=problem_of(error)) from error
    except NotPlain as error:
        raise BadFile(name=name, problem=f"as JSON it is refused: {plain(error)}") from error
