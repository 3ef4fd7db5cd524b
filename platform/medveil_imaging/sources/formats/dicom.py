"""DICOM through pydicom: films, multi-frame volumes and series of slices.

Only pixel values and geometry are returned. Overlay planes, private elements, names and texts are not read.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from medveil_imaging.sources.dicom.identity import patient_mark
from medveil_imaging.sources.formats import FORMATS, Format
from medveil_imaging.sources.raw import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    MAX_VOXELS,
    Film,
    Float32,
    Float64,
    Note,
    Unusable,
    Volume,
    check_pixel_count,
    read_bytes,
)

FILM_MODALITIES = frozenset({"CR", "DX", "RG"})
"""Computed, digital and digitised radiography."""
MAX_SLICES = 2048
NOT_SLICES = frozenset({"DICOMDIR", "Thumbs.db", "desktop.ini"})
PARALLEL = 1e-3
"""Largest difference of a direction cosine between slices of one volume."""
EVEN = 0.02
"""Largest deviation of a slice gap, and of a sideways step, as a share of the mean gap."""


@dataclass(frozen=True)
class Plane:
    """One slice: its pixels and where they lie in the patient (DICOM axes: left, posterior, superior)."""

    pixels: Float32
    position: Float64
    """Centre of the first pixel, mm."""
    directions: Float64
    """Shape (2, 3): unit vectors of increasing column and of increasing row."""
    spacing: Float64
    """Between rows and between columns, mm."""


def read_dicom_film(data: bytes) -> Film:
    """A film from the bytes of a DICOM file: modality LUT or rescale, window, then bright = dense.

    Raises:
        Unusable: no image, not a radiograph, colour, several frames, cut short, or writing in the picture.
    """
    header = _parse(data)
    _check_is_image(header)
    modality = _text(header, "Modality")
    if modality not in FILM_MODALITIES | {"OT", ""}:
        raise Unusable("wrong-modality", "This is not a radiograph (CR or DX).", "List radiographs only.")
    if _frames(header) != 1:
        raise Unusable("several-frames", "The file holds several frames.", "Export one film per file.")
    if _text(header, "BurnedInAnnotation") == "YES":
        raise Unusable(
            "burned-in", "The header says that writing is part of the picture.", "Export a film without it."
        )
    pixels = _decode(header, MAX_PIXELS)
    values = apply_voi_lut(apply_modality_lut(pixels, header), header, index=0).astype(np.float32)
    if _text(header, "PhotometricInterpretation") == "MONOCHROME1":
        values = -values  # MONOCHROME1 stores dense tissue as small numbers
    unclear = Note(
        "modality-unclear", "The header does not say that this is a radiograph.", "Look at the picture."
    )
    return Film(values, () if modality in FILM_MODALITIES else (unclear,), patient_mark(header))


def read_dicom_volume(data: bytes) -> Volume:
    """A volume from one multi-frame (enhanced) MR file.

    Raises:
        Unusable: no image, not MR, a single slice, a mosaic, no or uneven geometry.
    """
    header = _parse(data)
    _check_is_mr(header)
    count = _frames(header)
    if count < 2:
        raise Unusable(
            "wrong-dimensions",
            "This is a single slice; a volume has many.",
            "List the folder that holds all slices of the series.",
        )
    shared = _first(header, "SharedFunctionalGroupsSequence")
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if shared is None or groups is None or len(groups) != count:
        raise _no_geometry()
    frames = _decode(header, MAX_VOXELS)
    planes = [_frame(frames[index], groups[index], shared) for index in range(count)]
    return replace(stack(planes), patient_mark=patient_mark(header))


def read_dicom_series(folder: Path) -> Volume:
    """A volume from the slices of one MR series, in the order of their positions, not of their names.

    Raises:
        Unusable: several series, a file that is no readable slice, mixed, repeated or uneven geometry.
    """
    inside = folder.resolve()
    paths = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in NOT_SLICES)
    if not 2 <= len(paths) <= MAX_SLICES:
        raise Unusable(
            "wrong-dimensions", f"A series has 2 to {MAX_SLICES} slices.", "List the folder of one series."
        )
    series, patients, planes, total = set(), set(), [], 0
    for path in paths:
        if path.is_dir() or inside not in path.resolve().parents:
            raise Unusable(
                "mixed-folder", "The folder holds other things than slices.", "Give it one series."
            )
        data = read_bytes(path)
        if data[128:132] != b"DICM":
            raise Unusable("mixed-folder", "A file of the folder is not DICOM.", "Give it one series only.")
        header = _parse(data)
        _check_is_mr(header)
        if _frames(header) != 1:
            raise Unusable("several-frames", "A slice holds several frames.", "List that file by itself.")
        total += int(header.Rows) * int(header.Columns)
        check_pixel_count((total,), MAX_VOXELS)
        series.add(_text(header, "SeriesInstanceUID"))
        if len(series) > 1:
            raise Unusable("several-series", "The folder holds several series.", "Use a folder per series.")
        patients.add(patient_mark(header))
        if len(patients) > 1:
            raise Unusable(
                "several-patients",
                "The slices name different patients.",
                "Use a folder per patient and series.",
            )
        planes.append(_slice(header))
    return replace(stack(planes), patient_mark=patients.pop())


def stack(planes: list[Plane]) -> Volume:
    """Slices → volume with axes (column, row, slice) and its RAS affine.

    Raises:
        Unusable: slices of another size, direction or spacing, repeated positions, gaps, a sheared stack.
    """
    first = planes[0]
    for plane in planes:
        same = (
            plane.pixels.shape == first.pixels.shape
            and np.allclose(plane.directions, first.directions, atol=PARALLEL)
            and np.allclose(plane.spacing, first.spacing, rtol=PARALLEL)
        )
        if not same:
            raise Unusable(
                "mixed-geometry", "The slices differ in size, direction or spacing.", "Give one acquisition."
            )
    across, down = first.directions
    normal = np.cross(across, down)
    if not (
        np.allclose(np.linalg.norm(first.directions, axis=1), 1, atol=0.01) and abs(across @ down) < 0.01
    ):
        raise _no_geometry()
    ordered = sorted(planes, key=lambda plane: float(plane.position @ normal))
    steps = np.diff([plane.position for plane in ordered], axis=0)
    gaps = steps @ normal
    gap = float(gaps.mean())
    if gap <= 0 or gaps.min() < 0.01 * gap:
        raise Unusable(
            "repeated-slices",
            "Several slices lie at one place (a series over time?).",
            "Export one time point or one echo.",
        )
    sideways = np.linalg.norm(steps - gaps[:, None] * normal, axis=1)
    if np.abs(gaps - gap).max() > EVEN * gap or sideways.max() > EVEN * gap:
        raise Unusable(
            "uneven-slices", "The slices are not evenly spaced; some may be missing.", "Export all slices."
        )
    affine = np.eye(4)
    affine[:3, 0] = across * first.spacing[1]
    affine[:3, 1] = down * first.spacing[0]
    affine[:3, 2] = normal * gap
    affine[:3, 3] = ordered[0].position
    affine[:2] *= -1  # DICOM's left and posterior → right and anterior
    return Volume(np.stack([plane.pixels.T for plane in ordered], axis=2), affine)


def _slice(header: Dataset) -> Plane:
    """A single-frame MR slice; the window is for looking, so only the rescale is applied."""
    pixels = apply_modality_lut(_decode(header, MAX_PIXELS), header).astype(np.float32)
    return Plane(
        pixels=pixels,
        position=_numbers(header, "ImagePositionPatient", 3),
        directions=_numbers(header, "ImageOrientationPatient", 6).reshape(2, 3),
        spacing=_spacing(header),
    )


def _frame(pixels: Any, own: Dataset, shared: Dataset) -> Plane:
    """One frame of an enhanced file; each piece of geometry is its own or the shared one."""

    def group(name: str) -> Dataset:
        found = _first(own, name) or _first(shared, name)
        if found is None:
            raise _no_geometry()
        return found

    scale = _first(own, "PixelValueTransformationSequence") or _first(
        shared, "PixelValueTransformationSequence"
    )
    slope, intercept = (
        (1.0, 0.0) if scale is None else (float(scale.RescaleSlope), float(scale.RescaleIntercept))
    )
    return Plane(
        pixels=(pixels * slope + intercept).astype(np.float32),
        position=_numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3),
        directions=_numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6).reshape(2, 3),
        spacing=_spacing(group("PixelMeasuresSequence")),
    )


def _parse(data: bytes) -> Dataset:
    stream = io.BytesIO(data)
    read_preamble(stream, force=False)
    syntax = _read_file_meta_info(stream).get("TransferSyntaxUID")
    if not syntax:
        raise Unusable(
            "no-transfer-syntax", "The header does not say how the image is stored.", "Export it again."
        )
    if (
        syntax == DeflatedExplicitVRLittleEndian
    ):  # pydicom inflates in one go; find out first how large it gets
        engine = zlib.decompressobj(-zlib.MAX_WBITS)
        if len(engine.decompress(data[stream.tell() :], MAX_FILE_BYTES)) == MAX_FILE_BYTES:
            raise Unusable("too-large", "The file is larger than 1 GiB.", "Export one image per file.")
    return pydicom.dcmread(io.BytesIO(data))


def _check_is_image(header: Dataset) -> None:
    if "PixelData" not in header or "Rows" not in header or "Columns" not in header:
        raise Unusable(
            "no-pixels",
            "The file holds no image (a report, a plan or a curve, or it was cut short).",
            "List images only.",
        )


def _check_is_mr(header: Dataset) -> None:
    _check_is_image(header)
    if _text(header, "Modality") != "MR":
        raise Unusable("wrong-modality", "This is not an MR image.", "List MR images only.")
    if "MOSAIC" in [str(part) for part in header.get("ImageType") or []]:
        raise Unusable(
            "mosaic",
            "This is a mosaic: many slices side by side in one picture.",
            "Convert it to NIfTI with dcm2niix.",
        )


def _decode(header: Dataset, limit: int) -> Any:
    """Stored values as an array; refused, never repaired, when header and stream disagree."""
    check_pixel_count((int(header.Rows), int(header.Columns), _frames(header)), limit)
    kind = _text(header, "PhotometricInterpretation")
    if kind not in {"MONOCHROME1", "MONOCHROME2"} or int(header.get("SamplesPerPixel", 1)) != 1:
        raise Unusable("colour-image", "The image is in colour.", "Export the grey original.")
    if int(header.BitsAllocated) < 8:
        raise Unusable("not-grey", "The image has one bit per pixel.", "List the picture itself, not a mask.")
    syntax = header.file_meta.TransferSyntaxUID
    if not _can_decode(syntax):
        raise Unusable(
            "no-decoder",
            "This kind of compression cannot be read here.",
            "Export the image uncompressed or as JPEG 2000.",
        )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pixels = header.pixel_array
    if any(re.search("signed|mismatch|Pixel Representation|Bits Stored", str(w.message)) for w in said):
        raise Unusable(
            "contradiction", "Header and compressed image disagree about the pixels.", "Export it again."
        )
    return pixels


def _can_decode(syntax: UID) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # video, or private to a manufacturer
        return False


def _frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _text(header: Dataset, name: str) -> str:
    return str(header.get(name) or "").strip().upper()


def _first(header: Dataset, name: str) -> Dataset | None:
    items = header.get(name)
    return items[0] if items else None


def _spacing(header: Dataset) -> Float64:
    spacing = _numbers(header, "PixelSpacing", 2)
    if (spacing <= 0).any():
        raise _no_geometry()
    return spacing


def _numbers(header: Dataset, name: str, count: int) -> Float64:
    values = header.get(name)
    if values is None or isinstance(values, str) or len(values) != count:
        raise _no_geometry()
    numbers = np.array([float(value) for value in values])
    if not np.isfinite(numbers).all():
        raise _no_geometry()
    return numbers


def _no_geometry() -> Unusable:
    return Unusable(
        "bad-geometry",
        "The header does not say where the slices lie in the patient.",
        "Export the original series.",
    )


FORMATS.register("dicom")(
    Format(
        what="a DICOM file",
        begins=lambda data: data[128:132] == b"DICM",
        film=read_dicom_film,
        volume=read_dicom_volume,
        before_others=True,
    )
)
