"""What a list beside the images says of each: label, patient, split and further columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medveil.cells import simple
from medveil_imaging.sources.dicom.elements import years_of
from medveil_imaging.sources.lists import (
    LABEL_COLUMN,
    PATIENT_COLUMNS,
    SPLIT_COLUMN,
    Joined,
    Listed,
    joined,
    split_in,
)
from medveil_imaging.sources.proposed import Image, Proposal, Wish
from medveil_imaging.sources.tree import Leavings, Reason

NOT_LISTED = Reason("not in the list of labels", "Add a line for it to the list, if it is known.")
NO_LABEL = Reason("the list says no label for it", "Fill the cell in the list, if it is known.")
CONTRADICTING = Reason("lines of the list say different things of it", "Keep the right line of the list.")


def with_list(
    found: Proposal, names: Sequence[Mapping[str, str]], wish: Wish, leavings: Leavings, *, patients: bool
) -> Proposal:
    """The proposal with what ``wish.labels`` says; unchanged without a list.

    Args:
        names: of each image of ``found`` the names by which a list may call it.
        patients: whether the list's own column of patients counts without being asked for.
    Raises: BadOption: the list lacks a column, or names none of the images.
    """
    listed = wish.labels
    if listed is None:
        return found
    label = listed.wanted(wish.label_column) if wish.label_column else listed.place(LABEL_COLUMN)
    patient = listed.wanted(wish.patient_column) if wish.patient_column else None
    if patient is None and patients:
        patient = listed.first(PATIENT_COLUMNS)
    more = {column: listed.wanted(column) for column in wish.columns if column not in found.columns}
    split = listed.place(SPLIT_COLUMN)
    cells = [place for place in (label, patient, split, *more.values()) if place is not None]
    match = joined(listed, names, cells)
    images = []
    for image, row in zip(found.images, match.rows, strict=True):
        if row is None:
            leavings.leave(NOT_LISTED, image.places[0])
            continue
        if label is not None and not row[label]:
            leavings.leave(NO_LABEL, image.places[0])
            continue
        images.append(_filled(image, row, label, patient, split, more))
    columns = (*found.columns, *(column for column in more if column not in found.columns))
    told = [*found.told, ("list", _said(listed, match, label, patient))]
    if patient is not None:
        told = [one for one in told if one[0] != "patients"]
        told.append(("patients", f"from the column {listed.columns[patient]} of the list"))
    notes = found.notes if patient is None else ()
    return replace(
        found, images=tuple(images), columns=columns, told=tuple(told), notes=(*notes, *_notes(match))
    )


def _filled(
    image: Image,
    row: tuple[str, ...],
    label: int | None,
    patient: int | None,
    split: int | None,
    more: Mapping[str, int],
) -> Image:
    return replace(
        image,
        label=image.label if label is None else row[label],
        patient=image.patient if patient is None else row[patient],
        split=image.split or ("" if split is None else split_in(row[split])),
        more={**image.more, **{column: _in_years(row[place]) for column, place in more.items()}},
    )


def _in_years(cell: str) -> str:
    """An age as DICOM writes it (``061Y``) as a number; anything else as it is."""
    return years_of(cell) or cell


def _said(listed: Listed, match: Joined, label: int | None, patient: int | None) -> str:
    what = "no label" if label is None else f"labels from its column {listed.columns[label]}"
    return f"{listed.name}, which names images by {match.way} in its column {match.column}; {what}"


def _notes(match: Joined) -> list[str]:
    notes = []
    if match.unused:
        notes.append(f"{match.unused:,} lines of the list name nothing that is here.")
    if match.contradicting:
        notes.append(
            f"Of {match.contradicting:,} images lines of the list say different things; they are left out."
        )
    return notes


def known_columns(listed: Listed, given: Sequence[str]) -> tuple[str, ...]:
    """Those of ``given`` that the list has, in capitals or not."""
    names = {simple(name) for name in listed.columns}
    return tuple(column for column in given if simple(column) in names)
