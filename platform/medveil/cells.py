"""What a cell of a hospital's spreadsheet can mean, whatever program has saved it."""

from __future__ import annotations

import re
import unicodedata

BLANK = ("", "na", "n/a", "nan", "none", "null", "unknown")
"""Cells that say that something is not known."""


def folded(text: str) -> str:
    """A cell or a name without what programs do to it at its ends, and without capitals."""
    return unicodedata.normalize("NFKC", text).strip().casefold()


def simple(name: str) -> str:
    """A name without what spreadsheets and people do to it: capitals, spaces, signs, invisibles."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", plain))) or plain.strip()


def is_blank(text: str) -> bool:
    """Whether a cell says nothing."""
    return folded(text) in BLANK


def numbers_in(text: str) -> set[float]:
    """The numbers that a cell can mean: a comma stands before decimals, or between thousands; nothing if it
    is no number."""
    texts = {text.replace(",", ".")} if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", text) else {text}
    if re.fullmatch(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?", text):
        texts.add(text.replace(",", ""))
    shape = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
    return {float(one) for one in texts if re.fullmatch(shape, one)}
