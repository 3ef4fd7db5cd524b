"""Who is who, and whose an image is: what the lines of several patients have in common, for people to judge.

Nothing here changes what is used. One patient's lines must not take another's images away, so two patients
that look like one, or share an image, are both used, and the operator is told.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from medveil.pseudonyms import doubtful, look_alike
from medveil_imaging.sources.findings import Findings
from medveil_imaging.sources.manifest import Row
from medveil_imaging.sources.raw import Film, Note, Volume


@dataclass(frozen=True)
class Marks:
    """What images are recognised by while a folder is checked; neither is ever stored in the open, logged or
    sent."""

    pixels: bytes = field(repr=False)
    """Equal where the pixels are, whatever file and header they come in."""
    patient: bytes | None = field(repr=False)
    """Equal where the headers name one patient; None where they name nobody."""


def marks_of(image: Film | Volume, key: bytes) -> Marks:
    """An image as it was read, before any transform.

    Args:
        key: up to 64 secret bytes; marks under one key can be compared, and nobody else can try images
            against them.
    """
    values = image.pixels if isinstance(image, Film) else image.voxels
    digest = hashlib.blake2b(str(values.shape).encode(), key=key, digest_size=32)
    digest.update(values.tobytes())
    mark = image.patient_mark
    person = None if mark is None else hashlib.blake2b(mark, key=key, digest_size=32).digest()
    return Marks(digest.digest(), person)


def compare_people(rows: list[Row], findings: Findings) -> None:
    """Warn of what the manifest alone shows: pseudonyms that may be one patient's, files of several."""
    first: dict[str, Row] = {}
    alike: dict[str, Row] = {}
    for row in rows:
        one = first.setdefault(row.patient, row)
        if one is not row and one.written != row.written:
            note = Note(
                "spelled-differently",
                f"This patient's pseudonym is spelled otherwise than in line {one.number}.",
                "Both count as one patient. If they are two, give them different pseudonyms.",
            )
            findings.warn(note, row.image, row.number)
        if one is row:
            other = alike.setdefault(look_alike(row.patient), row)
            if other is not row:
                where = "" if other.split == row.split else ", of another split"
                note = Note(
                    "look-alike",
                    f"This pseudonym looks like that of line {other.number}{where}, and both count.",
                    "If they are one patient, write them alike: one patient must not count twice.",
                )
                findings.warn(note, row.image, row.number)
    for patient, looks in doubtful(first).items():
        note = Note(
            "doubtful-patient",
            f"This pseudonym looks like {looks}: several patients may have become one.",
            "Compare it with the list that it was taken from; format the column as text, and export it anew.",
        )
        findings.warn(note, first[patient].image, first[patient].number)
    for owners in _shared((row.paths, row.patient, row) for row in rows):
        for row in owners:
            findings.warn(_shared_image(owners), row.image, row.number)


def compare_images(read: Iterable[tuple[Row, Marks]], findings: Findings) -> None:
    """Warn of what shows when the images have been read: equal pixels, and whom their headers name."""
    seen = list(read)
    for owners in _shared((marks.pixels, row.patient, row) for row, marks in seen):
        if len({row.paths for row in owners}) > 1:  # else the manifest has shown it
            for row in owners:
                findings.warn(_same_pixels(row, owners), row.image, row.number)
    for copies in _shared(((row.patient, marks.pixels), row.paths, row) for row, marks in seen):
        for row in copies[1:]:
            note = Note(
                "copied-image",
                f"This picture is that of line {copies[0].number}, of the same patient; both are used.",
                "Keep one of the lines, with the right label.",
            )
            findings.warn(note, row.image, row.number)
    named = [(row, marks.patient) for row, marks in seen if marks.patient is not None]
    for owners in _shared((mark, row.patient, row) for row, mark in named):
        note = Note(
            "one-person-two-patients",
            f"Its header names the same person as that of line {owners[0].number}, and the manifest calls "
            f"them {len(owners)} patients.",
            "If they are one person, give them one pseudonym and split: nobody must count twice.",
        )
        findings.warn(note, owners[1].image, owners[1].number)
    for persons in _shared((row.patient, mark, row) for row, mark in named):
        note = Note(
            "two-persons-one-patient",
            f"Its header names another person than that of line {persons[0].number}, and the manifest calls "
            "them one patient.",
            "If they are two people, give them two pseudonyms.",
        )
        findings.warn(note, persons[1].image, persons[1].number)


def _shared(lines: Iterable[tuple[Hashable, Hashable, Row]]) -> Iterable[list[Row]]:
    """The first line of everybody who has a thing in common with somebody else, thing by thing.

    Args:
        lines: the thing, who has it, and the line that says so.
    """
    owners: dict[Hashable, dict[Hashable, Row]] = defaultdict(dict)
    for thing, who, row in lines:
        owners[thing].setdefault(who, row)
    return (list(rows.values()) for rows in owners.values() if len(rows) > 1)


def _shared_image(owners: list[Row]) -> Note:
    if len({row.split for row in owners}) > 1:
        return Note(
            "shared-image-two-splits",
            "Lines of several patients name this image, in several splits; each of them uses it, and what is "
            "tested was taught.",
            "Keep the line of the patient whose it is, before you take part: scores are too good.",
        )
    return Note(
        "shared-image",
        "Lines of several patients name this image; each of them uses it.",
        "Keep the line of the patient whose it is: nobody must count twice.",
    )


def _same_pixels(row: Row, owners: list[Row]) -> Note:
    other = next(one for one in owners if one is not row)
    if len({one.split for one in owners}) > 1:
        return Note(
            "same-pixels-two-splits",
            f"This picture is that of line {other.number}, of another patient, in several splits: what is "
            "tested was taught.",
            "Keep the line of the patient whose it is, before you take part: scores are too good.",
        )
    return Note(
        "same-pixels",
        f"This picture is that of line {other.number}, of another patient; each of them uses it.",
        "Keep the line of the patient whose it is: nobody must count twice.",
    )
