"""Stored pixels with nothing but the picture: no spare bits, nothing behind the last pixel, no comments."""

from __future__ import annotations

import struct

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from medveil_imaging.sources.dicom.header import contradiction
from medveil_imaging.sources.dicom.stored import frame_count, visible_words
from medveil_imaging.sources.raw import MAX_VOXELS

PIXELS = 0x7FE00010
FILL, START_OF_SCAN, START_OF_TILE = 0xFFFF, 0xFFDA, 0xFF90
COMMENTS = frozenset({0xFFFE, *range(0xFFE0, 0xFFF0)} - {0xFFE0, 0xFFE8, 0xFFEE})
"""Of JPEG and JPEG-LS: comments, and what applications add (EXIF, XMP) but what decoders need."""
COMMENTS_2000 = frozenset({0xFF64})


def visible_pixels(dataset: Dataset) -> DataElement | None:
    """The pixel data with spare bits cleared and cut to its announced length; None: it is so already.

    Overlays of older scanners lie in spare bits (PS3.5, 8.1.2), and so may a name.

    Raises:
        Unusable: as :func:`medveil_imaging.sources.dicom.stored.visible_words`.
    """
    words = visible_words(dataset, MAX_VOXELS)
    if words is None:
        return None
    little = dataset.original_encoding[1]
    data = words.astype(words.dtype.newbyteorder("<" if little else ">"), copy=False).tobytes()
    return DataElement(PIXELS, "OW" if words.itemsize > 1 else "OB", data + b"\0" * (len(data) % 2))


def without_comments(dataset: Dataset) -> DataElement | None:
    """Compressed frames without comments and without what cameras and programs add; None: there is none.

    What decoders need stays, to the byte: of JPEG the segments JFIF, Adobe and of colour transforms.
    Raises: Unusable: the frames cannot be told apart.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    jpeg2000 = syntax in JPEG2000TransferSyntaxes
    if "PixelData" not in dataset or not (
        jpeg2000 or syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes
    ):
        return None
    try:
        frames = list(generate_frames(dataset["PixelData"].value, number_of_frames=frame_count(dataset)))
    except (ValueError, struct.error) as error:
        raise contradiction() from error
    clean = [_bare(frame, jpeg2000=jpeg2000) for frame in frames]
    return None if clean == frames else DataElement(PIXELS, "OB", encapsulate(clean))


def _bare(frame: bytes, *, jpeg2000: bool) -> bytes:
    """One frame without its comments; one whose segments make no sense stays, and no decoder takes it."""
    dropped, ends = (COMMENTS_2000, START_OF_TILE) if jpeg2000 else (COMMENTS, START_OF_SCAN)
    kept, at = [frame[:2]], 2
    while at + 4 <= len(frame):
        marker, length = struct.unpack(">HH", frame[at : at + 4])
        if marker == FILL:
            at += 1
            continue
        if marker == ends:
            return b"".join(kept) + frame[at:]
        if marker < 0xFF00 or length < 2 or at + 2 + length > len(frame):
            break
        if marker not in dropped:
            kept.append(frame[at : at + 2 + length])
        at += 2 + length
    return frame
