"""Groups of patients for which a study asks figures of its own: which they are, and whose cell says which.

A group is read from a column of the manifest whose values, or whose edges for a number, the study declares:
they are public and the same for all hospitals, so nothing about them depends on anybody's patients.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from medveil.bounds import CLASS_NAME, LARGEST, MOST_COLUMNS
from medveil.cells import folded, is_blank, numbers_in, simple
from medveil.shown import is_plain
from medveil.tasks import column_problem
from medveil.values import Frozen, Name

MARK = "@"
"""Stands between a figure's or a sum's name and the group that it is of: ``auroc@sex=F``."""
HOSPITAL = "hospital"
"""Stands for a column where single hospitals have figures of their own: ``auroc@hospital=st-marys``."""
UNKNOWN = "unknown"
"""Figure: patients who are in no group of a column."""
MOST_GROUPS = 16
"""Of one column."""
VALUE_NAME = 40
LONGEST_CELL = 200
"""Nothing longer is a group: and nothing is looked for in it."""
ELSEWHERE = ""
"""Of a cell that says something, but none of the declared groups."""

Value = Annotated[str, Field(min_length=1, max_length=VALUE_NAME)]
Edge = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]


class Groups(Frozen):
    """The groups that one column makes: by the words in it, or by where its number lies."""

    column: Annotated[str, Field(min_length=1, max_length=CLASS_NAME)]
    values: Annotated[
        tuple[Value, ...], Field(max_length=MOST_GROUPS, exclude_if=lambda given: not given)
    ] = ()
    edges: Annotated[
        tuple[Edge, ...], Field(max_length=MOST_GROUPS + 1, exclude_if=lambda given: not given)
    ] = ()
    """Rising. A group holds its lower edge and not its upper one, but for the last, which holds both."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the groups, in order: the words themselves, or "40 to 65"."""
        return self.values or tuple(f"{low:g} to {high:g}" for low, high in pairwise(self.edges))

    def read(self, cell: str) -> str | None:
        """Which group a cell says: its name, :data:`ELSEWHERE`, or None where the cell is blank.

        Capitals, signs and the zeros that spreadsheets add do not tell words apart, unless the declared ones
        differ in nothing else. A number that can be read in two ways is in a group if both are.
        """
        if len(cell) > LONGEST_CELL:
            return ELSEWHERE
        if folded(cell) in map(folded, self.values):  # also a declared "unknown"
            return next(name for name in self.values if folded(name) == folded(cell))
        if is_blank(cell):
            return None
        return (self._word(cell) if self.values else self._band(cell)) or ELSEWHERE

    def _word(self, cell: str) -> str | None:
        for form in (_whole, simple):
            alike = [name for name in self.values if form(name) == form(cell)]
            if len(alike) == 1:
                return alike[0]
        return None

    def _band(self, cell: str) -> str | None:
        text = re.sub(r"^([0-9]{3})y$", r"\1", folded(cell))  # 045Y: an age as DICOM writes it
        found = {self._between(value) for value in numbers_in(text)}
        return found.pop() if len(found) == 1 else None

    def _between(self, value: float) -> str | None:
        for name, (low, high) in zip(self.names, pairwise(self.edges), strict=True):
            if low <= value < high or value == high == self.edges[-1]:
                return name
        return None

    @model_validator(mode="after")
    def _are_groups(self) -> Self:
        if bool(self.values) == bool(self.edges):
            raise ValueError("give either 'values' or 'edges'")
        if not all(low < high for low, high in pairwise(self.edges)):
            raise ValueError("'edges' must rise")
        if any(float(f"{edge:g}") != edge for edge in self.edges):
            raise ValueError("an edge has at most six digits, for they are in the group's name")
        if len(self.names) < 2:
            raise ValueError("at least two groups are needed")
        if len(set(map(folded, self.names))) < len(self.names):
            raise ValueError("two groups have the same name")
        if not all(is_plain(name) and MARK not in name and folded(name) for name in self.names):
            raise ValueError(f"the name of a group holds characters that cannot be shown, or '{MARK}'")
        if column_problem([self.column]) or not is_plain(self.column):
            raise ValueError("'column' must be the name of the column that tells the groups apart")
        return self


def figure_and_part(name: str) -> tuple[str, str]:
    """A figure's own name, and the part that it is of: ``auroc@sex=F`` → ``auroc``, ``@sex=F``."""
    figure, mark, part = name.partition(MARK)
    return figure, mark + part


def _few(given: dict[str, Groups]) -> dict[str, Groups]:
    if len(given) > MOST_COLUMNS:
        raise ValueError(f"at most {MOST_COLUMNS} columns can make groups")
    return given


GroupsByName = Annotated[dict[Name, Groups], AfterValidator(_few)]


def _whole(text: str) -> str:
    """A whole number without the zeros that spreadsheets add; any other text folded."""
    found = re.fullmatch(r"0*([0-9]+)([.,]0*)?", folded(text))
    return folded(text) if found is None else found[1]


def told(declared: Mapping[str, Groups], cells: Mapping[str, str]) -> dict[str, str]:
    """What one line says: by column a group or :data:`ELSEWHERE`; absent where it says nothing.

    Args:
        cells: by column; one that a manifest lacks is absent.
    """
    found = {n: each.read(cells[each.column]) for n, each in declared.items() if each.column in cells}
    return {name: group for name, group in found.items() if group is not None}


def agreed(lines: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The groups of a patient: by column the one that all lines agree on which say something.

    Args:
        lines: what each of the patient's own lines says (:func:`told`).
    Guarantees: whose lines contradict each other, or say what is not declared, is in no group of that column.
    """
    found: dict[str, set[str]] = {}
    for line in lines:
        for name, group in line.items():
            found.setdefault(name, set()).add(group)
    return {name: one for name, groups in found.items() for one in groups if len(groups) == 1 and one}
