"""The record of transmissions as people look at it: read, checked, added up, handed out."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hospital_node.transmissions.entries import (
    LINE_BYTES,
    NOTHING,
    BadTransmission,
    End,
    Entry,
    Header,
    checked,
    read_header,
    read_line,
)
from hospital_node.transmissions.record import FILE, archived
from hospital_node.transmissions.requests import MASKED, NOTES
from medveil.errors import Error
from medveil.files import replace_durably
from medveil.identity import BadSignature, Identity
from medveil.identity import verify as check_signature
from medveil.ids import fingerprint, is_fingerprint
from medveil.outside import NotPlain, decode_json

EXPORTED, CLOSING = "transmissions-exported", b'{"end":'

NEVER = (
    "images, outlines, labels and reports of any kind, whole or in part",
    "names, numbers, pseudonyms and dates of patients; names of files and folders",
    "what this hospital's model learned by itself: updates leave only under masks",
    "this node's keys, and the keys that open the masks while a sum is not agreed",
)
"""What is in no request, in words."""


class NoRecord(Error):
    """There is no record of transmissions."""

    code = "no-sent-record"

    def __init__(self) -> None:
        super().__init__(
            what="There is no record of transmissions here.",
            meaning="This node has sent nothing since it keeps one, or the file was taken away.",
            remedy="Name the node's folder with --folder, or the file. Was it taken away? Find out by whom.",
        )


class WrongKey(Error):
    """The record belongs to another node."""

    code = "sent-of-another-key"

    def __init__(self, *, found: str) -> None:
        super().__init__(
            what=f"The record was written with the key of fingerprint {found}.",
            meaning="It is another node's, or somebody has written it anew; nothing in it was believed.",
            remedy="Compare the fingerprint with the one that the hospital tells you by telephone.",
        )


@dataclass(frozen=True)
class Verified:
    """A record that is whole from its first entry to its last."""

    node: str
    key: bytes
    first: int
    """Number of its first entry; more than 1 if older files were taken elsewhere."""
    end: End
    closed: bool = False
    """Whether a signed closing line says that this is all."""


def files_of(folder: Path) -> list[Path]:
    """The record's files, the oldest first. Raises: NoRecord."""
    files = [path for path in [*archived(folder), folder / FILE] if path.exists()]
    if not files:
        raise NoRecord()
    return files


def read(files: Sequence[Path]) -> tuple[Header, Iterator[Entry]]:
    """The first header, and the entries of all files, unchecked.

    A last line that a crash has left unfinished is left out. Raises: BadTransmission, also while it is read.
    """
    with open(files[0], "rb") as file:
        header = read_header(file.readline(LINE_BYTES))
    return header, itertools.chain.from_iterable(map(_entries, files))


def _entries(path: Path) -> Iterator[Entry]:
    with open(path, "rb") as file:
        number = read_header(file.readline(LINE_BYTES)).before.number
        while line := file.readline(LINE_BYTES):
            number += 1
            if line.startswith(CLOSING):
                return
            if not line.endswith(b"\n"):
                if len(line) < LINE_BYTES:
                    return
                raise BadTransmission(number=number, problem="its line is too long")
            entry = read_line(line, number=number)
            number = entry.number
            yield entry


def verify(files: Sequence[Path], *, key: bytes | str | None = None, kept: End | None = None) -> Verified:
    """Check every entry.

    Args:
        key: the node's public key or its fingerprint; None: believe the key that the file names.
        kept: the end that the node's journal holds.
    Raises: BadTransmission at the first bad entry, or if the record ends before ``kept``; WrongKey.
    """
    header, entries = read(files)
    named = key is None or (is_fingerprint(key, header.key) if isinstance(key, str) else key == header.key)
    if not named:
        raise WrongKey(found=fingerprint(header.key))
    end, seen = header.before, kept is None or kept.number <= header.before.number
    for entry in checked(entries, header.key, header.before):
        end = entry.end
        if kept is not None and entry.number == kept.number:
            seen = True
            if entry.hash != kept.hash:
                raise BadTransmission(number=entry.number, problem="the journal has seen another one")
    if kept is not None and not seen:
        _check_kept(kept, header.key)
        problem = f"it is missing: the record was cut, for the journal has seen entry {kept.number}"
        raise BadTransmission(number=end.number + 1, problem=problem)
    closing = _closing(files[-1])
    if closing is not None:
        _check_closing(closing, end, header.key)
    return Verified(header.node, header.key, header.before.number + 1, end, closed=closing is not None)


def _check_kept(kept: End, key: bytes) -> None:
    try:
        kept.check(key)
    except BadSignature as error:
        problem = "the journal's end of the record is not signed by this node"
        raise BadTransmission(number=kept.number, problem=problem) from error


def export(files: Sequence[Path], target: Path, signer: Identity) -> Verified:
    """Write all that is there into one file, with a signed closing line, once it is checked.

    Raises: what :func:`verify` raises, OSError.
    """
    found = verify(files, key=signer.public_key)
    header, entries = read(files)
    end = found.end
    signature = signer.sign(EXPORTED, end.number.to_bytes(8, "big"), end.hash)
    told = {"end": end.number, "hash": end.hash.hex(), "signature": signature.hex()}
    until = itertools.takewhile(lambda entry: entry.number <= end.number, entries)
    lines = [header.to_line(), *(entry.to_line() for entry in until), json.dumps(told).encode() + b"\n"]
    replace_durably(target, *lines, private=True)
    return found


def _closing(path: Path) -> End | None:
    """The closing line of an exported file, unchecked; None if there is none."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LINE_BYTES))
        last = file.read()[:-1].rpartition(b"\n")[2]
    if not last.startswith(CLOSING):
        return None
    try:
        value = decode_json(last, max_bytes=LINE_BYTES)
        return End(int(value["end"]), bytes.fromhex(value["hash"]), bytes.fromhex(value["signature"]))
    except (NotPlain, KeyError, TypeError, ValueError) as error:
        raise BadTransmission(number=0, problem="its closing line cannot be read") from error


def _check_closing(closing: End, end: End, key: bytes) -> None:
    try:
        check_signature(key, closing.signature, EXPORTED, closing.number.to_bytes(8, "big"), closing.hash)
    except BadSignature as error:
        problem = "the closing line is not signed by this node"
        raise BadTransmission(number=closing.number, problem=problem) from error
    if (closing.number, closing.hash) != (end.number, end.hash):
        problem = f"it is missing: the closing line says that the file ends with entry {closing.number}"
        raise BadTransmission(number=end.number + 1, problem=problem)


@dataclass
class Total:
    """Transmissions of one kind, for one plan."""

    count: int = 0
    bytes: int = 0
    """Of their bodies; what was sent again after a lost answer counts again."""


@dataclass(frozen=True)
class Line:
    """Transmissions that are shown in one line: the segments of one vector stand together."""

    entry: Entry
    """The last of them."""
    count: int
    bytes: int
    answer: str


@dataclass
class Summary:
    """What the record tells."""

    lines: list[Line] = field(default_factory=list)
    """The newest last."""
    totals: dict[tuple[str, str], Total] = field(default_factory=lambda: defaultdict(Total))
    """Plan (empty: none) and kind → how much."""
    quiet: Counter[str] = field(default_factory=Counter)
    """Requests that held nothing, by kind."""
    end: End = NOTHING


def summed_up(entries: Iterable[Entry], *, last: int) -> Summary:
    """Add up; with the newest ``last`` lines."""
    found, answers = Summary(), dict[int, Entry]()
    for entry in entries:
        found.end = entry.end
        if entry.kind == "answer":
            _answered(found, entry, answers.pop(_number(entry, "of"), None))
        elif entry.kind == "requests":
            counts = entry.told.get("counts")
            found.quiet.update(counts if isinstance(counts, dict) else {})
        else:
            if entry.kind not in NOTES:
                answers[entry.number] = entry
                total = found.totals[str(entry.told.get("plan", "")), entry.kind]
                total.count += 1
                total.bytes += _number(entry, "bytes")
            _add_line(found.lines, entry)
            del found.lines[:-last]
    return found


def _answered(found: Summary, answer: Entry, of: Entry | None) -> None:
    if of is None:
        return
    again = max(0, _number(answer, "tries") - 1)
    found.totals[str(of.told.get("plan", "")), of.kind].bytes += again * _number(of, "bytes")
    for place, line in enumerate(found.lines):
        if line.entry.number == of.number:
            found.lines[place] = Line(line.entry, line.count, line.bytes, str(answer.told.get("answer")))


def _add_line(lines: list[Line], entry: Entry) -> None:
    size, before = _number(entry, "bytes"), lines[-1] if lines else None
    if (
        before is not None
        and entry.kind == before.entry.kind == MASKED
        and _where(entry) == _where(before.entry)
    ):
        lines[-1] = Line(entry, before.count + 1, before.bytes + size, "")
    else:
        lines.append(Line(entry, 1, size, ""))


def _where(entry: Entry) -> tuple[object, ...]:
    return tuple(entry.told.get(k) for k in ("plan", "round", "attempt"))


def _number(entry: Entry, key: str) -> int:
    value = entry.told.get(key, 0)
    return value if isinstance(value, int) else 0
