"""Made DICOM files for the tests of the readers: an uneven picture, a volume, and a plain writer."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

from medveil_imaging.sources.raw import Film, Note, Unusable, Volume

NAME = "Quillfeather^Ottoline"
Pixels = NDArray[Any]


def picture(rows: int = 48, columns: int = 40, top: int = 4000) -> Pixels:
    """A film of 50 to ``top`` that no flip and no turn leaves as it is."""
    y, x = np.mgrid[0:rows, 0:columns] / np.array([rows, columns])[:, None, None]
    values = 0.25 + 0.35 * x + 0.15 * y + 0.05 * np.sin(25 * x) * np.sin(19 * y)
    values += 0.25 * np.exp(-((x - 0.3) ** 2 / 0.02 + (y - 0.6) ** 2 / 0.03))
    values = (values - values.min()) / (values.max() - values.min())
    return np.rint(50 + values * (top - 50)).astype(np.uint16)


def block(columns: int = 14, rows: int = 12, slices: int = 6) -> Pixels:
    """A volume of 20 to 2000: column, row, slice."""
    x, y, z = np.mgrid[0:columns, 0:rows, 0:slices] / np.array([columns, rows, slices])[:, None, None, None]
    values = (
        0.3 * x + 0.2 * y + 0.1 * z + 0.4 * np.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2 + (z - 0.4) ** 2) / 0.02)
    )
    values = (values - values.min()) / (values.max() - values.min())
    return np.rint(20 + values * 1980).astype(np.uint16)


def header_of(
    pixels: Pixels,
    *,
    stored: int | None = None,
    high: int | None = None,
    written: dict[str, str] | None = None,
    **tags: Any,
) -> Dataset:
    """A data set with a fictional patient.

    Args:
        written: elements by the very text that stands in the file, also where it is against the standard.
        tags: elements that overwrite or, with None, remove.
    """
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
    header.Modality, header.PatientName, header.PatientID = "CR", NAME, "4711"
    header.SeriesInstanceUID = "1.2.4"
    header.Rows, header.Columns = pixels.shape[:2]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.itemsize
    stored = bits if stored is None else stored
    header.BitsAllocated, header.BitsStored = bits, stored
    header.HighBit = stored - 1 if high is None else high
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.PixelData = pixels.tobytes()
    header["PixelData"].VR = "OW" if bits > 8 else "OB"
    for tag, value in tags.items():
        if value is None:
            header.pop(tag, None)
        else:
            setattr(header, tag, value)
    for keyword, text in (written or {}).items():
        put_text(header, keyword, text)
    return header


def put_text(header: Dataset, keyword: str, text: str, kind: str = "") -> None:
    """Put raw bytes into an element: values that pydicom would refuse to write."""
    tag = BaseTag(tag_for_keyword(keyword) or 0)
    raw = text.encode() + b" " * (len(text) % 2)
    header._dict[tag] = RawDataElement(tag, kind or dictionary_VR(tag), len(raw), raw, 0, False, True)


def save(
    path: Path, header: Dataset, syntax: str = ExplicitVRLittleEndian, frames: Sequence[bytes] = ()
) -> Path:
    """Write a data set; with ``frames``, its pixels are those compressed frames."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    if frames:
        header.PixelData = encapsulate(list(frames))
        header["PixelData"].VR = "OB"
    elif UID(syntax) == ExplicitVRBigEndian and header.BitsAllocated == 16:
        header.PixelData = np.frombuffer(header.PixelData, "<u2").astype(">u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = FileDataset(str(path), header, file_meta=meta, preamble=b"\0" * 128)
    file.set_original_encoding(UID(syntax).is_implicit_VR, UID(syntax).is_little_endian, "utf8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is against the standard is meant so
        file.save_as(path, enforce_file_format=True)
    return path


def film_file(
    path: Path,
    pixels: Pixels,
    *,
    syntax: str = ExplicitVRLittleEndian,
    frames: Sequence[bytes] = (),
    **of: Any,
) -> Path:
    """A film; the rest as for :func:`header_of`."""
    return save(path, header_of(pixels, **of), syntax, frames)


def slice_header(volume: Pixels, number: int, gap: float = 2.0, **of: Any) -> Dataset:
    """One axial slice of a volume, 2 mm x 3 mm."""
    place: dict[str, Any] = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": f"1.2.3.{number + 1}",
        "Modality": "MR",
        "ImagePositionPatient": [-20, -30, round(number * gap, 6)],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2.0, 3.0],
    }
    return header_of(np.ascontiguousarray(volume[:, :, number].T), **(place | of))


def series_folder(
    folder: Path,
    volume: Pixels,
    change: Callable[[Dataset, int], None] = lambda header, number: None,
    **of: Any,
) -> Path:
    """A folder with the slices of a volume, each changed by ``change`` before it is written."""
    for number in range(volume.shape[2]):
        header = slice_header(volume, number, **of)
        change(header, number)
        save(folder / f"IM{number:03}.dcm", header)
    return folder


def codes(image: Film | Volume) -> list[str]:
    """The codes of an image's notes."""
    return [note.code for note in image.notes]


def refusal(reader: Callable[[Path], Any], path: Path) -> Unusable:
    """How a reader refuses a file; no name of a patient is in it."""
    with pytest.raises(Unusable) as caught:
        reader(path)
    assert NAME not in str(caught.value)
    return caught.value


def is_worded(note: Note) -> bool:
    """Whether a note has its three parts."""
    return bool(note.code and note.reason.endswith(".") and note.remedy.endswith("."))


def dcmtk(tool: str) -> str:
    """A tool of DCMTK, the independent reader; a test without it is skipped by name."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed: apt-get install dcmtk")
    return found
