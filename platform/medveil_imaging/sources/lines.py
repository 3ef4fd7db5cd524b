"""The file ``manifest.csv`` → its lines, each of which stands for itself.

A line belongs to one patient. Whatever bytes it holds, it must not change what is read from another
patient's lines: the promise of differential privacy is about one patient more or less. Hence the bytes are
cut into lines before anything is decoded, each line is decoded and parsed alone, no quotation mark reaches
past its line, and encoding and separator are told by the lines above the first patient's alone.

A line that cannot be told apart into its cells is :class:`Unreadable`: nobody knows whose it is, so nothing
of the manifest is used until the operator has put it right (decision 29 says why that keeps the promise).
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TextIO

from medveil_imaging.sources.header import (
    SEPARATORS,
    Header,
    codec,
    encoding_from,
    encoding_of,
    header_from,
    said,
    separator_from,
    split,
)
from medveil_imaging.sources.raw import Unusable

MAX_LINE_BYTES = 2**16
NOTHING = "".join(SEPARATORS) + ' "\n\x0b\x0c\0\x1a\ufeff\xef\xbb\xbf\xa0'
"""What an empty line of a spreadsheet, or the end of a file of DOS, is made of."""
GUESSES = ("windows-1252", "macintosh", "cp850", "windows-1251", "gbk", "shift_jis", "big5", "euc-kr")
TITLES = 10
"""Lines under the first in which a header is looked for that should be above."""
COLUMNS = ("image", "patient_id", "split")
"""Which every manifest has, or all but the first."""
LOST = "\N{REPLACEMENT CHARACTER}"

Cells = dict[str, str]


class Unreadable(Unusable):
    """A line whose cells, or whose letters, cannot be told: it refuses the whole manifest.

    Args:
        cells: those whose letters cannot be told.
    """

    def __init__(self, code: str, reason: str, remedy: str, cells: tuple[str, ...] = ()) -> None:
        super().__init__(code, reason, remedy)
        self.cells = cells


@dataclass(frozen=True)
class Table:
    """A manifest whose header has been read."""

    path: Path
    header: Header
    encoding: str
    """Of the lines; "" if nothing above them tells: then they are taken as UTF-8."""
    unicode: bool
    """Whether the file is Unicode of 16 or 32 bits, so that its bytes are decoded before they are cut."""

    def lines(self, places: dict[str, int]) -> Iterator[tuple[int, Cells | Unreadable]]:
        """The lines under the header, numbered from 1 at the top of the file.

        Args:
            places: the columns to return, and where each stands.
        Returns: a line's cells, or why that one line cannot be read. Empty lines and repeated headers are
            left out. Bytes that are not in the encoding are lone surrogates or :data:`LOST` (see
            :func:`letters_of`).
        Guarantees: what is returned for a line depends on what stands above the first line, and on that
            line's bytes only.
        Raises: Unusable: the file cannot be read from the disk.
        """
        with _opened(self.path, self.encoding if self.unicode else "") as file:
            for number, line in enumerate(_cut(file), start=1):
                if number > self.header.number:
                    found = self._parsed(line, places)
                    if found is not None:
                        yield number, found

    def _parsed(self, line: str, places: dict[str, int]) -> Cells | Unreadable | None:
        if len(line) > MAX_LINE_BYTES:
            return Unreadable("long-line", "The line is longer than 65,536 bytes.", "Leave out long columns.")
        if not line.strip(NOTHING):
            return None
        if self.unicode and _swallows(line, self.encoding):
            return Unreadable(
                "bad-line",
                "A byte is missing or too many in this line, so lines after it cannot be told apart.",
                "Save the file anew, as CSV (UTF-8).",
            )
        text = line if self.unicode else _decoded(line, self.encoding)
        names = self.header.names
        try:
            cells = split(text.removeprefix("\ufeff"), self.header.separator)
        except csv.Error:
            return Unreadable(
                "bad-line",
                "A quotation mark of this line is not closed on it.",
                "Close it, and write every cell on one line: a line break inside a cell ends the line.",
            )
        while len(cells) > len(names) and not cells[-1].strip():
            cells.pop()
        if len(cells) != len(names):  # a missing or extra separator shifts every cell
            return Unreadable(
                "bad-line",
                f"The line has {len(cells)} cells; the header has {len(names)}.",
                "Put quotation marks around cells that hold the separator, and write each on one line.",
            )
        if [cell.strip() for cell in cells] == list(names):
            return None
        return {column: cells[place] for column, place in places.items()}


def open_table(path: Path, wanted: Sequence[str]) -> Table:
    """Read what stands above a manifest's first line.

    Args:
        wanted: columns that are looked for; the header need not have all of them.
    Raises:
        Unusable: there is no file, it cannot be read from the disk, it is no text, or its header is none.
    """
    with _opened(path, None) as raw:
        marked, _ = encoding_of(raw.read(64).encode("latin-1"))
    unicode = marked.startswith(("utf-16", "utf-32"))
    encoding, separator, number = marked, "", 0
    with _opened(path, marked if unicode else "") as file:
        for line in _cut(file):
            number += 1
            words = said(
                line.removeprefix("\ufeff").removeprefix("\xef\xbb\xbf").encode("latin-1", "replace")
            )
            if words is None:
                if not line.strip(NOTHING):
                    continue
                if len(line) > MAX_LINE_BYTES:
                    raise Unusable(
                        "bad-manifest",
                        "The first line of manifest.csv is longer than 65,536 bytes.",
                        "Save it as CSV (UTF-8).",
                    )
                text = line if unicode else _decoded(line, encoding)
                header = header_from(text.removeprefix("\ufeff"), number, separator, wanted)
                if not header.shared(wanted):
                    _refuse_titles(file, number, wanted)
                return Table(path, header, encoding, unicode)
            if words[0] == "sep":
                separator = separator_from(words[1])
            elif marked and encoding_from(words[1]) != marked:
                raise Unusable(
                    "unknown-encoding",
                    "manifest.csv names one encoding and bears the mark of another.",
                    "Remove the line encoding=, or save the file anew.",
                )
            else:
                encoding = encoding_from(words[1])
    raise Unusable(
        "missing-columns",
        "manifest.csv is empty.",
        f"Write a line with the names of the columns ({', '.join(wanted)}), and one for each image.",
    )


def _refuse_titles(lines: TextIO, number: int, wanted: Sequence[str]) -> None:
    """Raises: Unusable: one of the next lines is the header, so what stands above it is none."""
    for place, line in enumerate(islice(_cut(lines), TITLES), start=number + 1):
        with suppress(Unusable):
            if len(header_from(line, place, "", wanted).shared(wanted)) > 1:
                break
    else:
        return
    raise Unusable(
        "missing-columns",
        f"Line {number} of manifest.csv names no column; line {place} does.",
        "Remove what stands above the line that names the columns.",
    )


def count_lines(path: Path, limit: int) -> int:
    """Lines of a manifest that hold something, but for the header: no more images than that are read.

    Args:
        limit: characters after which no more is counted.
    Returns: 0 if there is none or it cannot be read.
    """
    count = length = 0
    try:
        table = open_table(path, COLUMNS)
        with _opened(path, table.encoding if table.unicode else "") as file:
            for number, line in enumerate(_cut(file), start=1):
                count += number > table.header.number and bool(line.strip(NOTHING))
                length += len(line)
                if length > limit:
                    break
    except Unusable:
        return count
    return count


def readable_cells(path: Path, columns: Sequence[str]) -> Iterator[Cells]:
    """Some columns of the lines that can be read, for a first look; none if the file is no manifest."""
    with suppress(Unusable):
        table = open_table(path, columns)
        for _, cells in table.lines(table.header.places(columns)):
            if not isinstance(cells, Unreadable):
                yield cells


def letters_of(cell: str) -> str | None:
    """A cell's text; None if bytes of it were not in the file's encoding, or letters were lost before."""
    return None if LOST in cell or any("\ud800" <= letter <= "\udfff" for letter in cell) else cell


def likely_encodings(cells: Iterable[str]) -> list[str]:
    """Encodings in which cells that are not UTF-8 would be words: for the operator, who alone can tell."""
    parts = [cell.encode("utf-8", "surrogateescape") for cell in cells]
    return [name for name in GUESSES if all(_is_word(part, name) for part in parts)]


def _is_word(part: bytes, encoding: str) -> bool:
    try:
        text = part.decode(codec(encoding))
    except UnicodeDecodeError:
        return False
    scripts = {unicodedata.name(c, "?").split()[0].split("-")[0] for c in text if not c.isascii()}
    letters = all(c.isascii() or unicodedata.category(c)[0] == "L" or c == "\xa0" for c in text)
    # a Latin letter beyond ASCII, taken for half of a Chinese one, swallows its neighbour
    torn = any(a.isascii() and a.isalpha() and not b.isascii() for a, b in pairwise(text))
    return letters and len(scripts - {"LATIN", "NO"}) <= 2 and not (torn and "LATIN" not in scripts)


def _swallows(line: str, encoding: str) -> bool:
    """Whether an odd number of bytes in a file of 16 or 32 bits has made other lines part of this one.

    Shifted by a byte, the ends of lines are U+0A00, which is nothing, and U+0D00; of 32 bits they are no
    characters at all.
    """
    return any(end in line for end in ("\u0a00", "\u0d00")) or (
        encoding.startswith("utf-32") and LOST in line
    )


def _decoded(line: str, encoding: str) -> str:
    data = line.encode("latin-1")
    if encoding in ("", "utf-8"):
        return data.decode("utf-8", "surrogateescape")
    return data.decode(encoding, "replace")


def _cut(file: TextIO) -> Iterator[str]:
    """The file's lines without their ends; of one that is too long its beginning, too long as well."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith("\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        yield line.removesuffix("\n")


@contextmanager
def _opened(path: Path, encoding: str | None) -> Iterator[TextIO]:
    """A manifest as lines of text.

    Args:
        encoding: of a file whose bytes are decoded before they are cut. Else Latin-1, which gives every byte
            back as it was: "" with any line ends, None as it is.
    """
    newline = "" if encoding is None else None
    try:
        with path.open(encoding=encoding or "latin-1", errors="replace", newline=newline) as file:
            yield file
    except FileNotFoundError as error:
        near = _called_nearly_so(path)
        hint = f" Is '{near}' meant? Then it must be called manifest.csv." if near else ""
        raise Unusable(
            "no-manifest",
            f"The folder holds no manifest.csv.{hint}",
            "Write one; docs/operator.md shows how.",
        ) from error
    except OSError as error:
        raise Unusable(
            "unreadable-manifest", "manifest.csv cannot be read to its end.", "Copy it again."
        ) from error


def _called_nearly_so(path: Path) -> str | None:
    """A file beside it that a spreadsheet or a browser may have named: Manifest.csv, manifest.csv.txt."""
    with suppress(OSError):
        for one in sorted(path.parent.iterdir()):
            if re.fullmatch(r"manifest\W*\d*\W*(\.\w+)*", one.name.casefold()) and one.is_file():
                return one.name
    return None
