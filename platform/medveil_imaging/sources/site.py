"""A hospital's folder → patients' tensors and a list of what could not be used, and why.

What stands of the lines of :mod:`medveil_imaging.sources.manifest` is read, brought into the study's shape
and grouped by patient.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from medveil.profiles import PROFILES
from medveil.stopping import check_stopped
from medveil.study import Study
from medveil.tasks import Label
from medveil_imaging.patients import Patient, PatientImages
from medveil_imaging.sources.findings import Findings
from medveil_imaging.sources.label_maps import checked_labels
from medveil_imaging.sources.manifest import MANIFEST, SPLITS, Row, settled_rows
from medveil_imaging.sources.people import Marks, compare_images, compare_people, marks_of
from medveil_imaging.sources.raw import Note, Problem, Unusable, quiet
from medveil_imaging.sources.read import read_film, read_label_map, read_volume
from medveil_imaging.transforms import film_transform, label_transform, volume_transform


@dataclass(frozen=True)
class SiteData:
    """One hospital's patients by split. Patients in the order of their pseudonyms, images as listed."""

    name: str
    train: tuple[Patient, ...] = field(repr=False)
    val: tuple[Patient, ...] = field(repr=False)
    test: tuple[Patient, ...] = field(repr=False)
    problems: tuple[Problem, ...] = field(repr=False)
    """For the operator's screen only: file names may be telling."""


Labelled = tuple[torch.Tensor, torch.Tensor]
Read = Callable[[Row], tuple[torch.Tensor, torch.Tensor, tuple[Note, ...], Marks]]


def read_site(folder: Path, study: Study) -> SiteData:
    """Read a site; every image is transformed as the study says.

    Guarantees: nothing raises on account of a file's content; every line that is not used is one problem
        with severity ``error``; no file outside ``folder`` is opened; no tag, text or pseudonym is in a
        problem. One patient's lines, whatever bytes they hold and wherever they stand, change no other
        patient's split, images or labels: each line is read alone, conflicts are settled inside one patient.
    Raises: Stopped between two files.
    """
    name, findings = folder.resolve().name, Findings()
    rows = settled_rows(folder, study, findings)
    compare_people(rows, findings)
    reader = _reader(study, secrets.token_bytes(32))
    seen: list[tuple[Row, Marks]] = []
    patients: dict[str, dict[str, list[Labelled]]] = {s: {} for s in SPLITS}
    with quiet():
        for row in rows:
            check_stopped()
            try:
                image, label, notes, marks = reader(row)
            except Unusable as error:
                findings.refuse(error, row.image, row.number)
            except Exception:  # geometry that the readers let pass and the resampling cannot use
                fault = Unusable(
                    "unusable-image", "The image cannot be brought into shape.", "Export it again."
                )
                findings.refuse(fault, row.image, row.number)
            else:
                for note in notes:
                    findings.warn(note, row.image, row.number)
                patients[row.split].setdefault(row.patient, []).append((image, label))
                seen.append((row, marks))
    compare_images(seen, findings)
    for problem in _whole_site(study, patients["train"]):
        findings.add(problem)
    train, val, test = (_gather(patients[split]) for split in SPLITS)
    return SiteData(name=name, train=train, val=val, test=test, problems=findings.sorted(MANIFEST))


def _reader(study: Study, key: bytes) -> Read:
    if PROFILES[study.transforms.profile].dims == 2:
        film = film_transform(study.transforms)

        def read_one(row: Row) -> tuple[torch.Tensor, torch.Tensor, tuple[Note, ...], Marks]:
            raw = read_film(row.paths[0])
            return film(raw), _tensor(row.label), raw.notes, marks_of(raw, key)

        return read_one
    volume, outline = volume_transform(study.transforms), label_transform(study.transforms)

    def read_three(row: Row) -> tuple[torch.Tensor, torch.Tensor, tuple[Note, ...], Marks]:
        raw = read_volume(row.paths[0])
        if row.label_map is None:
            return volume(raw), _tensor(row.label), raw.notes, marks_of(raw, key)
        labels, notes = checked_labels(raw, read_label_map(row.label_map), len(study.classes))
        placed, lost = outline(labels)
        if lost:
            notes += (
                Note(
                    "structure-cut",
                    "A part of an outlined structure lies outside the study's field of view.",
                    "Centre the volume on the structure.",
                ),
            )
        return volume(raw), placed, raw.notes + notes, marks_of(raw, key)

    return read_three


def _tensor(label: Label | None) -> torch.Tensor:
    """int64 of a class; float32 of numbers, NaN for those that are not known."""
    if isinstance(label, tuple):
        return torch.tensor([math.nan if value is None else value for value in label], dtype=torch.float32)
    return torch.tensor(label, dtype=torch.int64 if isinstance(label, int) else torch.float32)


def _whole_site(study: Study, train: dict[str, list[Labelled]]) -> list[Problem]:
    if not train:
        return [
            Problem(
                MANIFEST,
                None,
                "no-training-patients",
                "No patient is left to train on.",
                "Repair the lines above, or take part with another folder.",
            )
        ]
    labels = [label for images in train.values() for _, label in images]
    if all(label.ndim == 0 and label.dtype == torch.int64 for label in labels):
        seen = Counter(int(label) for label in labels)
        if len(seen) == 1:
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


def _gather(patients: dict[str, list[Labelled]]) -> tuple[Patient, ...]:
    return tuple(
        PatientImages(
            patient=patient,
            images=torch.stack([image for image, _ in patients[patient]]),
            labels=torch.stack([label for _, label in patients[patient]]),
        )
        for patient in sorted(patients)
    )
