"""What every reader returns, how it refuses, and the limits that hold for all of them."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medveil.errors import Error
from medveil.muted import muted

MAX_PIXELS = 2**26
"""Largest film: 67 million pixels (detectors have at most about 36 million). Checked before decoding."""
MAX_VOXELS = 2**27
"""Largest volume: 134 million voxels (512 a side), half a gibibyte as float32. Checked before decoding."""
MAX_FILE_BYTES = 2**30
"""Largest file, also after unpacking gzip or deflate."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class Unusable(Error):
    """One file cannot be used; the reader of the site turns it into a :class:`Problem`."""

    code = "unusable"

    def __init__(self, code: str, reason: str, remedy: str) -> None:
        super().__init__(what=reason, meaning="It was left out; the rest was read.", remedy=remedy)
        self.code = code


def too_large() -> Unusable:
    """Why a file is not used that memory had no room for."""
    return Unusable(
        "reader-memory",
        "Reading the file takes more memory than one file may have.",
        "It may be damaged, or made to do harm. Export the image again, at its ordinary resolution.",
    )


@dataclass(frozen=True)
class Problem:
    """Something the hospital's operator should know. For the operator's own screen only."""

    file: str
    row: int | None
    """Line of the manifest as a spreadsheet counts it: the header is 1, the first image 2."""
    code: str
    reason: str
    remedy: str
    severity: Literal["error", "warning"] = "error"
    """``error``: this item is not used. ``warning``: it is used, but somebody should look."""


@dataclass(frozen=True)
class Note:
    """A warning about a file that is used all the same."""

    code: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Film:
    """A two-dimensional image; larger is brighter (denser tissue is bright)."""

    pixels: Float32
    """Shape (rows, columns), any unit; of a picture in colour (3, rows, columns), from 0 to 255."""
    notes: tuple[Note, ...] = ()
    patient_mark: bytes | None = field(default=None, repr=False)
    """Equal where the headers of two files name one patient; None where they name nobody. For comparing in
    memory only: it is never stored, logged or sent (:mod:`medveil_imaging.sources.dicom.identity`)."""
    turned: bool = False
    """Whether it was stored otherwise than it is seen, and has been turned."""


@dataclass(frozen=True)
class Volume:
    """A three-dimensional image with its place in the patient."""

    voxels: Float32
    """Shape (i, j, k), any unit; of several channels (channels, i, j, k)."""
    affine: Float64
    """Shape (4, 4): voxel index → millimetres in RAS axes (right, anterior, superior)."""
    notes: tuple[Note, ...] = ()
    patient_mark: bytes | None = field(default=None, repr=False)
    """As of a :class:`Film`."""


def check_pixel_count(shape: tuple[int, ...], limit: int) -> None:
    """Refuse by the header's word alone, before memory is asked for.

    Raises:
        Unusable: an edge below one, or more pixels than the limit.
    """
    if not shape or any(edge < 1 for edge in shape):
        raise Unusable("bad-header", "The header gives an impossible image size.", "Export the image again.")
    count = 1
    for edge in shape:  # Python integers: a product of header fields must not wrap around
        count *= int(edge)
    if count > limit:
        raise Unusable(
            "too-large",
            f"The header announces more than {limit:,} pixels.",
            "Export the image at its ordinary resolution.",
        )


def read_bytes(path: Path) -> bytes:
    """A file's bytes, unpacked if it is gzipped.

    Raises:
        Unusable: too large, or the gzip stream is damaged or cut off.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            told = file.seek(0, os.SEEK_END)
            if packed:
                file.seek(-4, os.SEEK_END)
                told = int.from_bytes(file.read(4), "little")  # of the last piece, unpacked
        room = 1 + min(
            told, MAX_FILE_BYTES
        )  # a stream asks for memory as it is told, however little there is
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            data = stream.read(room)
            if len(data) == room:
                data += stream.read(MAX_FILE_BYTES + 1 - room)
    except (OSError, EOFError, ValueError) as error:
        raise Unusable("unreadable-file", "The file cannot be read to its end.", "Copy it again.") from error
    except MemoryError as error:
        raise too_large() from error
    except Exception as error:  # zlib.error and whatever else a damaged stream makes the library raise
        raise Unusable("unreadable-file", "The file is damaged.", "Copy it again.") from error
    if len(data) > MAX_FILE_BYTES:
        raise Unusable("too-large", "The file is larger than 1 GiB.", "Export one image per file.")
    if not data:
        raise Unusable("empty-file", "The file is empty.", "Copy it again.")
    return data


def quiet() -> AbstractContextManager[None]:
    """No warning and no log line of an image library gets out: they may quote tags."""
    return muted("pydicom", "nibabel", "nibabel.global", "PIL", "monai")


@contextmanager
def brought_into_shape() -> Iterator[None]:
    """Whatever goes wrong with an image here is a fault of that image. Raises: Unusable."""
    try:
        yield
    except Unusable:
        raise
    except Exception as error:  # geometry that the readers let pass and the resampling cannot use
        raise Unusable(
            "unusable-image", "The image cannot be brought into shape.", "Export it again."
        ) from error
