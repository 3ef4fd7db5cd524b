"""Makes DICOM SEG objects of the series that :mod:`dicom_files` makes, by hand or by highdicom."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from dicom_files import block, header_of

FRAME = {"FrameOfReferenceUID": "1.2.8", "StudyInstanceUID": "1.2.9"}
Labels = np.ndarray[Any, np.dtype[np.uint8]]


def framed(header: Dataset, number: int) -> None:
    """A slice as scanners write it."""
    for name, value in FRAME.items():
        setattr(header, name, value)


def outlined() -> Labels:
    """Two structures in the slices of :func:`block`; the last slice is empty."""
    labels = (block() > 600).astype(np.uint8) + (block() > 1200)
    labels[:, :, -1] = 0
    return np.asarray(labels, np.uint8)


def item(**values: Any) -> Dataset:
    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found


def frame_of(layer: int, segment: int | None) -> Dataset:
    frame = item(PlanePositionSequence=[item(ImagePositionPatient=[-20, -30, 2.0 * layer])])
    if segment:
        frame.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=segment)]
    return frame


def seg(labels: Labels, kind: str = "BINARY") -> Dataset:
    """A SEG of a label map, written by hand: frames without anything in them are left out."""
    rows: list[tuple[Labels, int, int | None]] = []
    for layer in reversed(range(labels.shape[2])):
        plane = labels[:, :, layer].T
        if kind == "LABELMAP":
            rows.append((plane, layer, None))
        rows += [(plane == k, layer, k) for k in (1, 2) if kind == "BINARY" and (plane == k).any()]
    pixels = np.stack([row[0] for row in rows]).astype(np.uint8)
    header = header_of(pixels[0], Modality="SEG", SegmentationType=kind, **FRAME)
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66." + ("4" if kind == "BINARY" else "7")
    header.SOPInstanceUID, header.SeriesInstanceUID = "1.2.3.99", "1.2.4.99"
    header.NumberOfFrames = len(rows)
    if kind == "BINARY":
        header.BitsAllocated, header.BitsStored, header.HighBit = 1, 1, 0
        packed = np.packbits(pixels.reshape(-1), bitorder="little").tobytes()
        header.PixelData = packed + b"\0" * (len(packed) % 2)
    else:
        header.PixelData = pixels.tobytes()
    header.SegmentSequence = [item(SegmentNumber=k, SegmentLabel=f"part {k}") for k in (1, 2)]
    header.ReferencedSeriesSequence = [item(SeriesInstanceUID="1.2.4")]
    orientation = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    measures = item(PixelSpacing=[2.0, 3.0])
    header.SharedFunctionalGroupsSequence = [
        item(PlaneOrientationSequence=[orientation], PixelMeasuresSequence=[measures])
    ]
    header.PerFrameFunctionalGroupsSequence = [frame_of(layer, segment) for _, layer, segment in rows]
    return header


def highdicom_seg(sources: list[Dataset], labels: Labels, kind: str, syntax: str) -> Any:
    """What highdicom writes of a label map (column, row, slice) on the slices of a series."""
    import highdicom
    from pydicom.sr.codedict import codes

    for header in sources:
        header.SliceThickness = 2.0
        for name in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            setattr(header, name, header.get(name, ""))
        for name in ("StudyDate", "StudyTime", "SeriesNumber", "InstanceNumber"):
            setattr(header, name, header.get(name, None))
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"part {number}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Brain,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in (1, 2)
    ]
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=np.transpose(labels, (2, 1, 0)),
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=highdicom.UID(),
        series_number=9,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="Test",
        manufacturer_model_name="Test",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=syntax,
    )
