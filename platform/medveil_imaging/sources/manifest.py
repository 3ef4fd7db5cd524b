"""The file ``manifest.csv`` → the rows that can be used: each judged by itself, then beside its patient's.

It names every image: ``image`` (a file, or a folder with one DICOM series; or instead a column for each
channel that the study names), ``patient_id``, ``split`` (train,
val or test) and ``label`` (a class number) or ``label_map`` (a file). Other columns are ignored.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medveil.pseudonyms import BadPseudonym, one_spelling
from medveil.study import Study
from medveil.tasks import TASKS, BadLabel, Label
from medveil_imaging.sources.findings import Findings
from medveil_imaging.sources.lines import Cells, manifest_lines
from medveil_imaging.sources.raw import Unusable

MANIFEST = "manifest.csv"
SPLITS = ("train", "val", "test")
MAX_CELL = 4096
MAX_LINES_OF_A_PATIENT = 1024


@dataclass(frozen=True)
class Row:
    """One usable line of the manifest."""

    number: int
    image: str
    paths: tuple[Path, ...]
    """Its files: one, or one for each channel that the study names."""
    patient: str = field(repr=False)
    """In the spelling that counts."""
    written: str = field(repr=False)
    """As the line has it."""
    split: str
    label: Label | None
    """None where a label map has it."""
    label_map: Path | None


def usable_rows(folder: Path, study: Study) -> list[Row]:
    """The lines of which ``sources.site.read_site`` reads the images; no image is opened."""
    return settled_rows(folder, study, Findings())


def settled_rows(folder: Path, study: Study, findings: Findings) -> list[Row]:
    """The lines that can be used, held against each other patient by patient; what is found is noted."""
    return _settled(_judged(folder, study, findings), findings)


def _settled(rows: list[Row], findings: Findings) -> list[Row]:
    """The lines without a patient's contradictions; what one patient's lines say concerns no other's.

    Dropped: patients of several splits (they would be tested on what they taught), and images that a
    patient's lines give two labels, or list again.
    """
    splits, listed = defaultdict(set), defaultdict(list)
    for row in rows:
        splits[row.patient].add(row.split)
        listed[row.patient, row.paths].append(row)
    kept = []
    for row in rows:
        same = listed[row.patient, row.paths]
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


def _judged(folder: Path, study: Study, findings: Findings) -> list[Row]:
    """The lines that name a patient, a split, an image and its label, as far as one line can tell."""
    rows: list[Row] = []
    lines_of: Counter[str] = Counter()
    inside = folder.resolve()
    try:
        for number, cells in _lines(folder / MANIFEST, study):
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
                findings.refuse(error, _named(cells, study)[:MAX_CELL], number)
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
    label: Label | None = None
    label_map = None
    if TASKS[study.task].outlines:
        label_map = _inside(inside, cell["label_map"], "label map")
    else:
        try:
            label = TASKS[study.task].read_label(study, cell)
        except BadLabel as error:
            raise Unusable("bad-label", error.reason, error.remedy) from error
    paths = tuple(_inside(inside, cell[column], what) for column, what in _files(cell, study))
    return Row(number, _named(cell, study), paths, patient, written, split, label, label_map)


def _lines(path: Path, study: Study) -> Iterator[tuple[int, Cells | Unusable]]:
    """The lines with the columns that the study wants: of an image's files one for each channel, else one."""
    others = ["patient_id", "split", *TASKS[study.task].columns(study)]
    channels = study.transforms.channels
    for columns in (channels, ("image",)) if channels else (("image",),):
        lines = manifest_lines(path, [*columns, *others])
        try:
            first = next(lines, None)
        except Unusable as error:
            if error.code != "missing-columns" or not channels:
                raise
            if columns == channels:
                continue
            raise Unusable(
                "missing-columns",
                f"manifest.csv must have one column {', '.join(['image', *others])}; or, instead of image, "
                f"one for each channel: {', '.join(channels)}.",
                "Add it; the first line of the file names the columns, separated by commas.",
            ) from error
        if first is not None:
            yield first
            yield from lines
        return


def _files(cell: Cells, study: Study) -> list[tuple[str, str]]:
    """The columns that name an image's files, and what each of them is."""
    if "image" in cell:
        return [("image", "image")]
    return [(name, f"channel {name}") for name in study.transforms.channels]


def _named(cell: Cells, study: Study) -> str:
    """The file by which the operator knows the line."""
    return cell[_files(cell, study)[0][0]]


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
