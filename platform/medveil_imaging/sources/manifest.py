"""A hospital's folder → patients' tensors and a list of what could not be used, and why.

``manifest.csv`` names every image: ``image`` (a file, or a folder with one DICOM series), ``patient_id``,
``split`` (train, val or test) and ``label`` (a class number) or ``label_map`` (a file). Others are ignored.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from medveil.study import Study
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.raw import Note, Problem, Unusable, Volume, quiet
from medveil_imaging.sources.read import read_film, read_label_map, read_volume
from medveil_imaging.transforms import film_transform, label_transform, volume_transform

MANIFEST = "manifest.csv"
SPLITS = ("train", "val", "test")
MAX_MANIFEST_BYTES = 2**28
MAX_CELL = 4096
SAME_PLACE_MM = 1.0
"""How far a label map's grid may lie from its image's."""

__all__ = ["Problem", "SiteData", "read_site"]


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
    split: str
    label: int | None
    label_map: Path | None


Read = Callable[[Row], tuple[torch.Tensor, torch.Tensor, tuple[Note, ...]]]


def read_site(folder: Path, study: Study) -> SiteData:
    """Read a site; every image is transformed as the study says.

    Guarantees: nothing raises on account of a file's content; every line that is not used is one problem with
    severity ``error``; no file outside ``folder`` is opened; no tag, text or pseudonym is in a problem.
    """
    name = folder.resolve().name
    problems: list[Problem] = []
    lines: list[tuple[int, dict[str, str]]] = []
    try:
        for line in _read_lines(folder / MANIFEST, study, problems):
            lines.append(line)
    except Unusable as error:  # what was read before the damage is kept
        problems.append(_problem(error, MANIFEST, None))
    rows = _consistent(_check_rows(lines, folder, study, problems), problems)
    reader = _reader(study)
    patients: dict[str, dict[str, list[tuple[torch.Tensor, torch.Tensor]]]] = {s: {} for s in SPLITS}
    with quiet():
        for row in rows:
            try:
                image, label, notes = reader(row)
            except Unusable as error:
                problems.append(_problem(error, row.image, row.number))
            except Exception:  # geometry that the readers let pass and the resampling cannot use
                fault = Unusable(
                    "unusable-image", "The image cannot be brought into shape.", "Export it again."
                )
                problems.append(_problem(fault, row.image, row.number))
            else:
                problems += [
                    Problem(row.image, row.number, n.code, n.reason, n.remedy, "warning") for n in notes
                ]
                patients[row.split].setdefault(row.patient, []).append((image, label))
    problems += _whole_site(study, patients["train"])
    train, val, test = (_gather(patients[split]) for split in SPLITS)
    ordered = sorted(problems, key=lambda p: (p.row is not None, p.row or 0))
    return SiteData(name=name, train=train, val=val, test=test, problems=tuple(ordered))


def _read_lines(path: Path, study: Study, problems: list[Problem]) -> Iterator[tuple[int, dict[str, str]]]:
    wanted = ["image", "patient_id", "split", "label" if study.task == "classification" else "label_map"]
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise Unusable("bad-manifest", "manifest.csv is too large.", "Split the site.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            missing = [column for column in wanted if header.count(column) != 1]
            if missing:
                raise Unusable(
                    "missing-columns",
                    f"manifest.csv must have one column {', '.join(missing)}.",
                    "Add it; the first line of the file names the columns, separated by commas.",
                )
            for cells in reader:
                # A missing or extra comma shifts every cell; an open quotation mark swallows lines.
                if cells and (len(cells) != len(header) or any("\n" in cell for cell in cells)):
                    fault = Unusable(
                        "bad-line",
                        "The line has another number of cells than the header, or a quotation mark is open.",
                        "Put quotation marks around cells that hold a comma, and close each of them.",
                    )
                    problems.append(_problem(fault, MANIFEST, reader.line_num))
                elif cells:
                    yield reader.line_num, {column: cells[header.index(column)] for column in wanted}
    except FileNotFoundError as error:
        raise Unusable(
            "no-manifest", "The folder holds no manifest.csv.", "Write one; docs/operator.md shows how."
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Unusable(
            "bad-manifest", "manifest.csv is not a readable CSV file in UTF-8.", "Save it as CSV (UTF-8)."
        ) from error


def _check_rows(
    lines: list[tuple[int, dict[str, str]]], folder: Path, study: Study, problems: list[Problem]
) -> list[Row]:
    rows, inside = [], folder.resolve()
    for number, cell in lines:
        try:
            rows.append(_check_row(number, cell, inside, study))
        except Unusable as error:
            problems.append(_problem(error, cell["image"][:MAX_CELL], number))
    return rows


def _check_row(number: int, cell: dict[str, str], inside: Path, study: Study) -> Row:
    patient, split = cell["patient_id"].strip(), cell["split"].strip().lower()
    if not patient or len(patient) > MAX_CELL:
        raise Unusable(
            "no-patient",
            "The line names no patient.",
            "Give every patient a stable pseudonym: it is what is protected.",
        )
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
    return Row(
        number, cell["image"], _inside(inside, cell["image"], "image"), patient, split, label, label_map
    )


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


def _consistent(rows: list[Row], problems: list[Problem]) -> list[Row]:
    """Drop patients of several splits (they would be tested on what they taught) and images listed twice."""
    splits, listed = defaultdict(set), defaultdict(list)
    for row in rows:
        splits[row.patient].add(row.split)
        listed[row.path].append(row)
    kept = []
    for row in rows:
        same = listed[row.path]
        if len(splits[row.patient]) > 1:
            fault = Unusable(
                "patient-in-two-splits",
                "This patient's images lie in several splits; none of them is used.",
                "Give all lines of a patient one split.",
            )
        elif len({(r.patient, r.label, r.label_map) for r in same}) > 1:
            fault = Unusable(
                "contradicting-lines",
                "Several lines give this image to different patients or labels; none of them is used.",
                "Keep the right line.",
            )
        elif row is not same[0]:
            fault = Unusable("listed-twice", "An earlier line names this image.", "Remove this line.")
        else:
            kept.append(row)
            continue
        problems.append(_problem(fault, row.image, row.number))
    return kept


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


def _whole_site(study: Study, train: dict[str, list[tuple[torch.Tensor, torch.Tensor]]]) -> list[Problem]:
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


def _gather(patients: dict[str, list[tuple[torch.Tensor, torch.Tensor]]]) -> tuple[PatientImages, ...]:
    return tuple(
        PatientImages(
            patient=patient,
            images=torch.stack([image for image, _ in patients[patient]]),
            labels=torch.stack([label for _, label in patients[patient]]),
        )
        for patient in sorted(patients)
    )


def _problem(error: Unusable, file: str, row: int | None) -> Problem:
    return Problem(file, row, error.code, error.what, error.remedy)
