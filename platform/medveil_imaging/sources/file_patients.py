"""Whose an image is, as far as its path tells: by a pattern that the operator gives, or by a known one.

A wrong guess would make several patients of one, who then pays several times and is counted once. So only
forms are known that public sets are documented to have; else each image is taken as a patient of its own,
and the operator is told so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from medveil.pseudonyms import BadPseudonym, one_spelling
from medveil_imaging.sources.tree import stem_of

ENOUGH = 0.9
"""Share of the images that a known form must fit."""
KNOWN = (
    (
        "personN or IM-N, as the chest films of Guangzhou are called",
        r"(?:^|/)(person\d+|(?:NORMAL2-)?IM-\d+)[-_][^/]*$",
    ),
    ("the eight digits before _NNN, as ChestX-ray14 is called", r"(?:^|/)(\d{8})_\d{3}\.[^/]*$"),
    ("the folder patientN, as in CheXpert", r"(?:^|/)(patient\d{3,})/"),
    ("the folder pN of eight digits, as in MIMIC-CXR", r"(?:^|/)(p\d{8})/"),
    ("sub-LABEL, as in BIDS", r"(?:^|/)(sub-[A-Za-z0-9]+)[_/]"),
)
OWN = (
    "Nothing in the names tells which images are of one patient, so each image counts as a patient of its "
    "own. If a patient has several, the privacy promise is weaker and the test is too good. Say whose they "
    "are: --patient-pattern, or --labels LIST.csv with a column patient_id."
)


@dataclass(frozen=True)
class Owners:
    """Whose images are."""

    told: str
    """How that is told, for the operator."""
    patients: tuple[str, ...] = field(repr=False)
    """Of each image; "" where nothing tells."""
    notes: tuple[str, ...] = ()


def owners_of(paths: Sequence[str], pattern: re.Pattern[str] | None, folders: Sequence[str] = ()) -> Owners:
    """The patient of each path.

    Args:
        pattern: finds the patient in a path: what its first group, or all of it, matches.
        folders: of each path the folder that may be a patient's; "" if there is none.
    """
    if pattern is not None:
        return Owners(f"what --patient-pattern finds in the path: {pattern.pattern}", _found(paths, pattern))
    for told, text in KNOWN:
        found = _found(paths, re.compile(text))
        fits = sum(map(bool, found))
        if fits >= ENOUGH * len(paths) and fits:
            own = _own(paths) if fits < len(paths) else found
            notes: tuple[str, ...] = ()
            if fits < len(paths):
                notes = (
                    f"{len(paths) - fits:,} names have another form; each of these is a patient of its own.",
                )
            return Owners(
                f"from the path: {told}", tuple(a or b for a, b in zip(found, own, strict=True)), notes
            )
    if folders and all(folders) and len(set(folders)) > 1:
        return Owners("the folder below the class", tuple(folders))
    return Owners("each image as its own", _own(paths), (OWN,) if len(paths) > 1 else ())


def _found(paths: Sequence[str], pattern: re.Pattern[str]) -> tuple[str, ...]:
    matches = [pattern.search(path) for path in paths]
    return tuple("" if m is None else (m[1] or "" if pattern.groups else m[0]) for m in matches)


def _own(paths: Sequence[str]) -> tuple[str, ...]:
    """The name of each file; the whole path where two names count as one."""
    stems = [stem_of(path.rpartition("/")[2]) for path in paths]
    forms = [_form(stem) for stem in stems]
    count = Counter(forms)
    return tuple(
        stem if form and count[form] == 1 else path
        for stem, form, path in zip(stems, forms, paths, strict=True)
    )


def _form(stem: str) -> str:
    try:
        return one_spelling(stem)
    except BadPseudonym:
        return ""
