"""What an author writes about a new study on the command line, read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pydantic import ValidationError

from medveil.errors import BadOption
from medveil.groups import Groups
from medveil.ids import fingerprint
from medveil.persons import Persons
from medveil.shown import plain
from medveil.study import Target


def class_names(text: str | None) -> list[str] | None:
    """Names separated by commas."""
    return [part.strip() for part in text.split(",")] if text else None


def edges_of(text: str | None) -> tuple[int, ...] | None:
    """Edges of the tensor, written like 64x64; None without. Raises: BadOption."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise BadOption(problem=f"--size: '{plain(text, 40)}' is not like 64x64 or 40x48x40") from error


def target_of(column: str | None, between: str | None, unit: str) -> Target | None:
    """The number of a regression, its range written like 18:90; None without either. Raises: BadOption."""
    if column is None and between is None:
        return None
    low, _, high = (between or "").partition(":")
    try:
        return Target(column=column or "", low=float(low), high=float(high), unit=unit)
    except ValueError as error:
        problem = "--target-column and --target-range name the number and its range, like age and 18:90"
        raise BadOption(problem=problem) from error


def groups_of(texts: Sequence[str]) -> dict[str, Groups]:
    """Groups written like ``sex=F,M``, ``age=0,40,65,120`` or ``scanner:ManufacturerModelName=Skyra,Prisma``.

    Numbers that rise, three or more, are the edges of bands; any other list are the words in the cells.
    Raises: BadOption.
    """
    found: dict[str, Groups] = {}
    for text in texts:
        left, _, right = text.partition("=")
        name, _, column = (part.strip() for part in left.partition(":"))
        words = [part.strip() for part in right.split(",")]
        edges = _rising(words)
        try:
            if name in found:
                raise ValueError("the name stands twice")
            kinds = {"edges": edges} if edges else {"values": words}
            found[name] = Groups.model_validate({"column": column or name, **kinds})
        except ValueError as error:
            told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise BadOption(
                problem=f"--group: '{plain(text, 80)}' is not like sex=F,M or age=0,40,65,120 ({told})"
            ) from error
    return found


def _rising(words: Sequence[str]) -> tuple[float, ...]:
    """Numbers, if that is what these are, three or more, each above the last; else nothing."""
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        return ()
    return numbers if len(numbers) > 2 and all(low < high for low, high in pairwise(numbers)) else ()


def persons_lines(persons: Persons) -> list[str]:
    """By whom persons are known in a new study, and what its author compares by telephone."""
    keepers = ", ".join(plain(one.name) for one in persons.keepers)
    return [
        f"persons  each in one hospital only, known by {plain(persons.identifier)} to the keepers {keepers}",
        f"         fingerprint {fingerprint(persons.hash)}: compare it with the admin's by telephone",
    ]
