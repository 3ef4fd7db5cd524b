"""Stored values → grey scale: modality LUT or rescale, the hints for viewing where they are sane, polarity.

Source: PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.11.6 (presentation LUT).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medveil_imaging.sources.dicom.header import first, numbers, text, texts, value_of
from medveil_imaging.sources.raw import Float32, Float64, Note

ENDS = (1.0, 99.0)
"""Per cent of the pixels below and above which a film's range begins and ends."""
SAMPLE = 2**17
"""Pixels of a large film from which is told whether a hint is sane."""
RANGE_KEPT, PIXELS_KEPT = 0.5, 0.8
"""A window is sane if it shows this share of a film's range, or this share of its pixels."""
LEVELS_KEPT = 64
"""A table is sane if it keeps so many grey levels apart, or half of those that there are."""
NO_SCALE = Note(
    "rescale-ignored",
    "The header's rescale would make all pixels equal or is no number; it was not applied.",
    "Look at the picture.",
)
HINT_IGNORED = Note(
    "window-ignored",
    "The window or table for viewing would hide most of the picture; the whole range was used.",
    "Look at the picture. Nothing need be done if it is in order.",
)
POLARITY = Note(
    "polarity-unclear",
    "The header says twice, and differently, whether small numbers are bright; its LUT shape was followed.",
    "Look at the picture: bone must be bright.",
)


def rescaled(values: NDArray[Any], header: Dataset, scale: Dataset) -> tuple[Float32, tuple[Note, ...]]:
    """Stored values in the unit that the modality means.

    Args:
        header: whose modality LUT applies, if it has one.
        scale: whose slope and intercept apply otherwise: the header itself, or a frame's own group.
    """
    item = first(header, "ModalityLUTSequence")
    table = None if item is None else _Table.of(item, header)
    if table is not None:
        return table.looked_up(values).astype(np.float32), ()
    if "RescaleSlope" not in scale and "RescaleIntercept" not in scale:
        return values.astype(np.float32), () if item is None else (NO_SCALE,)
    slope, intercept = numbers(scale, "RescaleSlope"), numbers(scale, "RescaleIntercept")
    senseless = ("RescaleSlope" in scale and not slope) or ("RescaleIntercept" in scale and not intercept)
    if senseless or (slope and slope[0] == 0):
        return values.astype(np.float32), (NO_SCALE,)
    factor, offset = slope[0] if slope else 1.0, intercept[0] if intercept else 0.0
    return (values.astype(np.float64) * factor + offset).astype(np.float32), ()


def is_inverted(header: Dataset) -> tuple[bool, tuple[Note, ...]]:
    """Whether small numbers are bright. The LUT shape is followed where both are there, as DCMTK does."""
    small_is_bright = text(header, "PhotometricInterpretation") == "MONOCHROME1"
    shape = text(header, "PresentationLUTShape")
    if shape not in ("IDENTITY", "INVERSE"):
        return small_is_bright, ()
    inverse = shape == "INVERSE"
    return inverse, () if inverse == small_is_bright else (POLARITY,)


def as_shown(
    pixels: Float32, header: Dataset, picture: NDArray[np.bool_]
) -> tuple[Float32, tuple[Note, ...]]:
    """A film on the scale that its header wants it looked at, if that spoils nothing; else as it is.

    The first table or window that is sane is applied; a window cuts the range and changes no unit.

    Args:
        picture: where the film has no padding.
    """
    if "VOILUTSequence" not in header and "WindowCenter" not in header:
        return pixels, ()
    step = 1 + pixels.size // SAMPLE
    seen = pixels.ravel()[::step][picture.ravel()[::step]]
    if not seen.size:
        return pixels, ()
    low, high = np.percentile(seen, ENDS)
    spoils = False
    for item in header.get("VOILUTSequence") or ():
        table = _Table.of(item, header)
        if table is None:
            continue
        if table.is_sane(seen, float(low), float(high)):
            return table.looked_up(pixels).astype(np.float32), ()
        spoils = True
    for window in _windows(header):
        if window.is_sane(seen, float(low), float(high)):
            return window.applied(pixels), ()
        spoils = spoils or not window.is_placeholder
    return pixels, (HINT_IGNORED,) if spoils else ()


@dataclass(frozen=True)
class _Window:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3."""

    centre: float
    width: float
    function: str

    @property
    def ends(self) -> tuple[float, float]:
        """A width below one has no meaning in the linear function; it is meant exactly."""
        if self.function in ("", "LINEAR") and self.width >= 1:
            return self.centre - 0.5 - (self.width - 1) / 2, self.centre - 0.5 + (self.width - 1) / 2
        return self.centre - self.width / 2, self.centre + self.width / 2

    @property
    def is_placeholder(self) -> bool:
        """What is written where there is no window."""
        return self.width <= 1

    def is_sane(self, seen: Float32, low: float, high: float) -> bool:
        """Whether it shows most of a film whose range goes from ``low`` to ``high``."""
        bottom, top = self.ends
        if not bottom < top:
            return False
        shown = min(top, high) - max(bottom, low)
        inside = float(((seen >= bottom) & (seen <= top)).mean())
        return inside >= PIXELS_KEPT or (high > low and shown >= RANGE_KEPT * (high - low))

    def applied(self, pixels: Float32) -> Float32:
        bottom, top = self.ends
        if self.function == "SIGMOID":
            steps = np.clip(-4 * (pixels.astype(np.float64) - self.centre) / self.width, -700, 700)
            return (bottom + self.width / (1 + np.exp(steps))).astype(np.float32)
        return np.clip(pixels, np.float32(bottom), np.float32(top))


def _windows(header: Dataset) -> list[_Window]:
    centres, widths = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
    functions = texts(header, "VOILUTFunction")
    function = functions[0] if functions else ""
    return [_Window(c, w, function) for c, w in zip(centres, widths, strict=False) if w > 0]


@dataclass(frozen=True)
class _Table:
    """A LUT: ``entries`` for the inputs from ``begin`` on; the first and the last go on for ever."""

    begin: int
    entries: Float64

    @classmethod
    def of(cls, item: Dataset, header: Dataset) -> _Table | None:
        """The table of a sequence's item; None if it has none, or one of another length than it says."""
        descriptor, data = numbers(item, "LUTDescriptor"), value_of(item, "LUTData")
        if len(descriptor) != 3 or data is None:
            return None
        count = int(descriptor[0]) or 1 << 16
        begin = int(descriptor[1])
        if numbers(header, "PixelRepresentation") == (1.0,) and begin >= 1 << 15:
            begin -= 1 << 16
        if isinstance(data, bytes):
            order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
            if len(data) in (count, count + 1) and descriptor[2] <= 8:
                entries = np.frombuffer(data, "u1")
            else:
                entries = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")
        else:
            entries = np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF
        if len(entries) < count:
            return None
        return cls(begin, entries[:count].astype(np.float64))

    def looked_up(self, values: NDArray[Any]) -> Float64:
        place = np.clip(np.rint(values).astype(np.int64) - self.begin, 0, len(self.entries) - 1)
        found: Float64 = self.entries[place]
        return found

    def is_sane(self, seen: Float32, low: float, high: float) -> bool:
        """Whether it rises or falls all the way, covers most of a film's range and keeps its levels apart."""
        steps = np.diff(self.entries)
        if not ((steps >= 0).all() or (steps <= 0).all()):
            return False
        shown = min(self.begin + len(self.entries) - 1, high) - max(self.begin, low)
        levels = np.unique(seen)
        left = len(np.unique(self.looked_up(levels)))
        return shown >= RANGE_KEPT * (high - low) and left >= min(LEVELS_KEPT, (len(levels) + 1) // 2)
