"""A tree of DICOM files as a PACS or a disc exports them: series by their headers, patients by pseudonym.

Films are listed file by file, MR series by their folder, as a manifest names them. Of each file only the head
is read.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medveil.errors import BadOption
from medveil.keyed import keyed_pseudonym
from medveil.progress import tell
from medveil.pseudonyms import BadPseudonym
from medveil.shown import plain
from medveil.stopping import check_stopped
from medveil_imaging.sources.dicom.elements import FirstElements, first_elements
from medveil_imaging.sources.dicom.film import FILM_MODALITIES as FILMS
from medveil_imaging.sources.dicom.series import NO_PICTURES
from medveil_imaging.sources.listed_images import with_list
from medveil_imaging.sources.proposals import LAYOUTS, Layout
from medveil_imaging.sources.proposed import NO_PATIENT, Image, Proposal, Wish
from medveil_imaging.sources.tree import File, Leavings, Reason, Tree

MR = "MR"
OFFERED = ("age", "sex", "scanner")
"""Columns that headers can fill."""
NOT_DICOM = Reason("no DICOM", "Nothing, if it is none; else export it again as DICOM.")
INDEX = Reason(
    "the index of a disc (DICOMDIR), or DICOM whose header cannot be read", "Nothing, if it is an index."
)
NO_PICTURE = Reason("a report, a presentation or the like: no picture", "Nothing need be done.")
LOCALIZER = Reason("a localizer", "Nothing need be done.")
COPY = Reason(
    "a copy of another image (the same SOPInstanceUID)", "Nothing need be done: the other one is used."
)
OTHER_SERIES = Reason("another series than --series asks for", "Nothing, if it is not meant.")
MIXED = Reason(
    "an MR series whose folder holds other series as well", "Export it anew, with a folder for each series."
)
SCATTERED = Reason("an MR series in several folders", "Put the files of a series into one folder.")
AT_THE_TOP = Reason("an MR series directly in this folder", "Name the folder above this one.")
SINGLE = Reason("an MR series of one slice", "Nothing, if it is a scout; else export the whole series.")
NO_SERIES = Reason("MR without a SeriesInstanceUID", "Export it again from the PACS.")


def unread(modality: str) -> Reason:
    """Of a kind that is not read, or not asked for."""
    shown = plain(modality, 16)
    if modality == MR or modality in FILMS:
        return Reason(f"modality {shown}", f"Nothing, if it is not meant; else --modality {shown}.")
    return Reason(f"modality {shown}, which is not read here", "Nothing need be done.")


@dataclass(frozen=True)
class Found:
    """The images of a tree, before a list is held against them."""

    proposal: Proposal
    names: tuple[Mapping[str, str], ...] = field(repr=False)
    """Of each image how a list may call it."""


@dataclass(frozen=True)
class _Unit:
    """What makes one line: a film, a volume in one file, or a folder with a series."""

    place: str
    head: FirstElements


def fits_dicom(tree: Tree) -> bool:
    """Whether most images are DICOM files."""
    kinds = Counter(file.kind for file in tree.images)
    return kinds["dicom"] > sum(kinds.values()) / 2


def propose_dicom(tree: Tree, wish: Wish, leavings: Leavings) -> Proposal:
    """A line for each film and each MR series."""
    found = found_in(tree, wish, leavings)
    return with_list(found.proposal, found.names, wish, leavings, patients=False)


def found_in(tree: Tree, wish: Wish, leavings: Leavings) -> Found:
    """The films, or the MR series, of a tree."""
    heads = _heads(tree, leavings)
    modality = _chosen(heads, wish)
    meant = []
    for file, head in heads:
        reason = _not_meant(head, modality, wish)
        if reason is None:
            meant.append((file, head))
        else:
            leavings.leave(reason, file.path)
    meant = _without_copies(meant, leavings)
    units = _series(tree, meant, leavings) if modality == MR else [_Unit(f.path, h) for f, h in meant]
    images, names = [], []
    for unit in units:
        patient = _patient(unit.head, wish)
        if not patient and not wish.patient_column:
            leavings.leave(NO_PATIENT, unit.place)
            continue
        images.append(_image(unit, patient, wish))
        names.append(_names(unit))
    told = (("images", _kind(modality)), *_of_descriptions(units), ("patients", _of_patients(wish)))
    columns = tuple(column for column in wish.columns if column in OFFERED and not _listed(wish, column))
    notes = tuple(_of_paths(units))
    return Found(
        Proposal(told=told, images=tuple(images), columns=columns, notes=notes, volumes=modality == MR),
        tuple(names),
    )


def _heads(tree: Tree, leavings: Leavings) -> list[tuple[File, FirstElements]]:
    heads = []
    for done, file in enumerate(tree.files, start=1):
        check_stopped()
        tell("headers", done, len(tree.files))
        if file.kind != "dicom":
            leavings.leave(NOT_DICOM, file.path)
            continue
        head = first_elements(os.path.join(tree.root, file.path))
        if head is None or not head.modality:
            leavings.leave(INDEX, file.path)
        else:
            heads.append((file, head))
    return heads


def _chosen(heads: Sequence[tuple[File, FirstElements]], wish: Wish) -> str:
    """The modality that is asked for; else MR, or "" for films, whichever has more patients.

    Raises: BadOption.
    """
    if wish.modality:
        modality = wish.modality.upper()
        if modality != MR and modality not in FILMS:
            raise BadOption(problem=f"images of modality {plain(modality, 16)} are not read here")
        return modality
    patients: dict[bool, set[str]] = {True: set(), False: set()}
    for _, head in heads:
        if head.modality == MR or head.modality in FILMS:
            patients[head.modality == MR].add(head.patient or head.study)
    return MR if len(patients[True]) > len(patients[False]) else ""


def _not_meant(head: FirstElements, modality: str, wish: Wish) -> Reason | None:
    if head.modality in NO_PICTURES:
        return NO_PICTURE
    if head.modality != modality and (modality or head.modality not in FILMS):
        return unread(head.modality)
    if "LOCALIZER" in head.image_type:
        return LOCALIZER
    if wish.series and wish.series.upper() not in head.description:
        return OTHER_SERIES
    return None


def _without_copies(
    heads: Sequence[tuple[File, FirstElements]], leavings: Leavings
) -> list[tuple[File, FirstElements]]:
    seen: set[str] = set()
    kept = []
    for file, head in heads:
        if head.instance and head.instance in seen:
            leavings.leave(COPY, file.path)
        else:
            seen.add(head.instance)
            kept.append((file, head))
    return kept


def _series(tree: Tree, heads: Sequence[tuple[File, FirstElements]], leavings: Leavings) -> list[_Unit]:
    """Volumes: files of many frames, and folders with the slices of one series."""
    units, slices, inside = [], defaultdict(list), defaultdict(set)
    for file, head in heads:
        folder = "/".join(file.folders)
        inside[folder].add(head.series)
        if head.frames > 1:
            units.append(_Unit(file.path, head))
        elif not head.series:
            leavings.leave(NO_SERIES, file.path)
        else:
            slices[head.series].append((folder, file, head))
    above = {file.folders[:depth] for file in tree.files for depth in range(len(file.folders))}
    for found in slices.values():
        folder, file, head = found[0]
        reason = None
        if len({one[0] for one in found}) > 1:
            reason = SCATTERED
        elif len(inside[folder]) > 1 or (file.folders in above and folder):
            reason = MIXED
        elif not folder:
            reason = AT_THE_TOP
        elif len(found) == 1:
            reason = SINGLE
        if reason is None:
            units.append(_Unit(folder, head))
        else:
            leavings.leave(reason, file.path, len(found))
    return units


def _patient(head: FirstElements, wish: Wish) -> str:
    try:
        return keyed_pseudonym(wish.key, head.patient) if head.patient else ""
    except BadPseudonym:
        return ""


def _image(unit: _Unit, patient: str, wish: Wish) -> Image:
    values = {"age": unit.head.age, "sex": unit.head.sex[:1], "scanner": unit.head.scanner}
    more = {
        column: values[column] for column in wish.columns if column in OFFERED and not _listed(wish, column)
    }
    return Image((unit.place,), patient, more=more, source=unit.head.scanner)


def _listed(wish: Wish, column: str) -> bool:
    return wish.labels is not None and wish.labels.place(column) is not None


def _names(unit: _Unit) -> dict[str, str]:
    head = unit.head
    names = {
        "accession number": head.accession,
        "series UID": head.series,
        "PatientID": head.patient,
        "study UID": head.study,
        "SOP instance UID": head.instance,
    }
    return names | {"path": unit.place, "name": unit.place, "stem": unit.place}


def _kind(modality: str) -> str:
    if modality == MR:
        return "MR series, a folder or a file of many frames each"
    return f"DICOM films{f' of modality {modality}' if modality else ''}, a file each"


def _of_descriptions(units: Sequence[_Unit]) -> list[tuple[str, str]]:
    found = Counter(unit.head.description or "without a description" for unit in units)
    if len(found) < 2 and "" in found:
        return []
    listed = ", ".join(f"{name} ({count:,})" for name, count in found.most_common(6))
    more = f" and {len(found) - 6:,} more" if len(found) > 6 else ""
    return [("series", f"{listed}{more}; choose with --series WORD")] if len(found) > 1 else []


def _of_patients(wish: Wish) -> str:
    if wish.patient_column:
        return "from the list"
    return "PatientID, as a pseudonym under this hospital's key; the number itself is not written"


def _of_paths(units: Sequence[_Unit]) -> list[str]:
    """The warning that paths, which the manifest holds, tell who a patient is."""
    telling = 0
    for unit in units:
        path = unit.place.upper()
        names = [part for part in unit.head.name.replace("^", " ").split() if len(part) > 3]
        numbers = [unit.head.patient.upper()] if len(unit.head.patient) > 3 else []
        telling += any(part in path for part in (*names, *numbers))
    if not telling:
        return []
    return [
        f"{telling:,} paths hold the number or the name of their patient, and a manifest holds paths. It "
        "stays on this machine; rename the files if your rules want more."
    ]


LAYOUTS.register("dicom")(
    Layout(what="a tree of DICOM files", asked=3, fits=fits_dicom, propose=propose_dicom)
)
