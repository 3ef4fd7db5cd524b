"""Files that people hand to each other: read with a limit, and held against bounds before they are parsed.

A parser that is right can still take gigabytes for forty kilobytes (one TOML key of 20,000 parts), or end in
an exception of its own kind. Here the bytes are counted first, and every way to fail is a :class:`BadFile`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from medveil.errors import BadFile
from medveil.outside import NotPlain, decode_json
from medveil.shown import plain

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
STUDY_BYTES = 2**20
JSON_BYTES = 64 * 2**20
"""A result with its histograms, or the heads that a node has kept for years."""
JSON_ITEMS = 4_000_000
MOST_DEPTH = 8
"""Brackets within brackets, and parts of one dotted key."""
MOST_DOTS = 50_000
"""In a whole file, outside of texts."""
MOST_RUN = 200
"""Letters and digits in one piece, outside of texts: a name or a number."""
WORDS = {
    "extra_forbidden": "nothing of this name is known here",
    "unexpected_keyword_argument": "nothing of this name is known here",
    "missing": "it is missing",
    "tuple_type": "it should be a list",
    "dataclass_type": "it should be a list of settings by name",
    "model_type": "it should be a list of settings by name",
}
"""What the library says in the words of a programmer, by its kind of error."""


def read_whole(path: Path, most: int) -> bytes:
    """A file's bytes. Raises: BadFile if it cannot be read or is longer than ``most`` bytes."""
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a name with a zero byte
        problem = getattr(error, "strerror", None) or "it cannot be read"
        raise BadFile(name=plain(path.name), problem=problem) from error
    if len(data) > most:
        raise BadFile(name=plain(path.name), problem=f"it is longer than {most:,} bytes")
    return data


def read_toml(path: Path, most: int = STUDY_BYTES) -> dict[str, Any]:
    """A TOML file. Raises: BadFile."""
    try:
        text = read_whole(path, most).decode("utf-8")
        _check_toml(text)
        return tomllib.loads(text)
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        problem = plain(error) if isinstance(error, ValueError) else "it is nested too deeply or too large"
        raise BadFile(name=plain(path.name), problem=problem.rstrip(".")) from error


def read_json(path: Path, kind: type[M], most: int = JSON_BYTES) -> M:
    """A JSON file as a checked value. Raises: BadFile."""
    return parsed(kind, read_whole(path, most), name=path.name, most=most)


def parsed(kind: type[M], data: bytes, *, name: str, most: int = JSON_BYTES) -> M:
    """JSON as a checked value. Raises: BadFile."""
    return checked(kind.model_validate, data, name=name, most=most)


def checked(check: Callable[[Any], T], data: bytes, *, name: str, most: int = JSON_BYTES) -> T:
    """What ``check`` makes of JSON; it may raise ValidationError. Raises: BadFile."""
    try:
        return check(decode_json(data, max_bytes=most, max_items=JSON_ITEMS))
    except ValidationError as error:
        raise BadFile(name=plain(name), problem=problem_of(error)) from error
    except (NotPlain, MemoryError) as error:
        raise BadFile(name=plain(name), problem=f"as JSON it is refused: {plain(error)}") from error


def written(value: BaseModel) -> bytes:
    """The same value as JSON that people can read, as :func:`parsed` takes it."""
    return (json.dumps(value.model_dump(mode="json"), indent=2) + "\n").encode()


def problem_of(error: ValidationError) -> str:
    """Where the first problem is, and what: without the value, a link or anything that could not be shown."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = WORDS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    return f"{plain(place, 100)}: {plain(message)}" if place else plain(message)


def _check_toml(text: str) -> None:
    """One walk over the characters, outside of texts and comments. Raises: ValueError."""
    depth, dots, all_dots, run, line = 0, 0, 0, 0, 1
    place, end = 0, len(text)
    while place < end:
        character = text[place]
        if character in "\"'":
            place = _text_end(text, place)
            run = 0
            continue
        if character == "#":
            place = text.find("\n", place)
            if place < 0:
                return
            continue
        place += 1
        run = run + 1 if character.isalnum() or character in "_+-" else 0
        if character == ".":
            dots, all_dots = dots + 1, all_dots + 1
        elif character in "[{":
            depth, dots = depth + 1, 0
        elif character in "]}":
            depth, dots = max(0, depth - 1), 0
        elif character in ",=\n":
            dots = 0
        line += character == "\n"
        if depth > MOST_DEPTH or dots > MOST_DEPTH:
            raise ValueError(f"line {line} is nested more than {MOST_DEPTH} deep")
        if all_dots > MOST_DOTS:
            raise ValueError(f"it has more than {MOST_DOTS:,} dots outside of texts")
        if run > MOST_RUN:
            raise ValueError(f"line {line} holds a name or number of more than {MOST_RUN} characters")


def _text_end(text: str, start: int) -> int:
    """Where the text that begins here is over; the end of everything if nowhere."""
    mark = text[start]
    if text.startswith(mark * 3, start):
        place = start + 3
        while True:
            found = text.find(mark * 3, place)
            if found < 0:
                return len(text)
            if mark == "'" or not _escaped(text, found):
                inside = 2 if text.startswith(mark * 2, found + 3) else text.startswith(mark, found + 3)
                return found + 3 + inside
            place = found + 1
    place = start + 1
    while place < len(text) and text[place] not in (mark, "\n"):
        place += 2 if mark == '"' and text[place] == "\\" else 1
    return min(len(text), place + 1)


def _escaped(text: str, place: int) -> bool:
    back = place
    while text[back - 1] == "\\":
        back -= 1
    return (place - back) % 2 == 1
