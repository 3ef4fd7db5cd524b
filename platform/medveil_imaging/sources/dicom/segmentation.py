"""DICOM SEG: the outlines of one series, laid on exactly that series' voxels.

A class number is the segment's own number. Nothing is resampled: each frame must be one of the slices.
Source: PS3.3 A.51 and C.8.20 (Segmentation, Label Map Segmentation).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medveil_imaging.sources.dicom.decoders import decoder_of
from medveil_imaging.sources.dicom.header import (
    begins_like_dicom,
    contradiction,
    first,
    no_decoder,
    parse,
    text,
    whole,
)
from medveil_imaging.sources.dicom.identity import patient_mark
from medveil_imaging.sources.dicom.planes import places_of
from medveil_imaging.sources.dicom.series import NOT_SLICES, read_dicom_series, read_dicom_volume
from medveil_imaging.sources.dicom.stored import frame_count
from medveil_imaging.sources.raw import MAX_VOXELS, Float32, Float64, Unusable, Volume, check_pixel_count
from medveil_imaging.sources.sealed import image_bytes

MODALITY = "SEG"
ON_PLANE = 0.1
"""How far a corner of a frame may lie from its voxel's place, in voxels: rounded positions, no more."""
BITS = {"BINARY": (1,), "LABELMAP": (8, 16)}


def is_segmentation(data: bytes) -> bool:
    """Whether a file's bytes are a DICOM SEG. Raises: Unusable: a DICOM file that cannot be read."""
    return begins_like_dicom(data) and text(parse(data)[0], "Modality") == MODALITY


def read_segmentation(data: bytes, image: Path | None) -> Volume:
    """The label map that a SEG holds, on the grid of its image; the number of a class is its segment's.

    Args:
        data: the SEG, BINARY or LABELMAP.
        image: the folder of the DICOM series that it outlines, or that series in one file.
    Returns: voxels as :func:`read_dicom_series` gives the image's, 0 where no segment is.
    Raises:
        Unusable: fractional, of another series, patient or frame of reference, with frames that are no slices
            of the series, segments that overlap, or numbers that no segment has.
    """
    header, _ = parse(data)
    kind = kind_of(header)
    onto, uids = _image(image)
    _check_reference(header, uids)
    marks = {onto.patient_mark, patient_mark(header)} - {None}
    if len(marks) > 1:
        raise Unusable(
            "segmentation-patient",
            "The segmentation and its image name different patients.",
            "Name the segmentation of this image.",
        )
    layers = _layers(header, onto)
    frames = _frames(header, BITS[kind])
    numbers = {whole(item, "SegmentNumber", 0) for item in header.get("SegmentSequence") or ()}
    labels = np.zeros(onto.voxels.shape, np.float32)
    if kind == "BINARY":
        _lay_segments(labels, frames, layers, _segments(header, len(layers)))
    else:
        _lay_numbers(labels, frames, layers, whole(header, "PixelPaddingValue", 0))
    if not set(np.unique(labels).astype(int).tolist()) <= numbers | {0}:
        raise contradiction()
    return Volume(labels, onto.affine)


def kind_of(header: Dataset) -> str:
    """BINARY or LABELMAP. Raises: Unusable: fractions, or it does not say."""
    kind = text(header, "SegmentationType")
    if kind not in BITS:
        raise Unusable(
            "segmentation-kind",
            "The segmentation holds fractions or probabilities, or does not say what it holds.",
            "Export it as BINARY or LABELMAP.",
        )
    return kind


def referenced_series(header: Dataset) -> str:
    """The series that a SEG outlines. Raises: Unusable: it names none, or several."""
    series = {text(one, "SeriesInstanceUID") for one in header.get("ReferencedSeriesSequence") or ()}
    if len(series) != 1 or "" in series:
        raise _other_series()
    return series.pop()


def _image(image: Path | None) -> tuple[Volume, dict[str, set[str]]]:
    """The image with its grid, and the UIDs of its files under their keywords."""
    paths: list[Path] = []
    if image is not None:
        paths = sorted(image.iterdir()) if image.is_dir() else [image]
    uids: dict[str, set[str]] = {
        "SeriesInstanceUID": set(),
        "FrameOfReferenceUID": set(),
        "SOPInstanceUID": set(),
    }
    for path in paths:
        if path.is_dir() or path.name.startswith(".") or path.name in NOT_SLICES:
            continue
        if begins_like_dicom(data := image_bytes(path)):
            header, _ = parse(data)
            for name, found in uids.items():
                found |= {text(header, name)} - {""}
    if image is None or not uids["SeriesInstanceUID"]:
        raise Unusable(
            "segmentation-image",
            "A DICOM segmentation outlines a DICOM series, and the image of this line is none.",
            "Name the series as the image, or a NIfTI label map.",
        )
    return (read_dicom_series(image) if image.is_dir() else read_dicom_volume(data)), uids


def _check_reference(header: Dataset, uids: dict[str, set[str]]) -> None:
    """Raises: Unusable: it says that it outlines something else, or does not say what."""
    series = {text(item, "SeriesInstanceUID") for item in header.get("ReferencedSeriesSequence") or ()}
    if (
        not (series or set(_sources(header)) & uids["SOPInstanceUID"])
        or not series <= (uids["SeriesInstanceUID"])
    ):
        raise _other_series()
    if uids["FrameOfReferenceUID"] and text(header, "FrameOfReferenceUID") not in uids["FrameOfReferenceUID"]:
        raise Unusable(
            "segmentation-frame-of-reference",
            "The segmentation and its image do not share their frame of reference.",
            "Export the segmentation that was drawn on this series.",
        )


def _other_series() -> Unusable:
    return Unusable(
        "segmentation-series",
        "The segmentation outlines another series, or does not say which.",
        "Name the segmentation that was drawn on this series.",
    )


def _sources(header: Dataset) -> Iterator[str]:
    """The instances from which the frames were drawn."""
    for frame in header.get("PerFrameFunctionalGroupsSequence") or ():
        for derived in frame.get("DerivationImageSequence") or ():
            for source in derived.get("SourceImageSequence") or ():
                yield text(source, "ReferencedSOPInstanceUID")


def _layers(header: Dataset, onto: Volume) -> list[int]:
    """Which slice each frame is, counted along the volume's third axis. Raises: Unusable: one is none."""
    columns, rows, slices = onto.voxels.shape
    if (whole(header, "Columns", 0), whole(header, "Rows", 0)) != (columns, rows):
        raise _other_planes("have another size")
    into = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ onto.affine)
    corners = np.array([[c, r] for c in (0, columns - 1) for r in (0, rows - 1)], float)
    layers = []
    for position, directions, spacing in places_of(header):
        steps: Float64 = directions * spacing[::-1, None]  # along a row the columns' distance counts
        index = (position + corners @ steps) @ into[:3, :3].T + into[:3, 3]
        layer = int(np.rint(index[:, 2].mean()))
        meant = np.column_stack([corners, np.full(len(corners), layer)])
        if np.abs(index - meant).max() > ON_PLANE:
            raise _other_planes("are tilted, moved or spaced otherwise")
        if not 0 <= layer < slices:
            raise _other_planes("lie outside of the series")
        layers.append(layer)
    return layers


def _other_planes(how: str) -> Unusable:
    return Unusable(
        "segmentation-planes",
        f"Frames of the segmentation {how}: they are no slices of its image.",
        "Export the segmentation on the slices of the series, not resampled.",
    )


def _frames(header: Dataset, bits: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    """The numbers as they are stored, shape (frames, columns, rows)."""
    shape = (frame_count(header), whole(header, "Rows", 0), whole(header, "Columns", 0))
    check_pixel_count(shape, MAX_VOXELS)
    if whole(header, "BitsAllocated", 0) not in bits or whole(header, "SamplesPerPixel", 1) != 1:
        raise contradiction()
    found = decoder_of(UID(header.file_meta.TransferSyntaxUID), 8)
    if found is None:
        raise no_decoder("This kind of compression cannot be read here.")
    decoder, how = found
    values, _ = decoder.as_array(header, raw=True, allow_excess_frames=False, **how)
    return np.asarray(values).reshape(shape).transpose(0, 2, 1).astype(np.uint16)


def _segments(header: Dataset, count: int) -> list[int]:
    """The segment that each frame of a BINARY segmentation belongs to; 0 where it does not say."""
    shared = first(header, "SharedFunctionalGroupsSequence")
    own = header.get("PerFrameFunctionalGroupsSequence") or [None] * count
    name = "SegmentIdentificationSequence"
    items = [first(one, name) or first(shared, name) for one in own]
    found = [0 if item is None else whole(item, "ReferencedSegmentNumber", 0) for item in items]
    if len(found) != count or min(found) < 1:
        raise contradiction()
    return found


def _lay_segments(
    labels: Float32,
    frames: np.ndarray[tuple[int, ...], np.dtype[np.uint16]],
    layers: list[int],
    segments: list[int],
) -> None:
    for frame, layer, segment in zip(frames, layers, segments, strict=True):
        here, place = labels[:, :, layer], frame != 0
        if ((here[place] != 0) & (here[place] != segment)).any():
            raise Unusable(
                "segmentation-overlap",
                "Segments of the segmentation overlap; a voxel has one class.",
                "Export segments that do not overlap, or a label map in which one goes before the other.",
            )
        here[place] = segment


def _lay_numbers(
    labels: Float32,
    frames: np.ndarray[tuple[int, ...], np.dtype[np.uint16]],
    layers: list[int],
    background: int,
) -> None:
    if background != 0 or len(set(layers)) < len(layers):
        raise contradiction()
    for frame, layer in zip(frames, layers, strict=True):
        labels[:, :, layer] = frame
