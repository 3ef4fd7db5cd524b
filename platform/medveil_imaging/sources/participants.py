"""What a BIDS dataset's tables say of its subjects: participants.tsv, and sub-*_sessions.tsv."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medveil.cells import simple
from medveil.errors import BadFile, BadOption
from medveil.pseudonyms import BadPseudonym, one_spelling
from medveil.shown import plain
from medveil_imaging.sources.lists import Listed, read_list, split_in
from medveil_imaging.sources.tree import Tree

TABLE = "participants.tsv"
ID = "participantid"
MOST_WORDS = 12
"""Different words of a column that could be classes."""


@dataclass(frozen=True)
class Participants:
    """Cells of each subject, and of each session, by the simple form of the column's name."""

    columns: tuple[str, ...] = ()
    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    sessions: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict, repr=False)
    problem: str = ""
    """Why the table was not read."""

    def has(self, column: str) -> bool:
        """Whether a table has this column, in capitals or not."""
        return simple(column) in map(simple, self.columns)

    def check(self, column: str) -> None:
        """Raises: BadOption: no table has this column."""
        if not self.has(column):
            known = ", ".join(plain(name, 40) for name in self.columns[:30]) or "no columns"
            raise BadOption(problem=f"{TABLE} has no column '{plain(column, 60)}'; it has {known}")

    def cells(self, subject: str, session: str) -> dict[str, str]:
        """What is said of one session of a subject; ``split`` only where it is train, val or test."""
        form = _form(subject)
        found = {**self.rows.get(form, {}), **_filled(self.sessions.get((form, _form(session)), {}))}
        found["split"] = split_in(found.get("split", ""))
        return found

    def offers(self) -> str:
        """The columns that could be learned, each with what it holds."""
        said = []
        for column in self.columns:
            words = Counter(cells.get(simple(column), "") for cells in self.rows.values())
            known = len(self.rows) - words.pop("", 0)
            if simple(column) in (ID, "split") or not known:
                continue
            if _are_numbers(words) and len(words) > 2:
                said.append(f"{plain(column, 40)} (a number, of {known:,})")
            elif 2 <= len(words) <= MOST_WORDS:
                classes = ", ".join(f"{plain(word, 30)} {count:,}" for word, count in words.most_common(4))
                said.append(f"{plain(column, 40)} ({classes})")
        return "; ".join(said[:8])

    def notes(self, seen: Collection[str]) -> list[str]:
        """What should be thought about, of subjects with images and without."""
        if self.problem:
            return [self.problem]
        if not self.rows:
            return []
        here = {_form(subject) for subject in seen}
        notes = []
        if missing := len(here - self.rows.keys()):
            notes.append(
                f"{missing:,} subjects have images and no line in {TABLE}; what it would say stays blank."
            )
        if absent := len(self.rows.keys() - here):
            notes.append(f"{absent:,} subjects of {TABLE} have no image that is listed.")
        return notes


def participants_of(tree: Tree) -> Participants:
    """Read the tables of a dataset; one that cannot be read is named and counts as empty."""
    tables = [
        file for file in tree.files if file.name.casefold() == TABLE and "derivatives" not in file.folders
    ]
    if not tables:
        return Participants()
    first = min(tables, key=lambda file: len(file.folders))
    try:
        listed = read_list(Path(os.path.join(tree.root, first.path)))
    except BadFile as error:
        return Participants(problem=f"{error.what} It counts as empty.")
    place = listed.first(("participant_id", "participant", "subject_id", "subject", "sub"))
    if place is None:
        return Participants(problem=f"{TABLE} has no column participant_id, so it counts as empty.")
    rows: dict[str, Mapping[str, str]] = {}
    for row in listed.rows:
        form = _form(row[place])
        if form:
            rows.setdefault(form, _cells(listed, row))
    sessions, more = _sessions(tree)
    columns = tuple(dict.fromkeys((*listed.columns, *more)))
    return Participants(tuple(one for one in columns if one), rows, sessions)


def _sessions(tree: Tree) -> tuple[dict[tuple[str, str], Mapping[str, str]], list[str]]:
    found: dict[tuple[str, str], Mapping[str, str]] = {}
    columns: list[str] = []
    for file in tree.files:
        if not file.name.endswith("_sessions.tsv") or "derivatives" in file.folders:
            continue
        try:
            listed = read_list(Path(os.path.join(tree.root, file.path)))
        except BadFile:
            continue
        place = listed.first(("session_id", "session", "ses"))
        if place is None:
            continue
        subject = _form(file.name.removesuffix("_sessions.tsv"))
        columns += [name for name in listed.columns if name != listed.columns[place]]
        for row in listed.rows:
            found[subject, _form(row[place])] = _cells(listed, row)
    return found, list(dict.fromkeys(columns))


def _cells(listed: Listed, row: tuple[str, ...]) -> dict[str, str]:
    return {simple(name): cell for name, cell in zip(listed.columns, row, strict=True) if name}


def _filled(cells: Mapping[str, str]) -> dict[str, str]:
    return {column: cell for column, cell in cells.items() if cell}


def _form(label: str) -> str:
    """A subject's or session's label, with or without what stands before it."""
    try:
        form = one_spelling(label)
    except BadPseudonym:
        return ""
    for prefix in ("sub-", "ses-"):
        form = form.removeprefix(prefix)
    try:
        return one_spelling(form)
    except BadPseudonym:
        return ""


def _are_numbers(words: Collection[str]) -> bool:
    return all(word.replace(",", ".").replace(".", "", 1).lstrip("+-").isdigit() for word in words)
