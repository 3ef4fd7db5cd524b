"""MR volumes: one file of many frames, or a folder with the files of one series."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from medveil_imaging.sources.dicom.header import begins_like_dicom, parse, text, texts, whole
from medveil_imaging.sources.dicom.identity import patient_mark
from medveil_imaging.sources.dicom.planes import Plane, check_is_mr, planes_of
from medveil_imaging.sources.dicom.stack import stack
from medveil_imaging.sources.dicom.stored import PIXELS, frame_count
from medveil_imaging.sources.raw import MAX_VOXELS, Note, Unusable, Volume, check_pixel_count
from medveil_imaging.sources.sealed import image_bytes

MAX_SLICES = 2048
NOT_SLICES = frozenset({"DICOMDIR", "Thumbs.db", "desktop.ini"})
NO_PICTURES = frozenset({"PR", "SR", "KO", "REG", "RWV", "PLAN", "DOC", "RTSTRUCT", "RTPLAN", "RTRECORD"})
"""Modalities of objects that lie beside the slices of a study and hold no picture."""
OTHER_FILES = Note(
    "other-files",
    "The folder holds files that are no slices (a viewer's, a report and so on); they were left out.",
    "Check that no slice is among them.",
)
LOCALIZERS = Note(
    "localizers",
    "The folder holds localizers beside the series; they were left out.",
    "Nothing need be done.",
)


@dataclass(frozen=True)
class _Piece:
    """What one file adds to a volume."""

    planes: list[Plane]
    series: str
    patient: bytes | None
    is_localizer: bool
    notes: tuple[Note, ...]


def read_dicom_volume(data: bytes) -> Volume:
    """A volume from one multi-frame MR file.

    Raises:
        Unusable: no image, not MR, a single slice, a mosaic, no or uneven geometry.
    """
    header, notes = parse(data)
    check_is_mr(header)
    if frame_count(header) < 2:
        raise Unusable(
            "wrong-dimensions",
            "This is a single slice; a volume has many.",
            "List the folder that holds all slices of the series.",
        )
    planes, said = planes_of(header, MAX_VOXELS)
    volume = stack(planes)
    return replace(volume, notes=notes + said + volume.notes, patient_mark=patient_mark(header))


def read_dicom_series(folder: Path) -> Volume:
    """A volume from the files of one MR series, in the order of their positions, not of their names.

    Localizers, copies of a slice and files that are no slices are left out with a note.

    Raises:
        Unusable: several series or patients, an unreadable slice, mixed, repeated or uneven geometry.
    """
    pieces, others = _pieces(folder)
    notes: tuple[Note, ...] = (OTHER_FILES,) if others else ()
    series = [piece for piece in pieces if not piece.is_localizer]
    if len(series) < len(pieces) and sum(len(piece.planes) for piece in series) > 1:
        pieces, notes = series, (*notes, LOCALIZERS)
    if len({piece.series for piece in pieces}) > 1:
        raise Unusable("several-series", "The folder holds several series.", "Use a folder per series.")
    patients = {piece.patient for piece in pieces} - {None}
    if len(patients) > 1:
        raise Unusable(
            "several-patients", "The slices name different patients.", "Use a folder per patient and series."
        )
    planes = [plane for piece in pieces for plane in piece.planes]
    if len(planes) < 2:
        raise _wrong_count()
    volume = stack(planes)
    notes += tuple(note for piece in pieces for note in piece.notes) + volume.notes
    return replace(volume, notes=tuple(dict.fromkeys(notes)), patient_mark=next(iter(patients), None))


def _pieces(folder: Path) -> tuple[list[_Piece], bool]:
    """What the files of a folder hold, and whether there are others beside them."""
    inside = folder.resolve()
    paths = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in NOT_SLICES)
    if not 1 <= len(paths) <= MAX_SLICES:
        raise _wrong_count()
    pieces: list[_Piece] = []
    total, others, foreign = 0, False, []
    for path in paths:
        if path.is_dir() or inside not in path.resolve().parents:
            raise _mixed("The folder holds other things than slices.")
        data = image_bytes(path)
        if not begins_like_dicom(data):
            foreign.append(path)
            continue
        header, notes = parse(data)
        if text(header, "Modality") in NO_PICTURES and not any(name in header for name in PIXELS):
            others = True
            continue
        check_is_mr(header)
        total += frame_count(header) * whole(header, "Rows", 0) * whole(header, "Columns", 0)
        check_pixel_count((max(total, 1),), MAX_VOXELS)
        planes, said = planes_of(header, MAX_VOXELS)
        is_localizer = "LOCALIZER" in texts(header, "ImageType")
        uid = text(header, "SeriesInstanceUID")
        pieces.append(_Piece(planes, uid, patient_mark(header), is_localizer, notes + said))
    # A damaged slice is called as the others are; what a viewer or an export leaves beside them is not.
    if not pieces or {path.suffix for path in foreign} & {
        path.suffix for path in paths if path not in foreign
    }:
        raise _mixed("A file of the folder is not DICOM.")
    return pieces, others or bool(foreign)


def _mixed(reason: str) -> Unusable:
    return Unusable("mixed-folder", reason, "Give the folder the slices of one series and nothing else.")


def _wrong_count() -> Unusable:
    return Unusable(
        "wrong-dimensions", f"A series has 2 to {MAX_SLICES} slices.", "List the folder of one series."
    )
