"""Outlines that a PACS keeps as DICOM SEG: chosen, told apart, and reduced to numbers before cleaning.

What is kept of one is where its frames lie, which segment each shows, and the voxels: every text is left out.
Pixels are only counted and copied here; they are decoded later, in a confined reader.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from hospital_node.pacs.admission import text_of
from hospital_node.pacs.peer import Series
from hospital_node.pacs.problems import SegmentsUnclear
from medveil.errors import BadOption
from medveil_imaging.sources.dicom.header import contradiction, no_decoder, parse, whole
from medveil_imaging.sources.dicom.segmentation import MODALITY, kind_of, referenced_series
from medveil_imaging.sources.dicom.stored import frame_count
from medveil_imaging.sources.raw import MAX_VOXELS, Unusable, check_pixel_count, quiet

KEPT = (
    "SOPClassUID SOPInstanceUID Modality PatientID IssuerOfPatientID StudyInstanceUID SeriesInstanceUID "
    "FrameOfReferenceUID SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns BitsAllocated "
    "BitsStored HighBit PixelRepresentation PixelPaddingValue SegmentationType PixelData"
).split()
KEPT_OF_FRAMES = {
    "PlanePositionSequence": "ImagePositionPatient",
    "PlaneOrientationSequence": "ImageOrientationPatient",
    "PixelMeasuresSequence": "PixelSpacing",
    "SegmentIdentificationSequence": "ReferencedSegmentNumber",
}
SHARED, FRAMES = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


@dataclass(frozen=True)
class Outlines:
    """Which outlines are fetched beside the images, and what their segments are called here."""

    words: str = ""
    """In the description of the SEG's series; ``*`` and ``?`` stand for any letters."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Label of a segment → the class; empty: a segment's number is its class."""

    def fits(self, series: Series) -> bool:
        """Whether a series of an examination is meant."""
        words = self.words.strip().casefold().replace("[", "[[]")
        return series.modality == MODALITY and fnmatchcase(series.description.casefold(), f"*{words}*")


def classes_of(told: Sequence[str]) -> dict[str, int]:
    """``anterior=1`` and so on. Raises: BadOption."""
    found: dict[str, int] = {}
    for one in told:
        name, _, number = one.rpartition("=")
        name = name.strip().casefold()
        if not name or name in found or not (number.strip().isdecimal() and 0 < int(number) < 256):
            raise BadOption(problem='--segment takes a segment\'s name and a class from 1 on: "anterior=1"')
        found[name] = int(number)
    return found


def reduced(data: bytes, classes: Mapping[str, int]) -> tuple[bytes, str]:
    """A SEG without its texts, whose segments have the numbers of their classes; and the series it outlines.

    Guarantees: nothing is kept but UIDs, who it is of, how the frames are stored and where they lie, and the
        frames; segments that ``classes`` does not name are not kept.
    Raises: Unusable, SegmentsUnclear.
    """
    with quiet():
        try:
            header, _ = parse(data)
            syntax = UID(header.file_meta.TransferSyntaxUID)
            if syntax.is_encapsulated or not syntax.is_little_endian:
                raise no_decoder("The segmentation is compressed.")
            kind, series = kind_of(header), referenced_series(header)
            numbers = _numbers(header, classes)
            plain = _plain(header, series)
            if kind == "BINARY":
                _renumber_frames(plain, numbers)
            else:
                _renumber_voxels(plain, numbers, _segments(header).keys())
            plain.SegmentSequence = [_item("SegmentNumber", number) for number in sorted({*numbers.values()})]
            return _written(header, plain), series
        except Unusable:
            raise
        except (ValueError, AttributeError, KeyError, TypeError, IndexError, NotImplementedError) as error:
            raise contradiction() from error


def _numbers(header: Dataset, classes: Mapping[str, int]) -> dict[int, int]:
    """Number of a segment → the class. Raises: SegmentsUnclear: a name is not there, or there twice."""
    segments = _segments(header)
    if not classes:
        return {number: number for number in segments}
    found = {number: name for number, one in segments.items() for name in _names(one) & classes.keys()}
    if Counter(found.values()) != Counter(classes.keys()):
        raise SegmentsUnclear()
    return {number: classes[name] for number, name in found.items()}


def _segments(header: Dataset) -> dict[int, Dataset]:
    return {whole(one, "SegmentNumber", 0): one for one in header.get("SegmentSequence") or ()}


def _names(segment: Dataset) -> set[str]:
    """By its label, and by what its type means."""
    kinds = segment.get("SegmentedPropertyTypeCodeSequence") or ()
    said = [text_of(segment, "SegmentLabel"), *(text_of(one, "CodeMeaning") for one in kinds)]
    return {one.casefold() for one in said if one}


def _plain(header: Dataset, series: str) -> Dataset:
    plain = Dataset()
    for name in KEPT:
        if name in header:
            plain[name] = header[name]
    plain.ReferencedSeriesSequence = [_item("SeriesInstanceUID", series)]
    for name in (SHARED, FRAMES):
        setattr(plain, name, [_frame(one) for one in header.get(name) or ()])
    return plain


def _frame(one: Dataset) -> Dataset:
    frame = Dataset()
    for group, name in KEPT_OF_FRAMES.items():
        told = one.get(group)
        if told and name in told[0]:
            setattr(frame, group, [_item(name, told[0][name].value)])
    return frame


def _item(name: str, value: object) -> Dataset:
    item = Dataset()
    setattr(item, name, value)
    return item


def _renumber_frames(plain: Dataset, numbers: Mapping[int, int]) -> None:
    """Give the frames of BINARY the numbers of their classes; what belongs to no class goes."""
    frames, size = _size(plain)
    groups = list(plain[FRAMES].value)
    shared = next(iter(plain[SHARED].value), Dataset())
    told = [_segment_of(one) or _segment_of(shared) for one in groups]
    kept = [place for place, number in enumerate(told) if number in numbers]
    if len(told) != frames:
        raise contradiction()
    if not kept:
        raise SegmentsUnclear()
    if 8 * len(plain.PixelData) < frames * size:
        raise contradiction()
    bits = np.unpackbits(np.frombuffer(plain.PixelData, np.uint8), count=frames * size, bitorder="little")
    for place in kept:
        number = numbers[told[place]]
        groups[place].SegmentIdentificationSequence = [_item("ReferencedSegmentNumber", number)]
    plain.PerFrameFunctionalGroupsSequence = [groups[place] for place in kept]
    plain.NumberOfFrames = len(kept)
    _put(plain, np.packbits(bits.reshape(frames, size)[kept].reshape(-1), bitorder="little").tobytes())


def _renumber_voxels(plain: Dataset, numbers: Mapping[int, int], known: Collection[int]) -> None:
    """Give the voxels of LABELMAP the numbers of their classes, 0 to those of no class."""
    frames, size = _size(plain)
    bits = int(plain.BitsAllocated)
    kind = np.dtype({8: "u1", 16: "<u2"}[bits])
    values = np.frombuffer(plain.PixelData, kind, frames * size)
    if not set(np.unique(values).tolist()) <= {0, *known}:
        raise contradiction()
    table = np.zeros(2**bits, kind)
    for number, target in numbers.items():
        table[number] = target
    _put(plain, table[values].tobytes())


def _size(plain: Dataset) -> tuple[int, int]:
    """Frames, and pixels of each. Raises: Unusable."""
    frames, rows, columns = frame_count(plain), whole(plain, "Rows", 0), whole(plain, "Columns", 0)
    check_pixel_count((frames, rows, columns), MAX_VOXELS)
    return frames, rows * columns


def _put(plain: Dataset, data: bytes) -> None:
    plain.PixelData = data + b"\0" * (len(data) % 2)


def _segment_of(frame: Dataset) -> int:
    told = frame.get("SegmentIdentificationSequence")
    return whole(told[0], "ReferencedSegmentNumber", 0) if told else 0


def _written(header: Dataset, plain: Dataset) -> bytes:
    file = FileDataset("", plain, preamble=b"\0" * 128, file_meta=header.file_meta)
    out = io.BytesIO()
    dcmwrite(out, file, enforce_file_format=True)
    return out.getvalue()
