"""A manifest as it could be: what a recogniser has found, and what is settled before it is shown and written.

Settled is what concerns a whole patient: one split, a pseudonym that can be counted, not too many lines. A
proposal is frozen, holds paths and pseudonyms, and is for the operator's own screen.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from medveil.identity import Secret
from medveil.keyed import keyed_split
from medveil.pseudonyms import BadPseudonym, one_spelling
from medveil_imaging.sources.lists import Listed
from medveil_imaging.sources.manifest import MAX_LINES_OF_A_PATIENT, SPLITS
from medveil_imaging.sources.places import MAX_CELL
from medveil_imaging.sources.tree import Leavings, LeftOut, Reason

NO_NAME = Reason(
    "its name holds a line break, a control character or letters that are not UTF-8",
    "Rename it: a line of a manifest cannot hold such a name.",
)
NO_PATIENT = Reason(
    "nothing tells whose it is, or a text that names nobody (NaN, ANONYMOUS, a rounded number)",
    "Say whose it is: --labels LIST.csv with a column patient_id, or --patient-pattern.",
)
NO_LABEL = (
    "Nothing says what the images show, so the manifest has no label. Give a list: --labels LIST.csv, with a "
    "column that names the images, patients or accession numbers, and one called label (or --label-column)."
)
TOO_MANY = Reason(
    f"beyond {MAX_LINES_OF_A_PATIENT:,} images of one patient",
    "Is it one patient? Look at how patients are told above. If so, keep the images that matter.",
)


@dataclass(frozen=True)
class Wish:
    """What the operator has said about how a folder is to be read."""

    key: Secret
    """Of pseudonyms and splits."""
    labels: Listed | None = None
    """A list beside the images."""
    label_column: str = ""
    patient_column: str = ""
    columns: tuple[str, ...] = ()
    """Further columns that the manifest is to have: targets, groups."""
    suffixes: tuple[str, ...] = ()
    """Of BIDS names; several make channels."""
    maps: str = ""
    """A word in the path of the label maps that are meant."""
    pattern: re.Pattern[str] | None = None
    """Finds the patient in a path."""
    modality: str = ""
    series: str = ""
    """A word in the description of the DICOM series that are meant."""


@dataclass(frozen=True)
class Image:
    """One line of the manifest."""

    places: tuple[str, ...]
    """Its file, or one for each channel."""
    patient: str = field(repr=False)
    split: str = ""
    """"" until it is drawn."""
    label: str = ""
    label_map: str = ""
    more: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Cells of further columns."""
    source: str = ""
    """The scanner or site that it is from, where that is known: for counts, not for the manifest."""


@dataclass(frozen=True)
class Proposal:
    """A manifest that has not been written."""

    told: tuple[tuple[str, str], ...]
    """How it was read: a word and a sentence."""
    images: tuple[Image, ...] = field(repr=False)
    channels: tuple[str, ...] = ()
    """The columns of the files, if there is one for each channel."""
    columns: tuple[str, ...] = ()
    """Further columns, in order."""
    notes: tuple[str, ...] = ()
    """What the operator should think about."""
    volumes: bool = False
    """Whether the images are volumes; else they are films."""
    left_out: tuple[LeftOut, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether any line has a label."""
        return any(image.label for image in self.images)

    @property
    def outlined(self) -> bool:
        """Whether any line has a label map."""
        return any(image.label_map for image in self.images)


def settled(found: Proposal, key: Secret, leavings: Leavings, known: Mapping[str, str]) -> Proposal:
    """The proposal as it would be written: what cannot be written is left out, each patient has one split.

    Args:
        known: the split that patients have already, by the spelling that counts: they keep it.
    """
    images: list[Image] = []
    by_patient: dict[str, list[Image]] = defaultdict(list)
    forms = {written: _form(written) for written in {image.patient for image in found.images}}
    for image in sorted(found.images, key=lambda image: image.places):
        cells = (*image.places, image.label_map, image.patient, image.label, *image.more.values())
        form = forms[image.patient]
        if not all(map(_writable, cells)):
            leavings.leave(NO_NAME, image.places[0])
        elif form is None:
            leavings.leave(NO_PATIENT, image.places[0])
        elif len(by_patient[form]) >= MAX_LINES_OF_A_PATIENT:
            leavings.leave(TOO_MANY, image.places[0])
        else:
            by_patient[form].append(image)
            images.append(image)
    splits = {
        form: known.get(form) or _split(form, theirs, key) for form, theirs in by_patient.items() if theirs
    }
    notes = [*found.notes, *_of_moved({form: by_patient[form] for form in splits if form not in known})]
    if images and not (found.labelled or found.outlined or found.columns):
        notes.insert(0, NO_LABEL)
    settled_images = tuple(replace(one, split=splits[forms[one.patient] or ""]) for one in images)
    kept = sum(form in known for form in splits)
    told = (*found.told, ("splits", _of_splits(images, kept)))
    return replace(found, told=told, images=settled_images, notes=tuple(notes), left_out=leavings.listed())


def _form(patient: str) -> str | None:
    try:
        return one_spelling(patient)
    except BadPseudonym:
        return None


def _writable(cell: str) -> bool:
    return len(cell) <= MAX_CELL and (cell.isprintable() or _holds_no_break(cell))


def _holds_no_break(cell: str) -> bool:
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in cell)


def _split(form: str, images: Sequence[Image], key: Secret) -> str:
    """Of one patient: the given one; of several the one that teaches; none given: by the key."""
    given = {image.split for image in images} - {""}
    return next((split for split in SPLITS if split in given), None) or keyed_split(key, form)


def _of_moved(by_patient: Mapping[str, Sequence[Image]]) -> list[str]:
    moved: Counter[tuple[str, ...]] = Counter()
    for images in by_patient.values():
        given = tuple(split for split in SPLITS if any(image.split == split for image in images))
        if len(given) > 1:
            moved[given] += 1
    if not moved:
        return []
    which = "; ".join(f"{count:,} in {' and '.join(splits)}" for splits, count in moved.most_common())
    return [
        f"{sum(moved.values()):,} patients have images in several of the given splits ({which}). All their "
        "images go to the first of train, val, test that holds one: nobody is tested on who was taught."
    ]


def _of_splits(images: Sequence[Image], kept: int) -> str:
    given = sum(bool(image.split) for image in images)
    rule = "by a keyed hash of the patient, 70 % train, 10 % val, 20 % test, the same for life"
    if kept:
        rule = f"{kept:,} patients keep that of the manifest that is there; else {rule}"
    if not given:
        return rule
    return "as given" if given == len(images) else f"as given for {given:,} images, the others {rule}"


def manifest_text(proposal: Proposal) -> str:
    """The manifest as CSV, a line an image."""
    heads = [*(proposal.channels or ("image",)), "patient_id", "split"]
    heads += ["label"] * proposal.labelled + ["label_map"] * proposal.outlined + list(proposal.columns)
    lines = [heads]
    for one in proposal.images:
        cells = [*one.places, one.patient, one.split]
        cells += [one.label] * proposal.labelled + [one.label_map] * proposal.outlined
        lines.append(cells + [one.more.get(column, "") for column in proposal.columns])
    return "".join(",".join(map(_cell, line)) + "\n" for line in lines)


def _cell(text: str) -> str:
    if re.search(r"^\s|\s$|[\",;|\t]", text):
        return '"' + text.replace('"', '""') + '"'
    return text
