"""A hospital's folder → patients' tensors and a list of what could not be used, and why.

What stands of the lines of :mod:`medveil_imaging.sources.manifest` is read, brought into the study's shape
and grouped by patient.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from medveil.study import Study
from medveil_imaging.patients import Patient, PatientImages, PatientVolumes
from medveil_imaging.sources.findings import Findings
from medveil_imaging.sources.manifest import MANIFEST, SPLITS, Row, settled_rows
from medveil_imaging.sources.one_row import RowShape, Shaped
from medveil_imaging.sources.people import Marks, compare_images, compare_people
from medveil_imaging.sources.raw import Problem, Unusable, quiet
from medveil_imaging.sources.readers import Readers
from medveil_imaging.sources.workers import workers


@dataclass(frozen=True)
class SiteData:
    """One hospital's patients by split. Patients in the order of their pseudonyms, images as listed."""

    name: str
    train: tuple[Patient, ...] = field(repr=False)
    val: tuple[Patient, ...] = field(repr=False)
    test: tuple[Patient, ...] = field(repr=False)
    problems: tuple[Problem, ...] = field(repr=False)
    """For the operator's screen only: file names may be telling."""


def read_site(folder: Path, study: Study, *, readers: Readers | None = None) -> SiteData:
    """Read a site; every image is transformed as the study says.

    Guarantees: nothing raises on account of a file's content; every line that is not used is one problem
        with severity ``error``; no file outside ``folder`` is opened; no tag, text or pseudonym is in a
        problem. One patient's lines, whatever bytes they hold and wherever they stand, change no other
        patient's split, images or labels: each line is read alone, conflicts are settled inside one patient.
    Args:
        readers: who opens the files; without it :func:`medveil_imaging.sources.workers.workers`.
    Raises: Stopped between two files; ReadersMissing.
    """
    name, findings = folder.resolve().name, Findings()
    rows = settled_rows(folder, study, findings)
    compare_people(rows, findings)
    shape, seen = RowShape(study, secrets.token_bytes(32)), list[tuple[Row, Marks]]()
    patients = {split: dict[str, list[Shaped]]() for split in SPLITS}
    with quiet():
        for row, read in (readers or workers())(rows, shape.wanted):
            try:
                if isinstance(read, Unusable):
                    raise read
                one = shape.shaped(row, read)
            except Unusable as error:
                findings.refuse(error, row.image, row.number)
            else:
                for note in one.notes:
                    findings.warn(note, row.image, row.number)
                patients[row.split].setdefault(row.patient, []).append(one)
                seen.append((row, one.marks))
    compare_images(seen, findings)
    for problem in _whole_site(patients["train"]):
        findings.add(problem)
    gather = _gather_volumes if study.transforms.patches else _gather
    train, val, test = (gather(patients[split]) for split in SPLITS)
    return SiteData(name=name, train=train, val=val, test=test, problems=findings.sorted(MANIFEST))


def _whole_site(train: dict[str, list[Shaped]]) -> list[Problem]:
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
    labels = [label for ones in train.values() for one in ones for label in one.labels]
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


def _gather(patients: dict[str, list[Shaped]]) -> tuple[Patient, ...]:
    return tuple(
        PatientImages(
            patient=patient,
            images=torch.cat([one.images for one in patients[patient]]),
            labels=torch.cat([one.labels for one in patients[patient]]),
        )
        for patient in sorted(patients)
    )


def _gather_volumes(patients: dict[str, list[Shaped]]) -> tuple[Patient, ...]:
    """Where each keeps its own shape."""
    return tuple(
        PatientVolumes(
            patient=patient,
            images=tuple(image for one in patients[patient] for image in one.images),
            labels=tuple(label for one in patients[patient] for label in one.labels),
        )
        for patient in sorted(patients)
    )
