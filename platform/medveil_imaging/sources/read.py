"""One door to every image file: the format is read from the content, never from the name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from medveil_imaging.sources.dicom.segmentation import is_segmentation, read_segmentation
from medveil_imaging.sources.dicom.series import read_dicom_series
from medveil_imaging.sources.faces import shows_face
from medveil_imaging.sources.formats import Format, format_of
from medveil_imaging.sources.raw import Film, Float32, Unusable, Volume, quiet, too_large
from medveil_imaging.sources.rules import FACE, WRITING
from medveil_imaging.sources.sealed import image_bytes
from medveil_imaging.sources.writing import shows_writing

Image = TypeVar("Image", Film, Volume)
SINGULAR = 1e-6
"""Smallest volume of one voxel in cubic mm."""


Kind = Literal["film", "colour film", "volume", "channels", "label map", "label film"]
FILMS = frozenset({"film", "colour film", "label film"})
"""What is read as a :class:`Film`; the others are volumes."""


@dataclass(frozen=True)
class Wanted:
    """A file, or a folder with one series, and what it is to be read as."""

    kind: Kind
    path: Path
    beside: Path | None = None
    """Of a label map: its image, on whose slices a DICOM segmentation is laid."""


def read_wanted(wanted: Wanted) -> Film | Volume:
    """What a file holds.

    Raises:
        Unusable: and nothing else, whatever the file holds.
    """
    readers: dict[str, Callable[[Path], Film | Volume]] = {
        "film": read_film,
        "colour film": read_colour_film,
        "volume": read_volume,
        "channels": read_channels,
        "label map": lambda path: read_label_map(path, wanted.beside),
        "label film": read_label_film,
    }
    return readers[wanted.kind](wanted.path)


def read_film(path: Path) -> Film:
    """A film: DICOM (CR, DX and kin), PNG or JPEG.

    Raises:
        Unusable: and nothing else, whatever the file holds.
    """
    film = _guarded(_read_film, path)
    return _looked_at(film, film.pixels)


def read_colour_film(path: Path) -> Film:
    """A PNG or JPEG with three channels: red, green, blue, from 0 to 255.

    Raises:
        Unusable: and nothing else, whatever the file holds.
    """
    film = _guarded(_read_colour, path)
    return _looked_at(film, film.pixels[1])


def _looked_at(film: Film, pixels: Float32) -> Film:
    """The film, with a note if its grey pixels show writing. Raises: Unusable: not finite, or constant."""
    _check_values(film.pixels)
    if shows_writing(pixels):
        return replace(film, notes=(*film.notes, WRITING))
    return film


def read_volume(path: Path) -> Volume:
    """A volume: NIfTI, one multi-frame DICOM, or a folder with the DICOM slices of one series.

    Raises:
        Unusable: and nothing else, whatever the file holds.
    """
    return _checked(_guarded(_read_volume, path))


def read_channels(path: Path) -> Volume:
    """All volumes of one NIfTI file, as channels: voxels of shape (channels, i, j, k).

    Raises:
        Unusable: and nothing else, whatever the file holds.
    """
    return _checked(_guarded(_read_channels, path))


def read_label_map(path: Path, image: Path | None = None) -> Volume:
    """A label map: NIfTI or DICOM SEG, still as float32; one with background only is a label map too.

    Args:
        image: the DICOM series that is outlined, or its one file; a DICOM SEG is laid on it.
    Raises:
        Unusable: and nothing else, whatever the file holds.
    """
    try:
        labels = _guarded(lambda file: _read_label_map(file, image), path)
    except Unusable as error:
        if error.code != "wrong-dimensions":
            raise
        raise Unusable(
            "wrong-dimensions",
            "The label map has another number of axes than three (one map for each class?).",
            "Write one map, whose numbers are the classes.",
        ) from error
    _check_geometry(labels)
    return labels


def read_label_film(path: Path) -> Film:
    """The label map of a film: a PNG, still as float32; one with background only is a label map too.

    Raises:
        Unusable: and nothing else, whatever the file holds.
    """
    return _guarded(_read_label_film, path)


def _guarded(reader: Callable[[Path], Image], path: Path) -> Image:
    with quiet():
        try:
            return reader(path)
        except Unusable:
            raise
        except MemoryError as error:
            raise too_large() from error
        except Exception as error:  # the image libraries raise nearly everything on damaged files
            raise Unusable(
                "unreadable-image", "The image is damaged or contradicts itself.", "Export it again."
            ) from error


def _read_film(path: Path) -> Film:
    if path.is_dir():
        raise Unusable("folder", "This is a folder; a film is one file.", "List the films one by one.")
    data = image_bytes(path)
    known = _known(data)
    if known.film is None:
        raise Unusable("wrong-format", f"This is {known.what}, not a film.", "List films for this study.")
    return known.film(data)


def _read_colour(path: Path) -> Film:
    if path.is_dir():
        raise Unusable("folder", "This is a folder; a picture is one file.", "List the pictures one by one.")
    data = image_bytes(path)
    known = _known(data)
    if known.colour is None:
        raise Unusable(
            "wrong-format", f"This is {known.what}; pictures in colour are PNG or JPEG.", "Export it as PNG."
        )
    return known.colour(data)


def _read_label_map(path: Path, image: Path | None) -> Volume:
    if not path.is_dir() and is_segmentation(data := image_bytes(path)):
        return read_segmentation(data, image)
    return _read_volume(path)


def _read_label_film(path: Path) -> Film:
    if path.is_dir():
        raise Unusable("folder", "This is a folder; a label map is one file.", "List the label map itself.")
    data = image_bytes(path)
    known = _known(data)
    if known.label_film is None:
        raise Unusable(
            "wrong-format", f"This is {known.what}; the label map of a film is a PNG.", "Save it as PNG."
        )
    return known.label_film(data)


def _read_channels(path: Path) -> Volume:
    if path.is_dir():
        raise Unusable(
            "folder",
            "This is a folder; a file with all channels is one file.",
            "Give the manifest a column for each channel instead.",
        )
    data = image_bytes(path)
    known = _known(data)
    if known.channels is None:
        raise Unusable(
            "wrong-format",
            f"This is {known.what}, not a volume with channels.",
            "Write one NIfTI file with all channels, or give the manifest a column for each.",
        )
    return known.channels(data)


def _read_volume(path: Path) -> Volume:
    if path.is_dir():
        return read_dicom_series(path)
    data = image_bytes(path)
    known = _known(data)
    if known.volume is None:
        raise Unusable("wrong-format", f"This is {known.what}, not a volume.", "List volumes for this study.")
    return known.volume(data)


def _known(data: bytes) -> Format:
    """The format of a file's bytes. Raises: Unusable: no format that is read here, with what to do."""
    known = format_of(data)
    if known is not None:
        return known
    if data[344:348] == b"ni1\0" or data[4:8] == b"ni2\0":
        raise Unusable(
            "nifti-pair",
            "The header says that its voxels lie in another file (.img).",
            "Convert it to one .nii.gz file.",
        )
    if data[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        raise Unusable(
            "analyze-format",
            "This is Analyze 7.5, which does not tell left from right.",
            "Convert the original DICOM to NIfTI.",
        )
    if data[:2] == b"\x1f\x8b":
        raise Unusable("packed-twice", "The file was compressed twice.", "Unpack it once.")
    if data[:4] == b"\0\0\0\x01":
        raise Unusable("freesurfer-format", "This is a FreeSurfer volume.", "Convert it to .nii.gz.")
    raise Unusable(
        "unknown-format",
        "This is no DICOM file with a preamble, no NIfTI, no PNG and no JPEG.",
        "Export the image as DICOM, NIfTI (volumes), PNG or JPEG (films).",
    )


def _checked(volume: Volume) -> Volume:
    """The volume, with a note if it shows a face. Raises: Unusable: values or geometry that cannot be."""
    _check_values(volume.voxels)
    _check_geometry(volume)
    return replace(volume, notes=(*volume.notes, FACE)) if shows_face(volume) else volume


def _check_values(values: Float32) -> None:
    if not np.isfinite(values).all():
        raise Unusable(
            "not-finite", "Some pixels are not numbers (NaN or infinite).", "Export the image again."
        )
    if values.size == 0 or float(values.min()) == float(values.max()):
        raise Unusable("constant-image", "All pixels are equal.", "Check that the export was not blank.")


def _check_geometry(volume: Volume) -> None:
    determinant = float(np.linalg.det(volume.affine[:3, :3])) if np.isfinite(volume.affine).all() else 0.0
    if abs(determinant) < SINGULAR:
        raise Unusable("bad-geometry", "The header gives no usable voxel size.", "Export the volume again.")
