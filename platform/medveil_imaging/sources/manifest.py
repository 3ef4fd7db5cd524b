"""The file ``manifest.csv`` → the rows that can be used: each judged by itself, then beside its patient's.

It names every image: ``image`` (a file, or a folder with one DICOM series; or a column for each channel of
the study), ``patient_id``, ``split`` (train, val or test) and what the study's task learns, numbers or
``label_map`` (a file). Other columns are ignored.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from medveil.cells import simple
from medveil.groups import told as groups_told
from medveil.pseudonyms import BadPseudonym, one_spelling
from medveil.study import Study
from medveil.tasks import TASKS, BadLabel, Label
from medveil_imaging.sources.findings import Findings
from medveil_imaging.sources.group_columns import check_groups, find_groups
from medveil_imaging.sources.header import SPLIT_WORDS
from medveil_imaging.sources.lines import (
    COLUMNS,
    LOST,
    Cells,
    Table,
    Unreadable,
    letters_of,
    likely_encodings,
    open_table,
)
from medveil_imaging.sources.places import MAX_CELL, Places
from medveil_imaging.sources.raw import Problem, Unusable

MANIFEST = "manifest.csv"
SPLITS = ("train", "val", "test")
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
    told: dict[str, str] = field(default_factory=dict, repr=False)
    """What it says of its patient's groups (:func:`medveil.groups.told`)."""


def usable_rows(folder: Path, study: Study) -> list[Row]:
    """The lines of which ``sources.site.read_site`` reads the images; no image is opened."""
    return settled_rows(folder, study, Findings())


def settled_rows(folder: Path, study: Study, findings: Findings, *, labelled: bool = True) -> list[Row]:
    """The lines that can be used, held against each other patient by patient; what is found is noted.

    Args:
        labelled: False for a look at images of which nothing is known: no label is asked for, each is 0.
    """
    return _settled(_judged(folder, study, findings, labelled), findings)


def _settled(rows: list[Row], findings: Findings) -> list[Row]:
    """The lines without a patient's contradictions; what one patient's lines say concerns no other's.

    Dropped: patients of several splits (they would be tested on what they taught), and images that a
    patient's lines give two labels, or list again.
    """
    splits, listed = defaultdict(set), defaultdict(list)
    written: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        splits[row.patient].add(row.split)
        written[row.patient].setdefault(row.written, row)
        listed[row.patient, row.paths].append(row)
    kept = []
    for row in rows:
        same = listed[row.patient, row.paths]
        if len(splits[row.patient]) > 1:
            fault = _in_two_splits(row, written[row.patient])
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


def _in_two_splits(row: Row, written: dict[str, Row]) -> Unusable:
    """Args: written: the first line of each spelling of the patient's pseudonym."""
    others = [first.number for spelling, first in written.items() if spelling != row.written]
    spelled = f" Line {others[0]} spells the pseudonym otherwise." if others else ""
    return Unusable(
        "patient-in-two-splits",
        f"This patient's images lie in several splits; none of them is used.{spelled}",
        "Give all lines of a patient one split, and two patients pseudonyms that differ.",
    )


def _judged(folder: Path, study: Study, findings: Findings, labelled: bool) -> list[Row]:
    """The lines that name a patient, a split, an image and its label, as far as one line can tell.

    Nothing of a manifest of which a line is unreadable: half a manifest is none.
    """
    rows: list[Row] = []
    lines_of: Counter[str] = Counter()
    unreadable: list[Unreadable] = []
    labels: set[str] = set()
    try:
        table, places, images = _columns(folder, study, labelled)
        unknown = _unknown(table, study, places, findings) if labelled else {}
        find_groups(table.header, study, places, findings)
        judge = _Judge(study, Places(folder), images, findings, labelled)
        for number, cells in table.lines(places):
            if isinstance(cells, Unreadable):
                unreadable.append(cells)
                findings.refuse(cells, MANIFEST, number)
                continue
            cells |= unknown
            labels.add(cells.get("label", "")[:9])
            try:
                row = judge.row(number, cells)
                lines_of[row.patient] += 1
                if lines_of[row.patient] > MAX_LINES_OF_A_PATIENT:
                    raise Unusable(
                        "too-many-images",
                        "The patient has more than 1,024 lines; this one is not used.",
                        "Keep the images that matter.",
                    )
                rows.append(row)
            except Unreadable as error:
                unreadable.append(error)
                findings.refuse(error, MANIFEST, number)
            except Unusable as error:
                findings.refuse(error, cells[images[0]][:MAX_CELL], number)
        if unreadable:
            raise _half(unreadable, table.encoding)
        _check_first_class(labels, study, findings)
        check_groups([row.told for row in rows], study, findings)
    except Unusable as error:
        findings.refuse(error, MANIFEST, None)
        return []
    return rows


def _columns(folder: Path, study: Study, labelled: bool) -> tuple[Table, dict[str, int], tuple[str, ...]]:
    """The manifest, where its columns stand, and which of them name a line's files."""
    channels, told = study.transforms.channels, _labels(study) if labelled else ()
    table = open_table(folder / MANIFEST, (*COLUMNS, *told, *channels))
    apart = bool(channels) and all(table.header.place(channel) is not None for channel in channels)
    images = channels if apart else COLUMNS[:1]
    if channels and not apart and table.header.place("image") is None:
        raise Unusable(
            "missing-columns",
            f"manifest.csv must have a column image, or one for each channel: {', '.join(channels)}.",
            "Add it; the first line of the file names the columns, separated by commas or semicolons.",
        )
    if len(told) > 1:  # of several findings a site need not know all
        told = tuple(column for column in told if table.header.place(column) is not None) or told
    makes = [column for column in sorted(_of_groups(study)) if table.header.place(column) is not None]
    return table, table.header.places((*images, *COLUMNS[1:], *told, *makes)), images


def _of_groups(study: Study) -> set[str]:
    """The columns that tell patients' groups; a manifest may lack any of them."""
    return {groups.column for groups in study.evaluation.groups.values()}


def _labels(study: Study) -> tuple[str, ...]:
    return TASKS[study.task].columns(study)


def _unknown(table: Table, study: Study, places: dict[str, int], findings: Findings) -> Cells:
    """Blank cells for what the manifest has no column for; the operator is told of each."""
    absent = [column for column in _labels(study) if column not in places]
    if absent:
        problem = Problem(
            MANIFEST,
            None,
            "missing-findings",
            f"There is no column {', '.join(absent)}: these findings count as not known in every line."
            + "".join(map(table.header.meant, absent)),
            "Add the column, if the findings are known here.",
            "warning",
        )
        findings.add(problem)
    return dict.fromkeys(absent, "")


def _check_first_class(labels: set[str], study: Study, findings: Findings) -> None:
    """Tell of classes that were counted from 1: then the numbers that can be used are wrong as well."""
    numbers = {int(label) for label in labels if label.isascii() and label.isdigit()}
    if numbers and 0 not in numbers and max(numbers) == len(study.classes):
        problem = Problem(
            MANIFEST,
            None,
            "labels-from-one",
            f"The labels run up to {len(study.classes)}, and none is 0: they seem to be counted from 1.",
            "Count the classes from 0, in the order in which the study names them.",
            "warning",
        )
        findings.add(problem)


def _half(unreadable: list[Unreadable], encoding: str) -> Unusable:
    cells = [cell for error in unreadable for cell in error.cells]
    remedy = "Repair or remove the lines that are named below."
    if cells and not encoding:
        likely = likely_encodings(cells) or ["windows-1252"]
        remedy = (
            "Save it as CSV (UTF-8). Or say what it was saved in, in a line of its own above the first: "
            f"encoding={' or encoding='.join(likely[:3])}."
        )
    return Unusable(
        "half-manifest",
        f"{len(unreadable)} line(s) of manifest.csv cannot be read. Whose they are is not known, so nothing "
        "of the file is used.",
        remedy,
    )


@dataclass(frozen=True)
class _Judge:
    """What one line says, by itself."""

    study: Study
    places: Places
    images: tuple[str, ...]
    findings: Findings
    labelled: bool

    def row(self, number: int, cell: Cells) -> Row:
        """The line, if it can be used. Raises: Unusable, Unreadable."""
        self._check_letters(cell)
        written = cell["patient_id"].strip()
        try:
            patient = one_spelling(written)
        except BadPseudonym as error:
            raise Unusable(
                "no-patient",
                f"The pseudonym {error.reason}: the line names no patient.",
                "Give every patient a stable pseudonym, kept as text: it is what is protected.",
            ) from error
        split = SPLIT_WORDS.get(simple(cell["split"]))
        if split is None:
            raise Unusable("bad-split", "The split is not train, val or test.", "Correct the line.")
        label: Label | None = None
        label_map = None
        if not self.labelled:
            label = 0
        elif TASKS[self.study.task].outlines:
            label_map = self._path(number, cell, "label_map", "label map")
        else:
            try:
                label = TASKS[self.study.task].read_label(self.study, cell)
            except BadLabel as error:
                raise Unusable("bad-label", error.reason, error.remedy) from error
        paths = tuple(
            self._path(number, cell, name, name if name == "image" else f"channel {name}")
            for name in self.images
        )
        told = groups_told(self.study.evaluation.groups, cell)
        return Row(number, cell[self.images[0]], paths, patient, written, split, label, label_map, told)

    def _check_letters(self, cell: Cells) -> None:
        """Raises: Unreadable: letters are lost of a cell that is no path and does more than tell a group."""
        paths = {*self.images, "label_map", *_of_groups(self.study) - {*COLUMNS, *_labels(self.study)}}
        lost = [text for column, text in cell.items() if column not in paths and letters_of(text) is None]
        if lost:
            raise Unreadable(
                "not-utf-8",
                "Letters of this line are not in the file's encoding, or were lost before it was saved.",
                "Save the file as CSV (UTF-8), and write the letters anew if they are still lost.",
                tuple(text for text in lost if LOST not in text),
            )

    def _path(self, number: int, cell: Cells, column: str, what: str) -> Path:
        path, note = self.places.find(cell[column], what)
        if note is not None:
            self.findings.warn(note, cell[self.images[0]][:MAX_CELL], number)
        return path
