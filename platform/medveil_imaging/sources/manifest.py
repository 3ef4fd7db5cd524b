"""A hospital's folder → patients' tensors and a list of what could not be used, and why.

``manifest.csv`` names every image: ``image`` (a file, or a folder with one DICOM series), ``patient_id``,
``split`` (train, val or test) and ``label`` (a class number) or ``label_map`` (a file). Others are ignored.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from medveil.pseudonyms import BadPseudonym, look_alike, one_spelling
from medveil.study import Study
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.lines import Cells, manifest_lines
from medveil_imaging.sources.raw import Note, Problem, Unusable, Volume, quiet
from medveil_imaging.sources.read import read_film, read_label_map, read_volume
from medveil_imaging.transforms import film_transform, label_transform, volume_transform

MANIFEST = "manifest.csv"
SPLITS = ("train", "val", "test")
MAX_CELL = 4096
MAX_LINES_OF_A_PATIENT = 1024
MAX_PROBLEMS = 10_000
SAME_PLACE_MM = 1.0
"""How far a label map's grid may lie from its image's."""

__all__ = ["Problem", "Row", "SiteData", "read_site", "usable_rows"]


@dataclass(frozen=True)
class SiteData:
    """One hospital's patients by split. Patients in the order of their pseudonyms, images as listed."""

    name: str
    train: tuple[PatientImages, ...] = field(repr=False)
    val: tuple[PatientImages, ...] = field(repr=False)
    test: tuple[PatientImages, ...] = field(repr=False)
    problems: tuple[Problem, ...] = field(repr=False)
    """For the operator's screen only: file names may be telling."""


@dataclass(frozen=True)
class Row:
    """One usable line of the manifest."""

    number: int
    image: str
    path: Path
    patient: str = field(repr=False)
    """In the spelling that counts."""
    written: str = field(repr=False)
    """As the line has it."""
    split: str
    label: int | None
    label_map: Path | None


Labelled = tuple[torch.Tensor, torch.Tensor]
Read = Callable[[Row], tuple[torch.Tensor, torch.Tensor, tuple[Note, ...]]]


class _Findings:
    """Problems for the operator's screen; beyond the most that anybody reads they are counted only."""

    def __init__(self) -> None:
        self._kept: list[Problem] = []
        self._more = 0

    def refuse(self, error: Unusable, file: str, row: int | None) -> None:
        self.add(Problem(file, row, error.code, error.what, error.remedy))

    def warn(self, note: Note, row: Row) -> None:
        self.add(Problem(row.image, row.number, note.code, note.reason, note.remedy, "warning"))

    def add(self, problem: Problem) -> None:
        if problem.row is None or len(self._kept) < MAX_PROBLEMS:
            self._kept.append(problem)
        else:
            self._more += 1

    def sorted(self) -> tuple[Problem, ...]:
        """Those about the whole site first, then line by line."""
        if self._more:
            more = Problem(
                MANIFEST,
                None,
                "more-problems",
                f"There are {self._more} more problems than are listed here.",
                "Repair these first.",
                "warning",
            )
            self._kept.append(more)
        return tuple(sorted(self._kept, key=lambda p: (p.row is not None, p.row or 0)))


def read_site(folder: Path, study: Study) -> SiteData:
    """Read a site; every image is transformed as the study says.

    Guarantees: nothing raises on account of a file's content; every line that is not used is one problem
        with severity ``error``; no file outside ``folder`` is opened; no tag, text or pseudonym is in a
        problem. One patient's lines, whatever bytes they hold and wherever they stand, change no other
        patient's split, images or labels: each line is read alone, conflicts are settled inside one patient.
    """
    name, findings = folder.resolve().name, _Findings()
    rows = _settled(_rows(folder, study, findings), findings)
    _compare_people(rows, findings)
    reader = _reader(study)
    patients: dict[str, dict[str, list[Labelled]]] = {s: {} for s in SPLITS}
    with quiet():
        for row in rows:
            try:
                image, label, notes = reader(row)
            except Unusable as error:
                findings.refuse(error, row.image, row.number)
            except Exception:  # geometry that the readers let pass and the resampling cannot use
                fault = Unusable(
                    "unusable-image", "The image cannot be brought into shape.", "Export it again."
                )
                findings.refuse(fault, row.image, row.number)
            else:
                for note in notes:
                    findings.warn(note, row)
                patients[row.split].setdefault(row.patient, []).append((image, label))
    for problem in _whole_site(study, patients["train"]):
        findings.add(problem)
    train, val, test = (_gather(patients[split]) for split in SPLITS)
    return SiteData(name=name, train=train, val=val, test=test, problems=findings.sorted())


def usable_rows(folder: Path, study: Study) -> list[Row]:
    """The lines of which :func:`read_site` reads the images; no image is opened."""
    findings = _Findings()
    return _settled(_rows(folder, study, findings), findings)


def _rows(folder: Path, study: Study, findings: _Findings) -> list[Row]:
    """The lines that name a patient, a split, an image and its label, as far as one line can tell."""
    wanted = ["image", "patient_id", "split", "label" if study.task == "classification" else "label_map"]
    rows: list[Row] = []
    lines_of: Counter[str] = Counter()
    inside = folder.resolve()
    try:
        for number, cells in manifest_lines(folder / MANIFEST, wanted):
            if isinstance(cells, Unusable):
                findings.refuse(cells, MANIFEST, number)
                continue
            try:
                row = _row(number, cells, inside, study)
                lines_of[row.patient] += 1
                if lines_of[row.patient] > MAX_LINES_OF_A_PATIENT:
                    raise Unusable(
                        "too-many-images",
                        "The patient has more than 1,024 lines; this one is not used.",
                        "Keep the images that matter.",
                    )
                rows.append(row)
            except Unusable as error:
                findings.refuse(error, cells["image"][:MAX_CELL], number)
    except Unusable as error:  # half a manifest is none
        findings.refuse(error, MANIFEST, None)
        return []
    return rows


def _row(number: int, cell: Cells, inside: Path, study: Study) -> Row:
    split, written = cell["split"].strip().lower(), cell["patient_id"].strip()
    try:
        patient = one_spelling(written)
    except BadPseudonym as error:
        raise Unusable(
            "no-patient",
            "The line names no patient, or by a number that a spreadsheet has rounded.",
            "Give every patient a stable pseudonym, kept as text: it is what is protected.",
        ) from error
    if split not in SPLITS:
        raise Unusable("bad-split", "The split is not train, val or test.", "Correct the line.")
    label, label_map = None, None
    if study.task == "classification":
        text = cell["label"].strip()
        if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) >= len(study.classes):
            raise Unusable(
                "bad-label",
                "The label is not the number of a class.",
                f"Write a whole number from 0 to {len(study.classes) - 1}.",
            )
        label = int(text)
    else:
        label_map = _inside(inside, cell["label_map"], "label map")
    image = _inside(inside, cell["image"], "image")
    return Row(number, cell["image"], image, patient, written, split, label, label_map)


def _inside(folder: Path, name: str, what: str) -> Path:
    """The path a cell names, which must stay inside the site's folder, symbolic links included."""
    if not name.strip():
        raise Unusable("no-path", f"The line names no {what}.", "Fill the cell.")
    if len(name) > MAX_CELL or "\0" in name:
        raise Unusable("bad-path", f"The path of the {what} is no path.", "Correct the line.")
    outside = Unusable(
        "outside-folder",
        f"The path of the {what} leads out of the site's folder.",
        "Copy the file into the folder and name it by a relative path.",
    )
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise outside
    try:
        path = (folder / name).resolve()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise Unusable("bad-path", f"The path of the {what} is no path.", "Correct the line.") from error
    if folder not in path.parents:
        raise outside
    if not exists:
        raise Unusable("missing-file", f"There is no such {what}.", "Copy the file or remove the line.")
    return path


def _settled(rows: list[Row], findings: _Findings) -> list[Row]:
    """The lines without a patient's contradictions; what one patient's lines say concerns no other's.

    Dropped: patients of several splits (they would be tested on what they taught), and images that a
    patient's lines give two labels, or list again.
    """
    splits, listed = defaultdict(set), defaultdict(list)
    for row in rows:
        splits[row.patient].add(row.split)
        listed[row.patient, row.path].append(row)
    kept = []
    for row in rows:
        same = listed[row.patient, row.path]
        if len(splits[row.patient]) > 1:
            fault = Unusable(
                "patient-in-two-splits",
                "This patient's images lie in several splits; none of them is used.",
                "Give all lines of a patient one split.",
            )
        elif len({(r.label, r.label_map) for r in same}) > 1:
            fault = Unusable(
                "contradicting-lines",
                "Several lines give this patient's image different labels; none of them is used.",
                "Keep the right line.",
            )
        elif row is not same[0]:
            fault = Unusable("listed-twice", "An earlier line names this image.", "Remove this line.")
        else:
            kept.append(row)
            continue
        findings.refuse(fault, row.image, row.number)
    return kept


def _compare_people(rows: list[Row], findings: _Findings) -> None:
    """Warn of what only a person can decide: who is who, and whose an image is."""
    first: dict[str, Row] = {}
    alike: dict[str, Row] = {}
    owners: dict[Path, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        one = first.setdefault(row.patient, row)
        if one is not row and one.written != row.written:
            note = Note(
                "spelled-differently",
                f"This patient's pseudonym is spelled otherwise than in line {one.number}.",
                "Both count as one patient. If they are two, give them different pseudonyms.",
            )
            findings.warn(note, row)
        if one is row:
            other = alike.setdefault(look_alike(row.patient), row)
            if other is not row:
                note = Note(
                    "look-alike",
                    f"This pseudonym looks like that of line {other.number}, and both count.",
                    "If they are one patient, write them alike: one patient must not count twice.",
                )
                findings.warn(note, row)
        owners[row.path].setdefault(row.patient, row)
    for rows_of in owners.values():
        if len(rows_of) > 1:
            for row in rows_of.values():
                note = Note(
                    "shared-image",
                    "Lines of several patients name this image; each of them uses it.",
                    "Keep the line of the patient whose it is: nobody must count twice.",
                )
                findings.warn(note, row)


def _reader(study: Study) -> Read:
    if study.transforms.profile == "xray":
        film = film_transform(study.transforms)

        def read_one(row: Row) -> tuple[torch.Tensor, torch.Tensor, tuple[Note, ...]]:
            raw = read_film(row.path)
            return film(raw), torch.tensor(row.label), raw.notes

        return read_one
    volume, outline = volume_transform(study.transforms), label_transform(study.transforms)

    def read_three(row: Row) -> tuple[torch.Tensor, torch.Tensor, tuple[Note, ...]]:
        raw = read_volume(row.path)
        if row.label_map is None:
            return volume(raw), torch.tensor(row.label), raw.notes
        labels, notes = _checked_labels(raw, read_label_map(row.label_map), len(study.classes))
        placed, lost = outline(labels)
        if lost:
            notes += (
                Note(
                    "structure-cut",
                    "A part of an outlined structure lies outside the study's field of view.",
                    "Centre the volume on the structure.",
                ),
            )
        return volume(raw), placed, raw.notes + notes

    return read_three


def _checked_labels(image: Volume, labels: Volume, classes: int) -> tuple[Volume, tuple[Note, ...]]:
    """The label map on its image's grid.

    Raises:
        Unusable: another shape or place, an undeclared class, or values that are not whole numbers.
    """
    if labels.voxels.shape != image.voxels.shape:
        raise Unusable(
            "label-map-shape", "Image and label map have different sizes.", "Export the pair again."
        )
    corner = np.append(np.array(image.voxels.shape) - 1.0, 1.0)
    ends = np.stack([np.array([0.0, 0, 0, 1]), corner])
    if np.linalg.norm(ends @ (image.affine - labels.affine).T, axis=1).max() > SAME_PLACE_MM:
        raise Unusable(
            "label-map-place",
            "Image and label map lie at different places in the patient.",
            "Resample the label map to its image.",
        )
    values = labels.voxels
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise Unusable(
            "label-map-values", "The label map holds fractions.", "Export it as whole class numbers."
        )
    if values.min() < 0 or values.max() >= classes:
        raise Unusable(
            "undeclared-class", "The label map holds a class the study does not name.", "Remap its numbers."
        )
    if values.max() == 0:
        note = Note("empty-label-map", "The label map is empty.", "Check that the outline was saved.")
        return Volume(values, image.affine), (note,)
    return Volume(values, image.affine), ()


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
    if study.task == "classification":
        seen = Counter(int(label) for images in train.values() for _, label in images)
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


def _gather(patients: dict[str, list[Labelled]]) -> tuple[PatientImages, ...]:
    return tuple(
        PatientImages(
            patient=patient,
            images=torch.stack([image for image, _ in patients[patient]]),
            labels=torch.stack([label for _, label in patients[patient]]),
        )
        for patient in sorted(patients)
    )
