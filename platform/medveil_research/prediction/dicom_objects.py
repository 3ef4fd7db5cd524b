"""DICOM SEG and SR about images that lie here as DICOM: what a viewer shows beside them.

Patient and study stand in each of them as in the image it is about: a viewer files it by that. So these are
the only files of a prediction that name anybody.

Source: PS3.3 A.51 (Segmentation IOD), A.35.3 (Comprehensive SR), PS3.16 TID 1500 and TID 1501.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medveil_imaging.sources.dicom.film import upright
from medveil_imaging.sources.dicom.header import begins_like_dicom, first, numbers, parse, text, texts
from medveil_imaging.sources.dicom.series import NO_PICTURES, NOT_SLICES
from medveil_imaging.sources.dicom.stored import PIXELS, frame_count
from medveil_imaging.sources.raw import Unusable, read_bytes

Labels = NDArray[np.uint8]
SCHEME = "99MEDVEIL"
"""Of codes for a study's own classes, which no public scheme has."""
MAKER, RESEARCH = "MedVeil", "RESEARCH ONLY"
LONGEST = 64
"""Characters of a description or a meaning (LO)."""
WITHOUT = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""Which a header must have, and may leave empty."""
UNITS = {"": "1", "year": "a", "years": "a", "mm": "mm", "cm": "cm", "ml": "mL", "kg": "kg", "%": "%"}
"""Units of a study as UCUM writes them; another one becomes an annotation."""
NEAR = 0.1
"""How far a slice may lie from its place in the volume, as a share of the gap between slices."""


@dataclass(frozen=True)
class About:
    """Which model speaks, and of what."""

    study: str
    version: str
    medveil: str
    classes: tuple[str, ...] = ()
    """Of a label map: its numbers from 1 on."""


@dataclass(frozen=True)
class Number:
    """Something measured or estimated."""

    name: str
    value: float
    unit: str = ""


def outline_object(paths: Sequence[Path], labels: Labels, affine: NDArray[np.float64], about: About) -> bytes:
    """A segmentation (BINARY) on the very frames of a series.

    Args:
        labels: (column, row, slice) with its affine in RAS mm, or of a film (row, column) as it is seen.
    Raises: Unusable: the headers do not fit the label map, or lack what the object must name.
    """
    import highdicom

    headers = [_whole(header) for header in _headers(paths)]
    thickness = float(np.linalg.norm(affine[:3, 2]))
    for header in headers:
        if "PixelSpacing" in header and not numbers(header, "SliceThickness"):
            header.SliceThickness = round(thickness, 6)
    frames, sources = (
        (_of_film(labels, headers[0]), headers[:1])
        if labels.ndim == 2
        else _on_frames(labels, affine, headers)
    )
    described = [_segment(number, name, about) for number, name in enumerate(about.classes, start=1)]
    found = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        content_label="MEDVEIL",
        **_made_by(about),
    )
    return _bytes(found)


def report_object(
    paths: Sequence[Path], numbers_found: Sequence[Number], verdicts: Sequence[tuple[str, str]], about: About
) -> bytes:
    """A measurement report (TID 1500) of what a model says of one image or series.

    Args: verdicts: what was decided, as (question, answer).
    Raises: Unusable: see :func:`outline_object`.
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes

    headers = [_whole(header) for header in _headers(paths)]
    device = sr.DeviceObserverIdentifyingAttributes(uid=generate_uid(), name=f"{MAKER} {about.version[:12]}")
    observer = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier=about.study),
        measurements=[
            sr.Measurement(name=_code(one.name), value=float(one.value), unit=_unit(one.unit))
            for one in numbers_found
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(name=_code(question), value=_code(answer))
            for question, answer in verdicts
        ],
        source_images=[
            sr.SourceImageForMeasurementGroup(
                referenced_sop_class_uid=header.SOPClassUID, referenced_sop_instance_uid=header.SOPInstanceUID
            )
            for header in headers
        ],
    )
    is_mr = text(headers[0], "Modality") == "MR"
    procedure = ("113091000", "Magnetic Resonance Imaging") if is_mr else ("168537006", "Plain X-ray")
    report = sr.MeasurementReport(
        observation_context=observer,
        procedure_reported=sr.CodedConcept(procedure[0], "SCT", procedure[1]),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    made = {k: v for k, v in _made_by(about).items() if k in SR_WORDS}
    return _bytes(sr.ComprehensiveSR(evidence=headers, content=report[0], is_complete=True, **made))


SR_WORDS = (
    "series_instance_uid",
    "series_number",
    "sop_instance_uid",
    "instance_number",
    "manufacturer",
    "series_description",
)


def _made_by(about: About) -> dict[str, Any]:
    said = f"{RESEARCH}: {MAKER} {about.study} {about.version[:8]}"
    return {
        "series_instance_uid": generate_uid(),
        "series_number": 9000,
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": about.study[:LONGEST],
        "software_versions": about.medveil[:LONGEST],
        "device_serial_number": about.version[:LONGEST],
        "series_description": said[:LONGEST],
    }


def _segment(number: int, name: str, about: About) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:LONGEST],
        segmented_property_category=highdicom.sr.CodedConcept("123037004", "SCT", "Anatomical Structure"),
        segmented_property_type=_code(name),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=about.study[:LONGEST],
            version=about.version[:LONGEST],
            family=codes.DCM.ArtificialIntelligence,
            source=MAKER,
        ),
    )


def _code(name: str) -> Any:
    """A code of the study's own; equal names have equal codes."""
    from highdicom.sr import CodedConcept

    return CodedConcept(hashlib.sha256(name.encode()).hexdigest()[:12].upper(), SCHEME, name[:LONGEST])


def _unit(unit: str) -> Any:
    from highdicom.sr import CodedConcept

    known = UNITS.get(unit.strip().casefold())
    annotation = "".join(c for c in unit if c.isascii() and c.isalnum())[:14]
    return CodedConcept(known or (f"{{{annotation}}}" if annotation else "1"), "UCUM", unit or "no units")


def _headers(paths: Sequence[Path]) -> list[Dataset]:
    """The images among these files, or in this folder: as the reader of a series takes them."""
    files = [
        file
        for path in paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.is_file() and not file.name.startswith(".") and file.name not in NOT_SLICES
    ]
    found = []
    for file in files:
        data = read_bytes(file)
        if not begins_like_dicom(data):
            continue
        header, _ = parse(data)
        if text(header, "Modality") not in NO_PICTURES and any(name in header for name in PIXELS):
            found.append(header)
    localizers = [header for header in found if "LOCALIZER" in texts(header, "ImageType")]
    return [header for header in found if header not in localizers] or found


def _whole(header: Dataset) -> Dataset:
    """With everything that an object about it repeats. Raises: Unusable."""
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not text(header, name):
            raise _cannot(f"the header has no {name}")
    for name in WITHOUT:
        if name not in header:
            setattr(header, name, "")
    if text(header, "Modality") == "MR" and not text(header, "FrameOfReferenceUID"):
        header.FrameOfReferenceUID = generate_uid(entropy_srcs=[str(header.SeriesInstanceUID)])
        header.PositionReferenceIndicator = ""
    return header


def _cannot(reason: str) -> Unusable:
    return Unusable(
        "no-dicom-object",
        f"No DICOM object could be made about this image: {reason}.",
        "Use the other files of the prediction, or export the image again with its whole header.",
    )


def _of_film(labels: Labels, header: Dataset) -> Labels:
    """A film's label map as the film is stored, which may be mirrored, lying or upside down."""
    shape = (int(header.Rows), int(header.Columns))
    numbered = np.arange(shape[0] * shape[1]).reshape(shape)
    seen = upright(cast(Any, numbered), header)[0]
    if seen.shape != labels.shape:
        raise _cannot("it has another size than its outline")
    stored = np.zeros(shape[0] * shape[1], np.uint8)
    stored[np.asarray(seen).ravel()] = labels.ravel()
    return stored.reshape(1, *shape)


def _on_frames(
    labels: Labels, affine: NDArray[np.float64], headers: list[Dataset]
) -> tuple[Labels, list[Dataset]]:
    """The label map's slices in the order of the frames, and the images that have them.

    Copies of a slice are left out, as the reader leaves them out.
    """
    if len(headers) == 1 and frame_count(headers[0]) > 1:
        places = [_position(headers[0], frame) for frame in range(frame_count(headers[0]))]
        slices = [_slice_at(place, affine, labels.shape[2]) for place in places]
        if None in slices:
            raise _cannot("its frames do not lie where its voxels do")
        return np.stack([labels[:, :, cast(int, k)].T for k in slices]), headers
    chosen: dict[int, Dataset] = {}
    for header in headers:
        number = _slice_at(_position(header, None), affine, labels.shape[2])
        if number is not None and (int(header.Columns), int(header.Rows)) == labels.shape[:2]:
            chosen.setdefault(number, header)
    if len(chosen) < labels.shape[2]:
        raise _cannot("its slices do not lie where its voxels do")
    return np.stack([labels[:, :, k].T for k in sorted(chosen)]), [chosen[k] for k in sorted(chosen)]


def _position(header: Dataset, frame: int | None) -> tuple[float, ...]:
    """Of a slice's first pixel: RAS mm; empty where the header does not say."""
    item: Dataset | None = header
    if frame is not None:
        groups = header.get("PerFrameFunctionalGroupsSequence") or []
        item = first(groups[frame], "PlanePositionSequence") if frame < len(groups) else None
    elif "ImagePositionPatient" not in header:
        groups = header.get("PerFrameFunctionalGroupsSequence") or []
        item = first(groups[0], "PlanePositionSequence") if groups else None
    found = numbers(item, "ImagePositionPatient")
    return (-found[0], -found[1], found[2]) if len(found) == 3 else ()


def _slice_at(place: tuple[float, ...], affine: NDArray[np.float64], count: int) -> int | None:
    """The slice of a volume that begins here; None if none does."""
    if not place:
        return None
    index = np.linalg.solve(affine, (*place, 1.0))[:3]
    number = round(float(index[2]))
    near = abs(index[2] - number) <= NEAR + 0.1 and abs(index[0]) <= 0.5 and abs(index[1]) <= 0.5
    return number if near and 0 <= number < count else None


def _bytes(found: Any) -> bytes:
    data = io.BytesIO()
    found.save_as(data)
    return data.getvalue()
