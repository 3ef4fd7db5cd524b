"""Two lists that a hospital hands over as CSV: examinations with their labels, and patients who said no.

They are read as tolerantly as manifests (:mod:`medveil_imaging.sources.lines`): any separator, encoding and
capitals. A line of labels that cannot be read costs that line; one of the opt-out list costs the whole run,
because somebody who said no may stand on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hospital_node.pacs.keyed import spelled
from hospital_node.pacs.problems import BadLine, BadPacsList
from medveil.cells import simple
from medveil_imaging.sources.header import SPLIT_WORDS
from medveil_imaging.sources.lines import LOST, Cells, Table, Unreadable, letters_of, open_table
from medveil_imaging.sources.raw import Unusable

ACCESSION, PATIENT = "accession_number", "patient_id"
TAKEN = ("label", "split")
"""Columns that go into the manifest without being asked for."""
OURS = frozenset(map(simple, ("image", PATIENT, ACCESSION)))
MOST_CELL = 200
MOST_ACCESSION = 64
PATTERN = frozenset('*?\\"\r\n\0')
"""Characters by which a PACS would take a number for a pattern, or for several."""
LABELS_NAME, OPTED_OUT_NAME = "list of accession numbers", "opt-out list"


@dataclass(frozen=True)
class Labels:
    """What the hospital says of examinations."""

    cells: dict[str, Cells] = field(default_factory=dict, repr=False)
    """Accession number → what its line says in the columns that are taken."""
    columns: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    """Columns of the file that are not taken."""
    refused: tuple[tuple[int, BadLine], ...] = field(default=(), repr=False)
    """Lines that cannot be used, by their number."""


@dataclass(frozen=True)
class OptedOut:
    """Patients who said no, and examinations that shall not come in."""

    patients: frozenset[str] = field(default=frozenset(), repr=False)
    """In the spelling that counts."""
    accessions: frozenset[str] = field(default=frozenset(), repr=False)

    def names(self, *, patient: str, accession: str) -> bool:
        """Whether one of the two is on the list."""
        return spelled(patient) in self.patients or accession.strip().casefold() in self.accessions


def read_labels(path: Path, columns: Sequence[str] = ()) -> Labels:
    """A list of examinations.

    Args:
        columns: that go into the manifest, beside ``label`` and ``split``.
    Raises: BadPacsList: it is no such list, or lacks a column that is asked for.
    """
    with_name = _Named(path, LABELS_NAME)
    table = with_name.opened((ACCESSION, *TAKEN, *columns))
    for column in columns:
        if simple(column) in OURS:
            raise BadPacsList(
                name=LABELS_NAME,
                problem=f"the column {column} would stand in the clear.",
                remedy="Leave it out: the node gives names of its own.",
            )
    with_name.places(table, (ACCESSION, *columns))
    own = (*(c for c in TAKEN if table.header.shared([c])), *columns)
    taken = tuple(dict.fromkeys(own))
    places = with_name.places(table, (ACCESSION, *taken))
    shown = {simple(column) for column in (ACCESSION, *taken)}
    left = tuple(name for name in table.header.names if name and simple(name) not in shown)
    cells: dict[str, Cells] = {}
    refused: list[tuple[int, BadLine]] = []
    doubted: set[str] = set()
    for number, line in with_name.lines(table, places):
        try:
            accession, said = _labelled(line, taken)
            if cells.get(accession, said) != said or accession in doubted:
                doubted.add(accession)
                cells.pop(accession, None)
                raise BadLine(problem="another line says something else of its accession number")
            cells[accession] = said
        except BadLine as error:
            refused.append((number, error))
    return Labels(cells, taken, left, tuple(refused))


def _labelled(line: Cells | Unreadable, taken: Sequence[str]) -> tuple[str, Cells]:
    if isinstance(line, Unreadable):
        raise BadLine(problem=line.what.rstrip(".").lower())
    accession = _number_in(line[ACCESSION])
    if not accession:
        raise BadLine(problem="it names no accession number")
    if len(accession) > MOST_ACCESSION or PATTERN & set(accession) or letters_of(accession) is None:
        raise BadLine(problem="its accession number is none")
    said = {column: line[column].strip() for column in taken}
    if any(letters_of(cell) is None or len(cell) > MOST_CELL for cell in said.values()):
        raise BadLine(problem="a cell is too long, or letters of it are lost")
    if said.get("split"):
        split = SPLIT_WORDS.get(simple(said["split"]))
        if split is None:
            raise BadLine(problem="its split is not train, val or test")
        said["split"] = split
    return accession, said


def read_opted_out(path: Path) -> OptedOut:
    """Patients (``patient_id``) or examinations (``accession_number``) that never come in.

    Raises: BadPacsList: it cannot be read to its last line.
    """
    with_name = _Named(path, OPTED_OUT_NAME)
    table = with_name.opened((PATIENT, ACCESSION))
    named = [column for column in (PATIENT, ACCESSION) if table.header.shared([column])]
    if not named:
        raise BadPacsList(
            name=OPTED_OUT_NAME,
            problem=f"it has neither a column {PATIENT} nor one {ACCESSION}.",
            remedy="Write one of the two as the first line.",
        )
    found: dict[str, set[str]] = {PATIENT: set(), ACCESSION: set()}
    for number, line in with_name.lines(table, with_name.places(table, named)):
        if isinstance(line, Unreadable) or any(LOST in c or letters_of(c) is None for c in line.values()):
            raise _unread(number)
        written = {column: _number_in(cell) for column, cell in line.items()}
        if not any(written.values()):
            raise _unread(number)
        if number_of := written.get(PATIENT):
            form = spelled(number_of)
            if form is None:
                raise _unread(number)
            found[PATIENT].add(form)
        if accession := written.get(ACCESSION):
            found[ACCESSION].add(accession.casefold())
    return OptedOut(frozenset(found[PATIENT]), frozenset(found[ACCESSION]))


def _unread(number: int) -> BadPacsList:
    return BadPacsList(
        name=OPTED_OUT_NAME,
        problem=f"its line {number} names nobody that can be recognised.",
        remedy="Correct the line: who stands there must not come in.",
    )


def _number_in(cell: str) -> str:
    """A number as a spreadsheet keeps it from becoming one: ``="007"``, ``'007``."""
    text = cell.strip().strip("\ufeff\u200b")
    if text.startswith('="') and text.endswith('"'):
        text = text[2:-1]
    return text.removeprefix("'").strip()


@dataclass(frozen=True)
class _Named:
    """A list, and what it is called in errors: the reader underneath speaks of manifest.csv."""

    path: Path
    name: str

    def opened(self, wanted: Sequence[str]) -> Table:
        try:
            return open_table(self.path, wanted)
        except Unusable as error:
            raise self._problem(error) from error

    def places(self, table: Table, columns: Sequence[str]) -> dict[str, int]:
        try:
            return table.header.places(columns)
        except Unusable as error:
            raise self._problem(error) from error

    def lines(self, table: Table, places: dict[str, int]) -> Iterator[tuple[int, Cells | Unreadable]]:
        try:
            yield from table.lines(places)
        except Unusable as error:
            raise self._problem(error) from error

    def _problem(self, error: Unusable) -> BadPacsList:
        if error.code == "no-manifest":
            return BadPacsList(name=self.name, problem="there is no such file.", remedy="Check its path.")
        return BadPacsList(
            name=self.name,
            problem=error.what.replace("manifest.csv", "the file"),
            remedy=error.remedy.replace("manifest.csv", "the file"),
        )
