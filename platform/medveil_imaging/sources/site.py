"""A hospital's folder → patients' tensors and a list of what could not be used, and why.

What stands of the lines of :mod:`medveil_imaging.sources.manifest` is read, brought into the study's shape
and grouped by patient.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from medveil.groups import agreed
from medveil.progress import tell
from medveil.study import Study
from medveil_imaging.cache import ImageCache, in_memory
from medveil_imaging.patients import Patient, PatientImages, PatientVolumes
from medveil_imaging.sources.findings import Findings
from medveil_imaging.sources.manifest import MANIFEST, SPLITS, Row, settled_rows
from medveil_imaging.sources.one_row import RowShape, Shaped
from medveil_imaging.sources.people import Marks, compare_images, compare_people
from medveil_imaging.sources.raw import Problem, Unusable, quiet
from medveil_imaging.sources.readers import Readers
from medveil_imaging.sources.rules import Rules
from medveil_imaging.sources.shelf import Found, Shelf, Shelved, ShelvedPatient, shaped_with
from medveil_imaging.sources.workers import workers

RULES = Rules()


@dataclass(frozen=True)
class SiteData:
    """One hospital's patients by split. Patients in the order of their pseudonyms, images as listed."""

    name: str
    train: tuple[Patient, ...] = field(repr=False)
    val: tuple[Patient, ...] = field(repr=False)
    test: tuple[Patient, ...] = field(repr=False)
    problems: tuple[Problem, ...] = field(repr=False)
    """For the operator's screen only: file names may be telling."""


def read_site(
    folder: Path,
    study: Study,
    *,
    readers: Readers | None = None,
    cache: ImageCache | None = None,
    labelled: bool = True,
    rules: Rules = RULES,
) -> SiteData:
    """Read a site; every image is transformed as the study says.

    Guarantees: nothing raises on account of a file's content; every line that is not used is one problem
        with severity ``error``; no file outside ``folder`` is opened; no tag, text or pseudonym is in a
        problem. One patient's lines, whatever bytes they hold and wherever they stand, change no other
        patient's split, images or labels: each line is read alone, conflicts are settled inside one patient.
    Args:
        readers: who opens the files; without it :func:`medveil_imaging.sources.workers.workers`.
        cache: where images go that are too many for memory; without it all are in memory.
        labelled: as for :func:`medveil_imaging.sources.manifest.settled_rows`.
        rules: whether images are used that show writing or a face.
    Raises: Stopped between two files; ReadersMissing.
    """
    name, findings, opening = folder.resolve().name, Findings(), readers or workers()
    rows = settled_rows(folder, study, findings, labelled=labelled)
    compare_people(rows, findings)
    shelf = None if cache is None or in_memory(study, len(rows)) else Shelf(cache, study, opening)
    seen: list[tuple[Row, Marks]] = []
    gather = _Gathering(study, shelf)
    with quiet():
        lines = _shaped(study, rows, opening) if shelf is None else shaped_with(shelf, rows, opening)
        for done, (row, one) in enumerate(lines, start=1):
            tell("images", done, len(rows))
            try:
                if isinstance(one, Unusable):
                    raise one
                notes = rules.judged(one.notes)
            except Unusable as error:
                findings.refuse(error, row.image, row.number)
                continue
            for note in notes:
                findings.warn(note, row.image, row.number)
            gather.add(row, one)
            seen.append((row, one.marks))
    compare_images(seen, findings)
    for problem in [*_whole_site([row for row, _ in seen]), *_of_the_cache(shelf)]:
        findings.add(problem)
    train, val, test = (gather.patients(split) for split in SPLITS)
    return SiteData(name=name, train=train, val=val, test=test, problems=findings.sorted(MANIFEST))


def _shaped(study: Study, rows: list[Row], readers: Readers) -> Iterator[tuple[Row, Shaped | Unusable]]:
    shape = RowShape(study, secrets.token_bytes(32))
    for row, read in readers(rows, shape.wanted):
        try:
            if isinstance(read, Unusable):
                raise read
            yield row, shape.shaped(row, read)
        except Unusable as error:
            yield row, error


def _whole_site(used: list[Row]) -> list[Problem]:
    labels = [row.label for row in used if row.split == "train"]
    if not labels:
        return [
            Problem(
                MANIFEST,
                None,
                "no-training-patients",
                "No patient is left to train on.",
                "Repair the lines above, or take part with another folder.",
            )
        ]
    if len(set(labels)) == 1 and isinstance(labels[0], int):
        return [
            Problem(
                MANIFEST,
                None,
                "one-class",
                "All training images have the same label.",
                "Training works, but this site alone cannot learn the difference.",
                "warning",
            )
        ]
    return []


def _of_the_cache(shelf: Shelf | None) -> list[Problem]:
    """What its operator should know of the cache; the images are used all the same."""
    if shelf is None:
        return []
    found = []
    if shelf.damaged:
        what = f"{shelf.damaged} record(s) of the cache were damaged; their images were read again."
        found.append(("cache-damaged", what, "Have the disk checked."))
    if shelf.cache.strangers:
        what = "The cache was written with another node's key, and was removed."
        found.append(("cache-of-another-key", what, "Nothing, if this node has a new key; else see who did."))
    if shelf.cache.full == "disk":
        what = "The disk is full, so images are read from their files in every round."
        found.append(("cache-disk-full", what, "Make room on the disk, then start again."))
    elif shelf.cache.full:
        what = "The cache is full, so some images are read from their files in every round."
        found.append(("cache-full", what, "Set a larger 'cache_gb' in node.json."))
    return [Problem(MANIFEST, None, code, what, remedy, "warning") for code, what, remedy in found]


class _Gathering:
    """Patients by split, with their lines in the manifest's order."""

    def __init__(self, study: Study, shelf: Shelf | None) -> None:
        self._study, self._shelf = study, shelf
        self._lines = {split: dict[str, list[Shaped | Shelved]]() for split in SPLITS}
        self._told: dict[str, list[Mapping[str, str]]] = {}
        """What each patient's lines say of groups."""

    def add(self, row: Row, one: Shaped | Found) -> None:
        line = one.images if isinstance(one, Found) else one
        self._lines[row.split].setdefault(row.patient, []).append(line)
        self._told.setdefault(row.patient, []).append(row.told)

    def patients(self, split: str) -> tuple[Patient, ...]:
        """In the order of their pseudonyms."""
        return tuple(self._patient(name, lines) for name, lines in sorted(self._lines[split].items()))

    def _patient(self, name: str, lines: list[Shaped | Shelved]) -> Patient:
        groups = agreed(self._told[name])
        if self._shelf is not None:
            shelved = tuple(one for one in lines if isinstance(one, Shelved))
            return ShelvedPatient(name, shelved, self._shelf, groups)
        images = [one.images for one in lines if isinstance(one, Shaped)]
        labels = [one.labels for one in lines if isinstance(one, Shaped)]
        if self._study.transforms.patches:  # each keeps its own shape
            volumes, maps = (tuple(one for several in part for one in several) for part in (images, labels))
            return PatientVolumes(name, volumes, maps, groups)
        return PatientImages(name, torch.cat(images), torch.cat(labels), groups)
