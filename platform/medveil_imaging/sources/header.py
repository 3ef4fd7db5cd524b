"""The beginning of a manifest → how the rest is to be read: encoding, separator, columns.

All of it follows from what stands above the first patient's line, which is nobody's; so how one patient's
line is read never depends on another's. A spreadsheet's own ``sep=;`` may stand above the names of the
columns, and ``encoding=windows-1252``, by which the operator says what no file shows by itself.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from medveil.cells import simple
from medveil_imaging.sources.raw import Unusable

SEPARATORS = (",", ";", "\t", "|")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What a cell may say → the split that it means."""
_LATIN = (1, 2, 3, 4, 5, 7, 9, 10, 13, 14, 15, 16)
ENCODINGS = frozenset(
    {
        "utf-8",
        *(f"cp125{n}" for n in range(9)),
        *(f"iso8859-{n}" for n in _LATIN),
        *("cp437", "cp850", "cp852", "cp866", "mac-roman", "mac-latin2", "mac-cyrillic", "koi8-r", "koi8-u"),
        *("gbk", "gb2312", "gb18030", "big5", "big5hkscs", "cp950", "shift_jis", "cp932", "euc_jp", "euc_kr"),
        "cp949",
    }
)
"""Those in which ASCII is ASCII, by the names that Python gives them."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark begins it
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NO_TEXT = (
    (b"PK\x03\x04", "a workbook (.xlsx, .ods) or a ZIP file"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)"),
    (b"\x1f\x8b", "a gzip file"),
    (b"%PDF", "a PDF"),
    (b"{", "JSON or a word processor's file"),
    (b"[", "JSON"),
    (b"<", "a web page or XML"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3", "a database"),
)


@dataclass(frozen=True)
class Header:
    """What stands above the first patient's line."""

    separator: str
    names: tuple[str, ...]
    """Of the columns, as written, without blank ones at the end."""
    number: int
    """Of the line that names the columns, from 1."""

    def place(self, column: str) -> int | None:
        """Where a column stands, from 0; None without it.

        A name as it is counts before one that differs in capitals, spaces and other signs.
        Raises: Unusable: two columns have this name.
        """
        for form in (str, simple):
            alike = [i for i, name in enumerate(self.names) if form(name) == form(column)]
            if len(alike) > 1:
                raise Unusable(
                    "duplicate-columns",
                    f"Columns {alike[0] + 1} and {alike[1] + 1} of manifest.csv are both called {column}.",
                    "Rename or remove one of them.",
                )
            if alike:
                return alike[0]
        return None

    def shared(self, columns: Sequence[str]) -> set[str]:
        """Which of these it has, once or more."""
        names = set(map(simple, self.names))
        return {column for column in columns if simple(column) in names}

    def places(self, columns: Sequence[str]) -> dict[str, int]:
        """Where each of them stands. Raises: Unusable: one of them is missing or there twice."""
        found = {column: self.place(column) for column in columns}
        missing = [column for column, place in found.items() if place is None]
        if missing:
            names, hint = ", ".join(missing), "".join(map(self.meant, missing))
            raise Unusable(
                "missing-columns",
                f"manifest.csv must have one column {names}.{hint}",
                "Add it; the first line of the file names the columns, separated by commas or semicolons.",
            )
        return {column: place for column, place in found.items() if place is not None}

    def meant(self, column: str) -> str:
        """A question about the column that is called most like this one, if one is; else nothing."""
        near = difflib.get_close_matches(simple(column), map(simple, self.names), 1, 0.6)
        place = [simple(name) for name in self.names].index(near[0]) if near else None
        return "" if place is None else f" Did you mean column {place + 1} to be {column}?"


def encoding_of(head: bytes) -> tuple[str, int]:
    """Which Unicode a file is in, as far as its own beginning tells: by a mark, or by the zeros of UTF-16.

    Args:
        head: its first bytes.
    Returns: the encoding ("" if it does not tell) and the bytes of its mark.
    Raises: Unusable: it is no text.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, len(mark)
    for start, what in _NO_TEXT:
        if head.lstrip().startswith(start):
            raise Unusable(
                "not-csv",
                f"manifest.csv is no CSV but {what}.",
                "Open it in its own program and save it as CSV (UTF-8); a new name alone changes nothing.",
            )
    even, odd = head[:32:2], head[1:32:2]
    if odd and all(even) and not any(odd):
        return "utf-16-le", 0
    if odd and all(odd) and not any(even):
        return "utf-16-be", 0
    return "", 0


def said(line: bytes) -> tuple[str, bytes] | None:
    """What a line above the header says: ``sep`` or ``encoding``, and which; None if it is no such line."""
    found = re.fullmatch(rb'[\s"]*(sep|encoding)[ \t]*=(.*)', line, re.IGNORECASE | re.DOTALL)
    return None if found is None else (found[1].decode().lower(), found[2])


def separator_from(value: bytes) -> str:
    """What ``sep=`` names. Raises: Unusable: none of those that are read."""
    text = value.decode("latin-1").strip(' "\r\n')[:1] or value.decode("latin-1")[:1]
    if text not in SEPARATORS:
        raise Unusable(
            "unknown-separator",
            "The line sep= of manifest.csv names no separator that is read.",
            "Separate the columns by commas, semicolons, tabs or vertical bars.",
        )
    return text


def encoding_from(value: bytes) -> str:
    """What ``encoding=`` names, as Python calls it. Raises: Unusable: none of those that are read."""
    text = value.decode("latin-1").strip(' "\t\r\n,;|')
    try:
        name = codecs.lookup(codec(text)).name
    except (LookupError, ValueError):
        name = ""
    if name not in ENCODINGS:
        raise Unusable(
            "unknown-encoding",
            "The line encoding= of manifest.csv names no encoding that is read.",
            "Write for example encoding=windows-1252, or save the file as CSV (UTF-8).",
        )
    return name


def codec(encoding: str) -> str:
    """Python's name of an encoding."""
    return {"macintosh": "mac-roman", "ansi": "cp1252"}.get(encoding.casefold(), encoding)


def header_from(text: str, number: int, separator: str, wanted: Sequence[str]) -> Header:
    """The header that a line is: under the separator that shows most of the columns that are looked for.

    Args:
        separator: as ``sep=`` names it, or "".
    Raises: Unusable: the line names none of them, or is no CSV.
    """
    best, most, broken = None, -1, False
    for one in [separator] if separator else SEPARATORS:
        try:
            names = [name.strip("\ufeff \t") for name in split(text, one)]
        except csv.Error:
            broken = True
            continue
        while names and not names[-1]:
            names.pop()
        header = Header(one, tuple(names), number)
        if len(header.shared(wanted)) > most:
            best, most = header, len(header.shared(wanted))
    if best is None or (broken and not most):
        raise Unusable(
            "bad-manifest",
            "The first line of manifest.csv is not CSV: a quotation mark is open.",
            "Save it as CSV (UTF-8).",
        )
    if not most and any(name.casefold() in SPLIT_WORDS for name in best.names):
        raise Unusable(
            "missing-columns",
            "The first line of manifest.csv is an image's: the line that names the columns is missing.",
            f"Write above it: {best.separator.join(wanted)} (in the order of your columns).",
        )
    return best


def split(line: str, separator: str) -> list[str]:
    """The cells of one line. Raises: csv.Error."""
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True), [])
