"""File formats of images, by name: one file each, found through :data:`FORMATS`.

A format is known by how the bytes begin, never by a file's name. Its readers make a film or a volume of them
(:mod:`medveil_imaging.sources.raw`) or refuse with ``Unusable``: they repair nothing without a note, never
open a second file, and put no header text into an error. Whatever a library raises on a damaged file becomes
``unreadable-image`` in :mod:`medveil_imaging.sources.read`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medveil.registry import Registry
from medveil_imaging.sources.raw import Film, Volume


@dataclass(frozen=True)
class Format:
    """How files of one kind are known and read; at least one of the readers."""

    what: str
    """As a refusal names such a file, after "This is"."""
    begins: Callable[[bytes], bool]
    """Whether the bytes of a file, unpacked if it was gzipped, are of this kind."""
    film: Callable[[bytes], Film] | None = None
    volume: Callable[[bytes], Volume] | None = None
    colour: Callable[[bytes], Film] | None = None
    """A film with three channels, red, green and blue, from 0 to 255; of a grey one they are equal."""
    label_film: Callable[[bytes], Film] | None = None
    """The label map of a film: its numbers as they are stored."""
    channels: Callable[[bytes], Volume] | None = None
    """All volumes of a file that may hold several, as channels."""
    before_others: bool = False
    """Asked first; for DICOM, whose first 128 bytes may be those of any other format. The others are asked in
    the order of their names."""


FORMATS: Registry[Format] = Registry("image format", __name__)


def format_of(data: bytes) -> Format | None:
    """The format of these bytes; None if none knows them."""
    asked = sorted((FORMATS[name] for name in FORMATS), key=lambda one: not one.before_others)
    return next((one for one in asked if one.begins(data)), None)
