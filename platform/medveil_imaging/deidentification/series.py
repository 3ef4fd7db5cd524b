"""One series after its first instance: what is the same in all is cleaned once.

A cleaned instance is a pattern for the next one of its series. Elements with the same bytes become what they
became there; of the others those are settled here of which the profile's answer does not depend on the value
(gone, emptied, kept as stored) or is a UID. Whatever else differs takes the whole way, and is a new pattern.

Guarantees: what comes out is, byte for byte, what
:func:`~medveil_imaging.deidentification.files.deidentified_file` makes of the same file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pydicom.datadict import dictionary_VR

from medveil_imaging.deidentification.files import deidentified_file
from medveil_imaging.deidentification.fitting import TELLING, always_goes, fits, telling_words
from medveil_imaging.deidentification.pseudonyms import Pseudonyms
from medveil_imaging.deidentification.table import action_of
from medveil_imaging.sources.dicom.layout import Elements, built, elements_of, kind_of, payload_of, value_of

INSTANCE, META_INSTANCE, META_LENGTH = 0x00080018, 0x00020003, 0x00020000
PIXELS = 0x7FE00010
STORED = {0x00280002: 1, 0x00280008: 1, 0x00280100: 16, 0x00280101: 16, 0x00280102: 15, 0x00280103: 0}
"""Samples, frames, bits and sign, and what they are where the header does not say."""
ROWS, COLUMNS = 0x00280010, 0x00280011
CONTEXT = frozenset(
    {
        0x00080005,  # which letters
        0x00080016,  # what kind of object
        0x00100021,  # who, and by whose number
        *TELLING,
        0x0020000D,
        0x00120062,  # what was done before
        0x00120063,
        0x00120064,
        0x00280303,
        0x00280004,  # how the pixels are stored
        0x00280120,
        0x00280121,
        ROWS,
        COLUMNS,
        *STORED,
    }
)
"""Elements on which the answer for others rests: they are the pattern's, or there is none."""


@dataclass(frozen=True)
class _Pattern:
    source: Elements = field(repr=False)
    clean: Elements = field(repr=False)
    codes: tuple[str, ...]
    added: dict[int, bytes] = field(repr=False)
    """Elements of the clean file that have none of their number in the source."""
    spare: int | None
    """Bits of a word that hold no picture; None: the pixels are not plain enough to be looked at here."""
    size: int
    """Bytes of the pixels."""
    words: frozenset[bytes] = field(repr=False)
    """By which the series calls its patient."""


class SeriesCleaner:
    """Cleans the instances of one series, or of several one after the other."""

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self._pseudonyms = pseudonyms
        self._pattern: _Pattern | None = None

    def clean(self, data: bytes) -> tuple[bytes, tuple[str, ...]]:
        """A DICOM file without identities, and the codes of what was done. Raises: Unusable."""
        source = elements_of(data)
        if source is not None and self._pattern is not None:
            content = self._by_pattern(source, self._pattern)
            if content is not None:
                return content, self._pattern.codes
        content, done = deidentified_file(data, self._pseudonyms)
        self._pattern = None if source is None else _pattern(source, content, done.codes)
        return content, done.codes

    def _by_pattern(self, source: Elements, pattern: _Pattern) -> bytes | None:
        """The clean file; None: something of this one cannot be told from the pattern."""
        if any(source.rest.get(tag) != pattern.source.rest.get(tag) for tag in CONTEXT):
            return None
        if any(source.meta.get(tag) != pattern.source.meta.get(tag) for tag in (0x00020002, 0x00020010)):
            return None
        clean = dict(pattern.added)
        for tag, element in source.rest.items():
            if element == pattern.source.rest.get(tag) and tag != PIXELS:
                made = pattern.clean.rest.get(tag, b"")
            else:
                told = self._settled(tag, element, pattern)
                if told is None:
                    return None
                made = told
            if made:
                clean[tag] = made
        instance = clean.get(INSTANCE)
        if instance is None:
            return None
        return _file(pattern, clean, value_of(instance))

    def _settled(self, tag: int, element: bytes, pattern: _Pattern) -> bytes | None:
        """What becomes of an element that differs from the pattern's: nothing (empty), or a new one.

        None: it cannot be told.
        """
        before = pattern.source.rest.get(tag)
        after = pattern.clean.rest.get(tag, b"")
        if before is None or kind_of(before) != kind_of(element) or kind_of(element) == b"SQ":
            return None
        if tag == PIXELS:
            return element if _is_plain(element, pattern) else None
        action = action_of(tag)
        if (tag >> 16) % 2 or action == "X":
            return b"" if not after else None
        if kind_of(element) == b"UI" and action in (None, "U", "D"):
            return self._uid(tag, element) if kind_of(after) == b"UI" else None
        if action in ("Z", "D"):
            return after or None
        return self._unnamed(tag, element, pattern) if action is None and payload_of(before) else None

    def _unnamed(self, tag: int, element: bytes, pattern: _Pattern) -> bytes | None:
        """See :meth:`_settled`, of an element that the table does not name."""
        after, said = pattern.clean.rest.get(tag, b""), kind_of(element).decode("ascii")
        try:
            known = dictionary_VR(tag).split(" or ")
        except KeyError:
            return b""
        kind = said if said in known else known[0]
        if kind == "SQ" or not payload_of(element):
            return None
        if always_goes(tag, kind, said):
            return b""
        if after != pattern.source.rest[tag] or not fits(tag, kind, said, payload_of(element), pattern.words):
            return None
        return element

    def _uid(self, tag: int, element: bytes) -> bytes | None:
        old = value_of(element)
        if not old or not old.replace(b".", b"").isdigit():
            return None
        return built(tag, b"UI", self._pseudonyms.uid(old.decode("ascii")).encode("ascii"))


def _pattern(source: Elements, content: bytes, codes: tuple[str, ...]) -> _Pattern | None:
    clean = elements_of(content)
    if clean is None or INSTANCE not in source.rest:
        return None
    if value_of(clean.meta.get(META_INSTANCE, b"")) != value_of(clean.rest.get(INSTANCE, b"")):
        return None
    added = {tag: element for tag, element in clean.rest.items() if tag not in source.rest}
    spare, size = _spare_bits(source, clean)
    words = telling_words(lambda tag: payload_of(source.rest.get(tag, b"")))
    return _Pattern(source, clean, codes, added, spare, size, words)


def _spare_bits(source: Elements, clean: Elements) -> tuple[int | None, int]:
    """See :class:`_Pattern`."""
    pixels = source.rest.get(PIXELS)
    numbers = [_number(source.rest.get(tag), missing) for tag, missing in STORED.items()]
    rows, columns = (_number(source.rest.get(tag), None) for tag in (ROWS, COLUMNS))
    if pixels is None or clean.rest.get(PIXELS) != pixels or None in (*numbers, rows, columns):
        return None, 0
    samples, frames, allocated, stored, high, sign = (number or 0 for number in numbers)
    size = (rows or 0) * (columns or 0) * allocated // 8
    simple = (samples, frames, allocated, high) == (1, 1, 16, stored - 1) and 0 < stored <= allocated
    if not simple or (sign and stored < allocated) or len(payload_of(pixels)) != size:
        return None, 0
    return 0xFFFF & ~((1 << stored) - 1), size


def _number(element: bytes | None, missing: int | None) -> int | None:
    """A number of two bytes; None: it is none."""
    if element is None:
        return missing
    value = payload_of(element)
    if kind_of(element) == b"US" and len(value) == 2:
        return int.from_bytes(value, "little")
    text = value_of(element)
    return int(text) if kind_of(element) == b"IS" and text.isdigit() else None


def _is_plain(pixels: bytes, pattern: _Pattern) -> bool:
    """Whether all pixels are there, no more, and nothing is in bits that hold no picture."""
    value = payload_of(pixels)
    if pattern.spare is None or len(value) != pattern.size:
        return False
    return not pattern.spare or not (np.frombuffer(value, "<u2") & np.uint16(pattern.spare)).any()


def _file(pattern: _Pattern, clean: dict[int, bytes], instance: bytes) -> bytes:
    meta = dict(pattern.clean.meta)
    meta[META_INSTANCE] = built(META_INSTANCE, b"UI", instance)
    length = sum(len(element) for tag, element in meta.items() if tag != META_LENGTH)
    meta[META_LENGTH] = meta[META_LENGTH][:8] + length.to_bytes(4, "little")
    parts = [
        b"\0" * 128,
        b"DICM",
        *(meta[tag] for tag in sorted(meta)),
        *(clean[tag] for tag in sorted(clean)),
    ]
    return b"".join(parts)
