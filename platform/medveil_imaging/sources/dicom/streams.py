"""What a compressed frame says of itself, so that it can be held against the header before it is decoded.

Decoders fill the header's rows and columns with whatever the frame holds: a frame of 80 x 96 in a header of
96 x 80 would come out sheared, and nobody would be told.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from medveil_imaging.sources.dicom.header import contradiction

SOI, SOC, SIZ, COD, SOT, SOS = b"\xff\xd8", b"\xff\x4f", b"\xff\x51", 0xFF52, 0xFF90, 0xFFDA
FRAMES_OF_JPEG = frozenset({*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC})
LOSSLESS_JPEG = frozenset({0xFFC3, 0xFFC7, 0xFFCB, 0xFFCF})
JPEG_LS = 0xFFF7
NO_LENGTH = frozenset({0xFF01, *range(0xFFD0, 0xFFD8)})


@dataclass(frozen=True)
class Stream:
    """The header of one compressed frame."""

    rows: int
    columns: int
    components: int
    precision: int
    """Bits of a value."""
    signed: bool | None
    """None: this kind of compression does not say; negative numbers lie in it as bit patterns."""
    lossy: bool


def streams(header: Dataset, frames: int) -> list[Stream]:
    """One entry for each JPEG, JPEG-LS or JPEG 2000 frame; none for other ways of storing.

    Raises:
        Unusable: fewer or more frames than announced, or a frame that does not begin as its kind does.
    """
    syntax = UID(header.file_meta.TransferSyntaxUID)
    jpeg2000 = syntax in JPEG2000TransferSyntaxes
    if not jpeg2000 and syntax not in JPEGTransferSyntaxes and syntax not in JPEGLSTransferSyntaxes:
        return []
    data = header["PixelData"].value
    found = []
    for frame in generate_frames(data, number_of_frames=frames):
        try:
            found.append(_jpeg2000(frame) if jpeg2000 else _jpeg(frame))
        except (struct.error, IndexError, ValueError) as error:
            raise contradiction() from error
    if len(found) != frames:
        raise contradiction()
    return found


def _jpeg2000(frame: bytes) -> Stream:
    """SIZ and COD of ISO/IEC 15444-1 A.5 and A.6, after the boxes of a JP2 file if there are any."""
    at = frame.index(SOC + SIZ)
    _, _, width, height, left, top = struct.unpack_from(">HHIIII", frame, at + 4)
    components = struct.unpack_from(">H", frame, at + 40)[0]
    depth = frame[at + 42]
    lossy, place = True, at + 2
    while (marker := struct.unpack_from(">H", frame, place)[0]) != SOT:
        if marker == COD:
            lossy = frame[place + 13] == 0
        place += 2 + struct.unpack_from(">H", frame, place + 2)[0]
    return Stream(height - top, width - left, components, (depth & 0x7F) + 1, bool(depth & 0x80), lossy)


def _jpeg(frame: bytes) -> Stream:
    """The frame header of ISO/IEC 10918-1 B.2.2 and 14495-1 C.2.2."""
    if frame[:2] != SOI:
        raise ValueError
    place = 2
    while True:
        marker = struct.unpack_from(">H", frame, place)[0]
        if marker == 0xFFFF:  # fill byte
            place += 1
        elif marker in NO_LENGTH:
            place += 2
        elif marker in FRAMES_OF_JPEG:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, place + 4)
            lossy = marker not in LOSSLESS_JPEG and (marker != JPEG_LS or _near(frame, place) > 0)
            return Stream(rows, columns, components, precision, None, lossy)
        elif marker >> 8 != 0xFF:
            raise ValueError
        else:
            place += 2 + struct.unpack_from(">H", frame, place + 2)[0]


def _near(frame: bytes, place: int) -> int:
    """How far JPEG-LS lets a value be from the true one (the scan header of 14495-1 C.2.3)."""
    while struct.unpack_from(">H", frame, place)[0] != SOS:
        place += 2 + struct.unpack_from(">H", frame, place + 2)[0]
    return frame[place + 5 + 2 * frame[place + 4]]
