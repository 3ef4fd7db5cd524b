"""Who the patients in the images folder are: the operator's own list, read when needed, kept nowhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hospital_node.settings import PersonsSettings
from medveil.errors import BadFile
from medveil.persons import NoIdentifier, identifier_form
from medveil.pseudonyms import BadPseudonym, one_spelling
from medveil.shown import plain
from medveil_imaging.sources.dicom.elements import first_elements
from medveil_imaging.sources.lines import Cells, Unreadable, letters_of, open_table
from medveil_imaging.sources.manifest import MANIFEST
from medveil_imaging.sources.places import Places
from medveil_imaging.sources.raw import Unusable

PATIENT, IMAGE = "patient_id", "image"


@dataclass(frozen=True)
class People:
    """The patients of the images folder, by pseudonym."""

    forms: Mapping[str, bytes] = field(repr=False)
    """Who is known by one identifier that nobody else here has."""
    unknown: frozenset[str] = field(repr=False)
    """Of whom no identifier is known, or several."""
    several: frozenset[str] = field(repr=False)
    """Who share an identifier: one person under several pseudonyms."""


def read_people(data: Path, told: PersonsSettings) -> People:
    """Look everybody in the manifest up in the operator's list.

    Guarantees: what is found for a patient depends on the lines of those who share the pseudonym or the
    identifier alone.
    Raises: BadFile: a line cannot be read, or a column is missing.
    """
    found: dict[str, set[bytes]] = defaultdict(set)
    here = set(_patients(data / MANIFEST))
    for patient, parts in _listed(data, told) if told.columns else _in_headers(data):
        with suppress(NoIdentifier):
            if patient in here:
                found[patient].add(identifier_form(*parts))
    owners: dict[bytes, set[str]] = defaultdict(set)
    for patient, forms in found.items():
        for form in forms:
            owners[form].add(patient)
    several = frozenset(p for patients in owners.values() if len(patients) > 1 for p in patients)
    known = {p: next(iter(forms)) for p, forms in found.items() if len(forms) == 1 and p not in several}
    return People(known, frozenset(here - known.keys() - several), several)


def _listed(data: Path, told: PersonsSettings) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Pseudonyms, and the cells that identify a person. Raises: BadFile."""
    for cells in _lines(told.table or data / MANIFEST, (PATIENT, *told.columns)):
        with suppress(BadPseudonym):
            patient = one_spelling(cells[PATIENT].strip())
            yield patient, tuple(cells[column] for column in told.columns)


def _in_headers(data: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Pseudonyms, and PatientID with its issuer of each image; without an issuer a number says nothing.

    Raises: BadFile.
    """
    places = Places(data)
    for cells in _lines(data / MANIFEST, (PATIENT, IMAGE)):
        with suppress(BadPseudonym, Unusable, OSError):
            patient = one_spelling(cells[PATIENT].strip())
            path, _ = places.find(cells[IMAGE], IMAGE)
            files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
            heads = filter(None, map(first_elements, map(str, files)))
            head = next(heads, None)
            if head is not None:
                yield patient, (head.patient, head.issuer)


def _patients(path: Path) -> Iterator[str]:
    for cells in _lines(path, (PATIENT,)):
        with suppress(BadPseudonym):
            yield one_spelling(cells[PATIENT].strip())


def _lines(path: Path, columns: tuple[str, ...]) -> Iterator[Cells]:
    """Raises: BadFile."""
    name = plain(path.name)
    try:
        table = open_table(path, columns)
        for number, cells in table.lines(table.header.places(columns)):
            if isinstance(cells, Unreadable) or any(letters_of(cell) is None for cell in cells.values()):
                raise BadFile(name=name, problem=f"line {number} cannot be read: save it as CSV (UTF-8)")
            yield cells
    except Unusable as error:
        raise BadFile(name=name, problem=error.what.rstrip(".")) from error
