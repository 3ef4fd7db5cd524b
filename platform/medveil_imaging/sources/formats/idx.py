"""IDX, the format of the MNIST digits and their kin: a kind of number, the edges, the values.

A file of one picture is a film. The files as they are handed out hold thousands: ``medveil research mnist``
cuts them into a folder for each hospital.
Source: LeCun, Cortes, Burges, The MNIST database of handwritten digits, "File formats".
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medveil_imaging.sources.formats import FORMATS, Format
from medveil_imaging.sources.raw import MAX_FILE_BYTES, MAX_PIXELS, Film, Unusable, check_pixel_count

KINDS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_EDGES = 4


def read_idx(data: bytes) -> NDArray[Any]:
    """The values of a file, in its own shape and kind.

    Raises:
        Unusable: the values are more or fewer than the header says.
    """
    kind, edges, start = _header(data)
    check_pixel_count(edges, MAX_FILE_BYTES // kind.itemsize)
    if len(data) != start + kind.itemsize * int(np.prod(edges, dtype=np.int64)):
        raise Unusable("cut-short", "The file holds fewer or more values than it says.", "Copy it again.")
    return np.frombuffer(data, kind, offset=start).reshape(edges)


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    """A file of bytes in their shape; :func:`read_idx` gives the same back."""
    return (
        bytes([0, 0, 0x08, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    )


def read_idx_film(data: bytes) -> Film:
    """A film from a file of one picture, shape (rows, columns).

    Raises:
        Unusable: it holds several pictures, or labels; it is cut short or too large.
    """
    _, edges, _ = _header(data)
    while len(edges) > 2 and edges[0] == 1:
        edges = edges[1:]
    if len(edges) != 2:
        raise Unusable(
            "several-pictures",
            "The file holds labels, or several pictures.",
            "Cut it into one file a picture, with a manifest for each hospital: medveil research mnist.",
        )
    check_pixel_count(edges, MAX_PIXELS)
    return Film(read_idx(data).reshape(edges).astype(np.float32))


def read_idx_colour(data: bytes) -> Film:
    """The same as a picture in colour with three equal channels; its values must be bytes, from 0 to 255.

    Raises:
        Unusable: as :func:`read_idx_film`; or its values have no scale in which white is known.
    """
    if _header(data)[0] != np.uint8:
        raise Unusable(
            "wrong-format",
            "The values of this IDX file are no bytes, so it does not say what is white.",
            "Save it as PNG.",
        )
    return Film(np.stack([read_idx_film(data).pixels] * 3))


def _is_idx(data: bytes) -> bool:
    return data[:2] == b"\0\0" and len(data) > 4 and data[2] in KINDS and 1 <= data[3] <= MAX_EDGES


def _header(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Kind of number, edges, and where the values begin."""
    if not _is_idx(data) or len(data) < 4 + 4 * data[3]:
        raise Unusable("bad-header", "This is no IDX file, or it ends within its header.", "Copy it again.")
    return np.dtype(KINDS[data[2]]), struct.unpack_from(f">{data[3]}I", data, 4), 4 + 4 * data[3]


FORMATS.register("idx")(
    Format(what="an IDX file", begins=_is_idx, film=read_idx_film, colour=read_idx_colour)
)
