"""Stored values of a DICOM image: decoded, cut to the bits that hold the picture, grey, with padding marked.

PS3.5 section 8: a value lies in BitsStored bits below HighBit; the other bits of its word may hold anything,
such as overlays of older scanners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEGExtended12Bit

from medveil_imaging.sources.dicom import colour
from medveil_imaging.sources.dicom.decoders import decoder_of
from medveil_imaging.sources.dicom.header import contradiction, no_decoder, text, whole
from medveil_imaging.sources.dicom.padding import declared_padding
from medveil_imaging.sources.dicom.streams import Stream, streams
from medveil_imaging.sources.raw import Note, Unusable, check_pixel_count

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
CARRIES = 0.1
"""Share of the changes in cut-off bits that are those of a number, above which they are part of one."""
FEW = 0.01
"""Share of the pixels that may exceed the bits announced: specks, cut off as elsewhere, and told of."""
SHEARED = 3
"""How many times rougher than with its edges exchanged a picture is that was written with them exchanged."""
LONGER = Note(
    "longer-than-said",
    "The file holds more pixels than its header announces; the rest was left out.",
    "Look at the picture.",
)
SPARE_BITS = Note(
    "spare-bits",
    "Bits outside those that the header announces hold something; they were cut off.",
    "Look at the picture.",
)


@dataclass(frozen=True)
class Stored:
    """What the frames of a file hold."""

    values: NDArray[Any]
    """Shape (frames, rows, columns): whole or floating-point numbers, as the header means them."""
    padding: NDArray[np.bool_]
    """Same shape: where the header says that there is no picture."""
    grey: bool = True
    """False: it was stored as colour, so what the header says of a grey scale does not apply."""
    notes: tuple[Note, ...] = ()


def check_is_image(header: Dataset) -> None:
    """Raises: Unusable: there are no pixels."""
    if not any(name in header for name in PIXELS) or "Rows" not in header or "Columns" not in header:
        raise Unusable(
            "no-pixels",
            "The file holds no image (a report, a plan or a curve, or it was cut short).",
            "List images only.",
        )


def frame_count(header: Dataset) -> int:
    """How many frames a file has; one where it does not say."""
    return whole(header, "NumberOfFrames", 1) or 1


def stored_values(header: Dataset, limit: int) -> Stored:
    """Decode all frames of a file.

    Args:
        limit: most pixels of all frames together; checked against the header before anything is decoded.

    Raises:
        Unusable: too large, truly coloured, one bit a pixel, no decoder, or header against image.
    """
    frames = frame_count(header)
    shape = (frames, whole(header, "Rows", 0), whole(header, "Columns", 0))
    check_pixel_count(shape, limit)
    if "PixelData" not in header:
        return _floats(header, shape)
    samples = whole(header, "SamplesPerPixel", 1)
    kind = text(header, "PhotometricInterpretation")
    if not kind:
        raise Unusable(
            "bad-header", "The header does not say whether the image is grey or coloured.", "Export it again."
        )
    if samples not in (1, 3) or (samples == 1 and kind not in {*GREY, "PALETTE COLOR"}):
        raise colour.coloured()
    bits = _Bits.of(header)
    found = streams(header, frames)
    _check_streams(found, bits, shape, samples)
    words = _decode(header, bits, found, samples)
    bits.check_undoubted(words)
    notes = _length_notes(header, words)
    if samples == 1 and kind in GREY:
        return _grey(header, words.reshape(shape), bits, found, notes)
    values, _ = bits.values(words, found)
    grey = (
        colour.grey_of_channels(values, bits.stored)
        if samples == 3
        else colour.grey_of_palette(values, header)
    )
    return Stored(grey.reshape(shape), np.zeros(shape, bool), grey=False, notes=notes)


def _grey(
    header: Dataset, words: NDArray[Any], bits: _Bits, found: list[Stream], notes: tuple[Note, ...]
) -> Stored:
    """Frame by frame: a volume is large, and what is in between need not be."""
    values, padding = np.empty_like(words), np.zeros(words.shape, bool)
    lossy, changes, carries = any(stream.lossy for stream in found), 0, 0
    told, overlay, beyond = False, _has_overlay(header), 0
    for k, frame in enumerate(words):
        values[k], spare = bits.values(frame, found)
        padding[k] = declared_padding(header, frame, values[k], lossy=lossy)
        if spare is not None and not overlay and (spare & ~padding[k]).any():
            told = True
            beyond += int(np.count_nonzero(spare & ~padding[k]))
            more, of_a_number = _changes(frame, values[k])
            changes, carries = changes + more, carries + of_a_number
    if carries > CARRIES * changes and beyond > FEW * words.size:
        raise contradiction()
    _check_rows(values[len(values) // 2])
    return Stored(values, padding, notes=notes + ((SPARE_BITS,) if told else ()))


def visible_words(header: Dataset, limit: int) -> NDArray[Any] | None:
    """The words of an image's pixels with nothing in the bits that hold no picture.

    A word that is padding as a whole stays. What :func:`stored_values` makes of the words is the same.

    Args:
        limit: most pixels of all frames together.
    Returns: shape (frames, rows, columns) of a grey image, in this machine's byte order; None: there is
        nothing in the spare bits and nothing behind the last pixel, or there are no such bits.
    Raises:
        Unusable: as :func:`stored_values`, or a compressed image has something in such bits.
    """
    single = whole(header, "SamplesPerPixel", 1) == 1
    if "PixelData" not in header or not single or whole(header, "BitsAllocated", 0) in (0, 1):
        return None
    frames = frame_count(header)
    shape = (frames, whole(header, "Rows", 0), whole(header, "Columns", 0))
    check_pixel_count(shape, limit)
    bits, found = _Bits.of(header), streams(header, frames)
    exact = bits.stored == bits.allocated or (found and all(s.precision <= bits.stored for s in found))
    if any(s.lossy for s in found) or (exact and found):
        return None
    words = _decode(header, bits, found, 1).reshape(shape).copy()
    bits.check_undoubted(words)
    changed = bool(_length_notes(header, words))
    if not exact and text(header, "PhotometricInterpretation") in GREY:
        _grey(header, words, bits, found, ())  # refuses where nobody knows which bits are the picture
    for frame in words:
        changed |= not exact and _cleared(frame, header, bits, found)
    if changed and UID(header.file_meta.TransferSyntaxUID).is_encapsulated:
        raise Unusable(
            "hidden-bits",
            "Something is stored in bits of the compressed image that hold no picture.",
            "Export the image uncompressed.",
        )
    return words if changed else None


def _cleared(frame: NDArray[Any], header: Dataset, bits: _Bits, found: list[Stream]) -> bool:
    """Clear the spare bits of a frame in place, and say whether there was something in them."""
    values, spare = bits.values(frame, found)
    if spare is None or not spare.any():
        return False
    plain = values.view(f"u{values.itemsize}") << (bits.high + 1 - bits.stored)
    back = plain.view(values.dtype)
    as_word = declared_padding(header, frame, values, lossy=False)
    spare &= ~as_word | declared_padding(header, back, values, lossy=False)
    frame[spare] = back[spare]
    return bool(spare.any())


@dataclass(frozen=True)
class _Bits:
    """Where in a word the value lies."""

    allocated: int
    stored: int
    high: int
    signed: bool
    doubted: int
    """So many bits every value must keep to, or nobody knows which of them the header means."""

    @classmethod
    def of(cls, header: Dataset) -> _Bits:
        """As the header says. Raises: Unusable: impossible."""
        allocated = whole(header, "BitsAllocated", 0)
        if allocated == 1:
            raise Unusable(
                "not-grey", "The image has one bit per pixel.", "List the picture itself, not a mask."
            )
        stored = whole(header, "BitsStored", allocated)
        high = whole(header, "HighBit", stored - 1)
        sign = whole(header, "PixelRepresentation", 0)
        if allocated not in (8, 16, 32, 64) or not 0 < stored <= allocated or sign not in (0, 1):
            raise contradiction()
        if stored - 1 <= high < allocated:
            return cls(allocated, stored, high, bool(sign), allocated)
        # A high bit that cannot be: what has fewer bits than both readings is the same in both.
        return cls(allocated, stored, stored - 1, bool(sign), min(stored, high + 1))

    def check_undoubted(self, words: NDArray[Any]) -> None:
        """Raises: Unusable: the header's high bit is impossible, and it would make a difference."""
        if self.doubted < self.allocated:
            low = -(1 << (self.doubted - 1)) if self.signed else 0
            if self.doubted < 1 or words.min() < low or words.max() >= low + (1 << self.doubted):
                raise contradiction()

    def values(self, words: NDArray[Any], found: list[Stream]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Words → values, and where the bits that were cut off held something (None: nothing was cut off)."""
        allocated = 8 * words.itemsize
        precision = max((s.precision for s in found), default=allocated)
        low_bits = precision if any(s.signed is None for s in found) else allocated
        width, below = min(self.stored, low_bits), self.high + 1 - self.stored if precision > self.high else 0
        if any(s.lossy for s in found) and not (self.signed and low_bits == precision):
            # No bit is exact: what overshoots the announced bits is the end of the scale, not another plane.
            low, high = (
                (-(1 << (width - 1)), (1 << (width - 1)) - 1) if self.signed else (0, (1 << width) - 1)
            )
            return np.clip(words >> below, low, high).astype(words.dtype), None
        if width == allocated:
            return words, None
        plain = words.view(f"u{words.itemsize}")
        cut = plain << plain.dtype.type(allocated - width - below)
        values = cut.view(words.dtype) >> words.dtype.type(allocated - width)
        back = values.view(plain.dtype) << plain.dtype.type(below)
        unextended = back & plain.dtype.type((1 << (width + below)) - 1)
        return values, (plain != back) & (plain != unextended)


def _check_rows(picture: NDArray[Any]) -> None:
    """Raises: Unusable: rows and columns are exchanged in the header, as the picture's smoothness tells."""
    rows, columns = picture.shape
    if rows == columns or min(rows, columns) < 2:
        return
    as_said, exchanged = (
        float(np.abs(np.diff(picture.reshape(shape).astype(np.float32), axis=0)).mean())
        for shape in ((rows, columns), (columns, rows))
    )
    if as_said > SHEARED * exchanged:
        raise contradiction()


def _length_notes(header: Dataset, words: NDArray[Any]) -> tuple[Note, ...]:
    is_native = not UID(header.file_meta.TransferSyntaxUID).is_encapsulated
    return (LONGER,) if is_native and len(header["PixelData"].value) > words.nbytes + 1 else ()


def _changes(words: NDArray[Any], values: NDArray[Any]) -> tuple[int, int]:
    """How often cut-off bits change from one pixel to the next, and how often as those of a number do.

    An overlay moves a word by its whole bit. A number of more bits than announced runs over into the next,
    so neighbours differ by little before they are cut and by much afterwards.
    """
    along = np.abs(np.diff(words.astype(np.int64)))
    cut = np.abs(np.diff(values.astype(np.int64)))
    return int((along != cut).sum()), int((along < cut).sum())


def _check_streams(found: list[Stream], bits: _Bits, shape: tuple[int, int, int], samples: int) -> None:
    """Raises: Unusable: a compressed frame is of another size, colour or sign than the header says."""
    for stream in found:
        same = (stream.rows, stream.columns) == shape[1:] and stream.components == samples
        if not same or (stream.signed is not None and stream.signed != bits.signed):
            raise contradiction()
        if stream.precision > bits.allocated:
            raise contradiction()


def _decode(header: Dataset, bits: _Bits, found: list[Stream], samples: int) -> NDArray[Any]:
    """Words as they are stored. The decoder is handed what was checked here, not the header itself."""
    plain = Dataset()
    plain.Rows, plain.Columns = whole(header, "Rows", 0), whole(header, "Columns", 0)
    plain.SamplesPerPixel, plain.NumberOfFrames = samples, frame_count(header)
    plain.PhotometricInterpretation = text(header, "PhotometricInterpretation")
    allocated = bits.allocated
    if found:  # the decoders give what the stream needs, and the header may allow for more
        allocated = min(allocated, 8 if max(s.precision for s in found) <= 8 else allocated)
    stored = min(bits.stored, allocated)
    plain.BitsAllocated, plain.BitsStored, plain.HighBit = allocated, stored, stored - 1
    plain.PixelRepresentation = int(bits.signed)
    if samples > 1:
        plain.PlanarConfiguration = whole(header, "PlanarConfiguration", 0)
    for name in ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if name in header:
            plain[name] = header[name]
    plain.file_meta = header.file_meta
    decoder, how = _decoder(header, found)
    expected = plain.NumberOfFrames * plain.Rows * plain.Columns * allocated // 8
    if decoder.is_native and samples == 1 and len(header["PixelData"].value or b"") < expected:
        raise Unusable("cut-short", "The file ends before its last pixel.", "Copy it again.")
    if decoder.is_native:
        how = {"view_only": True}  # nothing here writes into it
    array, _ = decoder.as_array(plain, raw=True, correct_unused_bits=False, allow_excess_frames=False, **how)
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="), copy=False)


def _decoder(header: Dataset, found: list[Stream]) -> tuple[Any, dict[str, Any]]:
    """Raises: Unusable: nothing here decodes the file's transfer syntax."""
    deepest = max((s.precision for s in found), default=8)
    decoder = decoder_of(UID(header.file_meta.TransferSyntaxUID), deepest)
    if decoder is None and deepest > 8 and header.file_meta.TransferSyntaxUID == JPEGExtended12Bit:
        raise Unusable(
            "no-decoder",
            "JPEG of 12 bits is read by a library that is not installed.",
            "Install it with 'pip install medveil[jpeg12]', or export the image uncompressed.",
        )
    if decoder is None:
        raise no_decoder("This kind of compression cannot be read here.")
    return decoder


def _floats(header: Dataset, shape: tuple[int, int, int]) -> Stored:
    """FloatPixelData and DoubleFloatPixelData, as parametric maps have them."""
    decoder, how = _decoder(header, [])
    array, _ = decoder.as_array(header, raw=True, allow_excess_frames=False, **how)
    values = array.astype(np.float32).reshape(shape)
    return Stored(values, declared_padding(header, values, values, lossy=False) | ~np.isfinite(values))


def _has_overlay(header: Dataset) -> bool:
    """Whether an overlay plane is announced to lie in the spare bits (group 60xx without data of its own)."""
    groups = {tag.group for tag in header.keys() if 0x6000 <= tag.group <= 0x60FF}  # noqa: SIM118
    return any((group, 0x0010) in header and (group, 0x3000) not in header for group in groups)
