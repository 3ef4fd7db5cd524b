"""What the profile says of an attribute: the table of PS3.15, read from ``ps3_15.tsv``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal, cast

Action = Literal["X", "Z", "D", "U"]
"""Remove; empty; replace by a value that says nothing; replace a UID, or the UIDs inside a sequence."""
FILE = "ps3_15.tsv"
CURVES, OVERLAYS = range(0x5000, 0x5100), range(0x6000, 0x6100)


@cache
def _read() -> tuple[str, dict[int, str]]:
    first, *lines = files(__package__).joinpath(FILE).read_text("utf-8").splitlines()
    rows = {}
    for line in lines:
        tag, action, _name = line.split("\t")
        if "x" not in tag:
            rows[int(tag.replace(",", ""), 16)] = action
    return first.split()[3].rstrip(","), rows


def edition() -> str:
    """The edition of the standard that the table was taken from, such as ``2026c``."""
    return _read()[0]


def row(tag: int) -> str | None:
    """The action code of an attribute as the table prints it, such as ``X/Z/D``; None: it is not in it."""
    if tag >> 16 in CURVES or tag >> 16 in OVERLAYS:
        return "X"
    return _read()[1].get(tag)


def action_of(tag: int) -> Action | None:
    """What is done with an attribute; None: the table does not name it.

    Of several codes the last one is taken. They are ordered by how much an attribute's type asks for:
    optional ones may go, those of type 2 must be there, those of type 1 must hold something. A value that
    says nothing suits all three, and which type holds is not to be known where the kind of object is not.
    The table names curve and overlay data; here whole groups 50xx and 60xx go.
    """
    said = row(tag)
    return None if said is None else cast(Action, said.split("/")[-1].removesuffix("*"))
