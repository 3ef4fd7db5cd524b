"""The file ``manifest.csv`` → its lines, each of which stands for itself.

A line belongs to one patient. Whatever bytes it holds, it must not change what is read from another
patient's lines: the promise of differential privacy is about one patient more or less. Hence the bytes are
cut into lines before anything is decoded, each line is decoded and parsed alone, and no quotation mark
reaches past its line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from medveil_imaging.sources.raw import Unusable

MAX_LINE_BYTES = 2**16

Cells = dict[str, str]


def manifest_lines(path: Path, wanted: list[str]) -> Iterator[tuple[int, Cells | Unusable]]:
    """The lines under the header, numbered as a spreadsheet does: the header is 1.

    Args:
        wanted: the columns to return; each must be in the header once.
    Returns: a line's wanted cells, or why that one line cannot be read. Lines of empty cells are left out.
    Guarantees: what is returned for a line depends on the header and on that line's bytes only.
    Raises:
        Unusable: there is no file, it cannot be read from the disk, or its header is none.
    """
    try:
        # Latin-1 gives every byte back as it was; only the ends of lines are looked for here.
        with path.open(encoding="latin-1", newline=None) as file:
            lines = _cut(file)
            header = _header(next(lines, b""), wanted)
            for number, line in enumerate(lines, start=2):
                found = _parsed(line, header, wanted)
                if found is not None:
                    yield number, found
    except FileNotFoundError as error:
        raise Unusable(
            "no-manifest", "The folder holds no manifest.csv.", "Write one; docs/operator.md shows how."
        ) from error
    except OSError as error:
        raise Unusable(
            "unreadable-manifest", "manifest.csv cannot be read to its end.", "Copy it again."
        ) from error


def _cut(file: TextIO) -> Iterator[bytes]:
    """The file's lines without their ends; of one that is too long its beginning, too long as well."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith("\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        yield line.removesuffix("\n").encode("latin-1")


def _header(line: bytes, wanted: list[str]) -> list[str]:
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("too long")
        names = [name.strip() for name in _split(line.decode("utf-8-sig"))]
    except (ValueError, csv.Error) as error:
        raise Unusable(
            "bad-manifest", "The first line of manifest.csv is not CSV in UTF-8.", "Save it as CSV (UTF-8)."
        ) from error
    missing = [column for column in wanted if names.count(column) != 1]
    if missing:
        raise Unusable(
            "missing-columns",
            f"manifest.csv must have one column {', '.join(missing)}.",
            "Add it; the first line of the file names the columns, separated by commas.",
        )
    return names


def _parsed(line: bytes, header: list[str], wanted: list[str]) -> Cells | Unusable | None:
    if len(line) > MAX_LINE_BYTES:
        return Unusable("long-line", "The line is longer than 65,536 bytes.", "Leave out long columns.")
    try:
        cells = _split(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Unusable("not-utf-8", "The line is not text in UTF-8.", "Save the file as CSV (UTF-8).")
    except csv.Error:
        cells = None
    if cells is not None and not any(cell.strip() for cell in cells):
        return None
    if cells is None or len(cells) != len(header):  # a missing or extra comma shifts every cell
        return Unusable(
            "bad-line",
            "The line has another number of cells than the header, or a quotation mark is open.",
            "Put quotation marks around cells that hold a comma, and close each on its own line.",
        )
    return {column: cells[header.index(column)] for column in wanted}


def _split(line: str) -> list[str]:
    """The cells of one line. Raises: csv.Error."""
    return next(csv.reader([line], strict=True), [])
