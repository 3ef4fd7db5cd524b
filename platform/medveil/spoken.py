"""A plan's fingerprint: twelve words that two people read to each other, and the hash they stand for.

The admin makes plans, and a dishonest one looks for two with the same fingerprint: that takes about
2^(bits/2) tries. Twelve words of a list of 2048 are 132 bits, so 2^66 tries of hashing a whole plan
(docs/decisions/0022-what-was-shown.md).
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from importlib.resources import files

from medveil.errors import Error
from medveil.shown import plain

COUNT = 12
BITS = 11
"""Bits of one word."""
LEAST_DIGITS = 33
"""Hexadecimal digits that say as much as the twelve words."""


class NotAFingerprint(Error):
    """What somebody typed is no fingerprint of a plan."""

    code = "not-a-fingerprint"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"This is no fingerprint of a plan: {problem}.",
            meaning="Nothing was done.",
            remedy=f"Give its {COUNT} words in their order, or its hash ({LEAST_DIGITS} digits or more).",
        )


@functools.cache
def word_list() -> tuple[str, ...]:
    """The English list of BIP 39: 2048 words, no two of which begin with the same four letters."""
    return tuple((files("medveil") / "words" / "english.txt").read_text("ascii").split())


def words_of(hash_: bytes) -> tuple[str, ...]:
    """The first 132 bits of a hash as twelve words."""
    number = int.from_bytes(hash_, "big") >> (8 * len(hash_) - COUNT * BITS)
    places = (number >> (BITS * k) & (2**BITS - 1) for k in reversed(range(COUNT)))
    return tuple(word_list()[place] for place in places)


def spoken(hash_: bytes) -> str:
    """The twelve words on one line."""
    return " ".join(words_of(hash_))


def named(plan: str) -> str:
    """How a plan is named in a sentence, from its hash in hexadecimal: its words in quotation marks."""
    try:
        return f"'{spoken(bytes.fromhex(plan))}'"
    except ValueError:
        return f"'{plain(plan, 64)}'"


def means(typed: Sequence[str], hash_: bytes) -> bool:
    """Whether what was typed, words or hexadecimal digits, is the fingerprint of this hash.

    Args:
        typed: in one piece or several; any case; blanks, dashes, commas, dots and colons between.
    Raises: NotAFingerprint if it can be no hash's.
    """
    pieces = [piece for piece in re.split(r"[\s,.:;–—_-]+", " ".join(typed).lower()) if piece]
    digits = "".join(pieces)
    known = set(word_list())
    if len(pieces) == COUNT and known.issuperset(pieces):
        return tuple(pieces) == words_of(hash_)
    if re.fullmatch(r"[0-9a-f]+", digits) and not known.issuperset(pieces):
        if not LEAST_DIGITS <= len(digits) <= 2 * len(hash_):
            raise NotAFingerprint(problem=f"{len(digits)} hexadecimal digits")
        return hash_.hex().startswith(digits)
    for place, piece in enumerate(pieces, 1):
        if piece not in known:
            near = difflib.get_close_matches(piece[:20], word_list(), 1)
            maybe = f"; perhaps '{near[0]}'" if near else ""
            raise NotAFingerprint(
                problem=f"its word {place}, '{plain(piece, 20)}', is not on the list{maybe}"
            )
    raise NotAFingerprint(problem=f"{len(pieces)} words")
