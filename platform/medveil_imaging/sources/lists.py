"""A list beside the images (CSV or TSV): labels, patients and splits by accession number, patient or file.

The list is somebody's export: with a mark, in any usual encoding, with ``n/a``. Which of its columns names an
image is not asked: it is the one whose cells are found among the images.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medveil.cells import is_blank, simple
from medveil.errors import BadFile, BadOption
from medveil.handed import read_whole
from medveil.pseudonyms import BadPseudonym, one_spelling
from medveil.shown import plain
from medveil_imaging.sources.header import SEPARATORS, SPLIT_WORDS, encoding_of
from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.tree import stem_of

LIST_BYTES = 2**28
PATIENT_COLUMNS = ("patient_id", "participant_id", "patient", "subject_id", "subject")
SPLIT_COLUMN, LABEL_COLUMN = "split", "label"
PATHS = ("path", "name", "stem")
"""Ways to name an image that are compared without regard to capitals; the others as pseudonyms are."""


@dataclass(frozen=True)
class Listed:
    """A list that was read. A blank cell is "", whatever the list writes for it."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = field(repr=False)

    def place(self, column: str) -> int | None:
        """Where a column stands; capitals and signs do not count."""
        names = [simple(name) for name in self.columns]
        return names.index(simple(column)) if simple(column) in names else None

    def wanted(self, column: str) -> int:
        """Where a column stands that the operator has named. Raises: BadOption."""
        place = self.place(column)
        if place is None:
            known = ", ".join(plain(name, 40) for name in self.columns[:30])
            raise BadOption(
                problem=f"'{plain(self.name)}' has no column '{plain(column, 60)}'; it has {known}"
            )
        return place

    def first(self, columns: Sequence[str]) -> int | None:
        """Where the first of these columns stands that is there."""
        return next((place for column in columns if (place := self.place(column)) is not None), None)


def read_list(path: Path) -> Listed:
    """Read a list. Raises: BadFile: it cannot be read, is no text, or has no lines."""
    data = read_whole(path, LIST_BYTES)
    try:
        encoding, mark = encoding_of(data[:64])
    except Unusable as error:
        raise BadFile(
            name=plain(path.name), problem=error.what.replace("manifest.csv", "it").rstrip(".")
        ) from error
    text = _decoded(data[mark:], encoding)
    lines = text.splitlines()
    if lines and lines[0].strip().strip('"').casefold().startswith("sep="):
        lines = lines[1:]
    separator = max(SEPARATORS, key=lines[0].count) if lines else ","
    try:
        rows = [
            tuple(cells)
            for cells in csv.reader(lines, delimiter=separator, skipinitialspace=True)
            if any(cells)
        ]
    except csv.Error as error:
        raise BadFile(name=plain(path.name), problem="it is no CSV: a quotation mark is open") from error
    if len(rows) < 2:
        raise BadFile(name=plain(path.name), problem="it has no lines under the names of its columns")
    names = tuple(name.strip() for name in rows[0])
    return Listed(path.name, names, tuple(_row(cells, len(names)) for cells in rows[1:]))


def _decoded(data: bytes, encoding: str) -> str:
    for one in (encoding or "utf-8", "cp1252"):
        try:
            return data.decode(one)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _row(cells: Sequence[str], length: int) -> tuple[str, ...]:
    filled = [*cells, *[""] * length][:length]
    return tuple("" if is_blank(cell) else cell.strip() for cell in filled)


@dataclass(frozen=True)
class Joined:
    """A list held against images."""

    column: str
    """The column that names them."""
    way: str
    """By what: one of the names that were given with each image."""
    rows: tuple[tuple[str, ...] | None, ...] = field(repr=False)
    """Of each image its line; None if the list has none, or several that contradict each other."""
    unused: int
    """Lines that name no image here."""
    contradicting: int
    """Images of which lines say different things."""


def joined(listed: Listed, images: Sequence[Mapping[str, str]], columns: Sequence[int]) -> Joined:
    """Find each image's line.

    Args:
        images: of each image the names by which a list may call it, the nearest first.
        columns: places of the cells that matter; lines that agree in them do not contradict each other.
    Raises: BadOption: no column names any image.
    """
    ways = list(dict.fromkeys(way for image in images for way in image))
    forms = {way: [_form(way, image.get(way, "")) for image in images] for way in ways}
    best, most = ("", 0), 0
    for way in ways:
        for place, _ in enumerate(listed.columns):
            named = {_form(way, row[place]) for row in listed.rows} - {""}
            found = sum(form in named for form in forms[way])
            if found > most:
                best, most = (way, place), found
    way, column = best
    if not most:
        raise BadOption(
            problem=f"no column of '{plain(listed.name)}' names images of this folder; it may name them by "
            f"{', '.join(ways)}"
        )
    lines: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for row in listed.rows:
        lines[_form(way, row[column])].append(row)
    rows = [_one(lines.get(form, []) if form else [], columns) for form in forms[way]]
    contradicting = sum(
        row is None and form in lines for form, row in zip(forms[way], rows, strict=True) if form
    )
    here = set(forms[way])
    unused = sum(len(theirs) for form, theirs in lines.items() if form not in here)
    return Joined(listed.columns[column], way, tuple(rows), unused, contradicting)


def _one(rows: Sequence[tuple[str, ...]], columns: Sequence[int]) -> tuple[str, ...] | None:
    same = {tuple(row[place] for place in columns) for row in rows}
    return rows[0] if len(same) == 1 else None


def _form(way: str, text: str) -> str:
    if way in PATHS:
        plain_path = text.replace("\\", "/").strip().casefold().removeprefix("./")
        name = plain_path.rpartition("/")[2]
        return plain_path if way == "path" else stem_of(name) if way == "stem" else name
    try:
        return one_spelling(text)
    except BadPseudonym:
        return ""


def split_in(cell: str) -> str:
    """The split that a cell names; "" if it names none."""
    return SPLIT_WORDS.get(simple(cell), "")
