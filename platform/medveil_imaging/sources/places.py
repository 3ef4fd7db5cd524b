"""A cell that names a file → the file, which must lie inside the site's folder.

Cells are written on Windows, by spreadsheets and on other disks: with backslashes, blanks at the ends,
another Unicode form of the same letters, the folder's own name in front. What such a cell means is certain
where one file fits, and then it is that file. A name in other capitals is followed with a warning; one that
only resembles a file's is refused, and the file named. Which file a cell means depends on the cell and the
folder, never on another line.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from medveil_imaging.sources.header import codec
from medveil_imaging.sources.lines import GUESSES, LOST, letters_of
from medveil_imaging.sources.raw import Note, Unusable

MAX_CELL = 4096
MAX_WALKED = 500_000
"""Files among which one is looked for that its path does not lead to."""
QUOTES = "\"'\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"
Fold = Callable[[str], str]


class Places:
    """The files of one site's folder, as cells name them. A folder is listed at most once for each way of
    comparing names, and only where a name is not found as it is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._written = folder.absolute()
        self._parents: dict[str, Path | None] = {}
        self._anywhere: dict[str, list[str]] | None = None
        self._listed: dict[tuple[Path, Fold], dict[str, list[str]]] = {}

    def find(self, cell: str, what: str) -> tuple[Path, Note | None]:
        """The file or folder that a cell means.

        Args:
            what: the word for it in errors.
        Returns: its path, symbolic links followed, and what the operator should look at.
        Raises: Unusable: there is none, it lies outside of the folder, or the cell is no path.
        """
        if not cell.strip():
            raise Unusable("no-path", f"The line names no {what}.", "Fill the cell.")
        if len(cell) > MAX_CELL or "\0" in cell:
            raise Unusable("bad-path", f"The path of the {what} is no path.", "Correct the line.")
        try:
            return self._found(cell, what)
        except (OSError, RuntimeError, ValueError) as error:
            raise Unusable("bad-path", f"The path of the {what} is no path.", "Correct the line.") from error

    def _found(self, cell: str, what: str) -> tuple[Path, Note | None]:
        if path := self._exact(self._inside(cell, what), what):
            return path, None
        plain = self._inside(tidy(cell), what)
        if not plain:
            raise Unusable("no-path", f"The line names no {what}.", "Fill the cell.")
        for name in (plain, plain.removeprefix(self._folder.name + "/"), unquote(plain)):
            if name != cell and (path := self._exact(self._inside(name, what), what)):
                return path, None
        names = [plain, *(self._inside(name, what) for name in _in_other_encodings(cell))]
        for fold in (_canonical, _caseless):
            alike = {path for name in names if (path := self._walk(name, fold, what))}
            if len(alike) == 1:
                note = Note(
                    "other-capitals",
                    f"The {what} is called so in other capitals; no other file fits.",
                    "Check that it is meant, and write its name as the folder has it.",
                )
                return alike.pop(), note if fold is _caseless else None
        raise self._missing(plain, what)

    def _inside(self, name: str, what: str) -> str:
        """The name as a path below the folder."""
        windows = PureWindowsPath(name) if ":" in name or "\\" in name else PureWindowsPath()
        if name.startswith("/"):
            for folder in (self._written, self._folder):
                if PurePosixPath(name).is_relative_to(folder.as_posix()):
                    name = str(PurePosixPath(name).relative_to(folder.as_posix()))
                    break
            else:
                raise _outside(what, self._elsewhere(name, what))
        elif (windows.drive or windows.root) and not (self._folder / name).exists():
            raise _outside(what, self._elsewhere(tidy(name), what))
        if ".." in name.split("/"):
            raise _outside(what)
        return name

    def _exact(self, name: str, what: str) -> Path | None:
        """The file of this very name. Raises: Unusable: it is outside of the folder."""
        above, _, last = name.rstrip("/").rpartition("/")
        if above not in self._parents:
            self._parents[above] = self._checked(self._folder / above, what, itself=True)
        parent = self._parents[above]
        if parent is None:
            return None
        path = parent / last
        try:
            plain = last not in ("", ".") and not stat.S_ISLNK(os.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return path if plain else self._checked(path, what)

    def _checked(self, path: Path, what: str, *, itself: bool = False) -> Path | None:
        try:
            path = path.resolve() if itself or path.is_symlink() else path
            inside = self._folder in path.parents or (itself and path == self._folder)
        except RuntimeError:  # links in a circle
            return None
        if not inside:
            raise _outside(what)
        return path if path.exists() else None

    def _walk(self, name: str, fold: Fold, what: str) -> Path | None:
        """The one file whose name is the same under a way of comparing, part by part."""
        here = self._folder
        for part in PurePosixPath(name).parts:
            exact = self._checked(here / part, what)
            alike = self._names(here, fold).get(fold(part), []) if exact is None else []
            if exact is None and len(alike) != 1:
                return None
            found = exact or self._checked(here / alike[0], what)
            if found is None:
                return None
            here = found
        return None if here == self._folder else here

    def _names(self, folder: Path, fold: Fold) -> dict[str, list[str]]:
        if (folder, fold) not in self._listed:
            names: dict[str, list[str]] = defaultdict(list)
            if folder.is_dir():
                for entry in os.listdir(folder):
                    names[fold(entry)].append(entry)
            self._listed[folder, fold] = dict(names)
        return self._listed[folder, fold]

    def _elsewhere(self, name: str, what: str) -> str | None:
        """The end of a path that is there, or the one file of its name in any folder of the site."""
        parts = PurePosixPath(name).parts
        if ".." in parts or not parts:
            return None
        for start in range(1, len(parts)):
            with suppress(OSError, Unusable):
                if self._exact("/".join(parts[start:]), what):
                    return "/".join(parts[start:])
        if self._anywhere is None:
            self._anywhere = defaultdict(list)
            files = ((folder, file) for folder, _, files in os.walk(self._folder) for file in files)
            for folder, file in islice(files, MAX_WALKED):
                self._anywhere[_caseless(file)].append(
                    os.path.relpath(os.path.join(folder, file), self._folder)
                )
        found = self._anywhere.get(_caseless(parts[-1]), [])
        return found[0] if len(found) == 1 and found[0] != name else None

    def _missing(self, name: str, what: str) -> Unusable:
        """Why nothing was found: the nearest thing that is there, else where the path ends."""
        here, path = self._folder, PurePosixPath(name)
        if elsewhere := self._elsewhere(name, what):
            return Unusable(
                "missing-file",
                f"There is no such {what}; did you mean '{elsewhere}'?",
                "Paths begin at the folder of manifest.csv: write this one so.",
            )
        for part in path.parts[:-1]:
            below = self._checked(here / part, what) or self._walk(
                str((here / part).relative_to(self._folder)), _caseless, what
            )
            if below is None or not below.is_dir():
                return Unusable(
                    "missing-file",
                    f"There is no such {what}: the folder '{part}' of its path is not there.",
                    "Paths begin at the folder of manifest.csv. Copy the files there or correct the line.",
                )
            here = below
        near = self._names(here, _caseless).get(_caseless(path.name), [])
        near = near or (self._names(here, _bare).get(_bare(path.name), []) if _bare(path.name) else [])
        if near:
            return Unusable(
                "missing-file",
                f"There is no such {what}; did you mean '{near[0]}'?",
                "Write the name as the folder has it, with its ending and zeros.",
            )
        if LOST in name or "?" in name or _garbled(name):
            return Unusable(
                "missing-file",
                f"There is no such {what}: letters of its name were damaged before the manifest was saved.",
                "Write the name anew, and save the file as CSV (UTF-8).",
            )
        return Unusable("missing-file", f"There is no such {what}.", "Copy the file or remove the line.")


def _in_other_encodings(cell: str) -> Iterator[str]:
    """What a cell may say if its bytes are not UTF-8; the file that is there decides."""
    if letters_of(cell) is None and LOST not in cell:
        for encoding in GUESSES:
            try:
                yield tidy(cell.encode("utf-8", "surrogateescape").decode(codec(encoding)))
            except UnicodeError:
                continue


def tidy(cell: str) -> str:
    """A path without blanks, quotation marks and invisible characters at the ends, with forward slashes."""
    parts = re.split(r"[\\/]", _strip(_strip(cell).strip(QUOTES)))
    kept = [_strip(part) for part in parts]
    return "/".join(part for i, part in enumerate(kept) if part or i == 0)


def _strip(text: str) -> str:
    """Without white space and what nothing shows of, at both ends."""
    start, end = 0, len(text)
    while start < end and _unseen(text[start]):
        start += 1
    while end > start and _unseen(text[end - 1]):
        end -= 1
    return text[start:end]


def _unseen(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter) in ("Cf", "Cc")


def _canonical(name: str) -> str:
    """Equal for names that are the same text: Unicode may spell a letter with an accent in two ways."""
    return unicodedata.normalize("NFC", _strip(name))


def _caseless(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _strip(name)).casefold())


def _bare(name: str) -> str:
    """Without ending, leading zeros and signs."""
    stem = re.sub(r"(\.[a-z][a-z0-9]{0,4})+$", "", _caseless(name))
    return re.sub(r"[\W_]+", "", re.sub(r"0*(\d+)", r"\1", stem))


def _garbled(name: str) -> bool:
    """Whether the name was UTF-8 that somebody opened as Windows-1252."""
    try:
        return name != name.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return False


def _outside(what: str, meant: str | None = None) -> Unusable:
    hint = f" Did you mean '{meant}'?" if meant else ""
    return Unusable(
        "outside-folder",
        f"The path of the {what} leads out of the site's folder.{hint}",
        "Copy the file into the folder and name it by a relative path.",
    )
