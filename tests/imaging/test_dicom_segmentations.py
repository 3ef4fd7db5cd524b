"""A DICOM SEG is the label map it was made from, on its series' voxels, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from dicom_files import block, save, series_folder
from dicom_segs import framed, highdicom_seg, item, outlined, seg
from medveil_imaging.sources.label_maps import checked_labels
from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.read import Wanted, read_label_map, read_volume
from medveil_imaging.sources.workers import Workers


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return series_folder(tmp_path / "series", block(), framed)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_segmentation_is_the_label_map_it_was_made_from(
    kind: str, syntax: str, series: Path, tmp_path: Path
) -> None:
    labels = outlined()
    path = save(tmp_path / "a.dcm", seg(labels, kind), syntax)
    read, image = read_label_map(path, series), read_volume(series)
    assert np.array_equal(read.voxels, labels)
    checked, notes = checked_labels(image, read, 3)
    assert np.array_equal(checked.voxels, labels)
    assert notes == ()


@pytest.mark.slow
def test_a_confined_reader_lays_a_segmentation_on_its_series(series: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", seg(outlined()))
    with closing(Workers(1)) as readers:
        ((_, read),) = readers([None], lambda _: [Wanted("label map", path, series)])
    assert not isinstance(read, Unusable)
    assert np.array_equal(read[0].voxels, outlined())  # type: ignore[union-attr]


def drop_reference(header: Dataset) -> None:
    del header.ReferencedSeriesSequence


def overlap(header: Dataset) -> None:
    frames = header.PerFrameFunctionalGroupsSequence
    frames[1].PlanePositionSequence = frames[0].PlanePositionSequence
    header.PixelData = b"\xff" * len(header.PixelData)


def move(header: Dataset, *position: float) -> None:
    frame = header.PerFrameFunctionalGroupsSequence[0]
    frame.PlanePositionSequence[0].ImagePositionPatient = list(position)


def tilt(header: Dataset) -> None:
    shared = header.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 0.966, 0.259]


def space(header: Dataset) -> None:
    header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.5, 3.0]


def change(name: str, value: Any) -> Callable[[Dataset], None]:
    return lambda header: setattr(header, name, value)


BAD = {
    "fractional": (change("SegmentationType", "FRACTIONAL"), "segmentation-kind"),
    "of another series": (
        change("ReferencedSeriesSequence", [item(SeriesInstanceUID="1.2.5")]),
        "segmentation-series",
    ),
    "of no series": (drop_reference, "segmentation-series"),
    "in another frame of reference": (
        change("FrameOfReferenceUID", "1.2.7"),
        "segmentation-frame-of-reference",
    ),
    "of another patient": (change("PatientID", "4712"), "segmentation-patient"),
    "tilted": (tilt, "segmentation-planes"),
    "with other spacing": (space, "segmentation-planes"),
    "between two slices": (lambda header: move(header, -20, -30, 9), "segmentation-planes"),
    "moved in the plane": (lambda header: move(header, -18, -30, 8), "segmentation-planes"),
    "outside of the series": (lambda header: move(header, -20, -30, 12), "segmentation-planes"),
    "with overlapping segments": (overlap, "segmentation-overlap"),
    "with a number that no segment has": (
        change("SegmentSequence", [item(SegmentNumber=1)]),
        "contradiction",
    ),
    "cut short": (change("PixelData", b"\1\2"), "unreadable-image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_segmentation_that_cannot_be_laid_on_its_series_is_refused(
    name: str, series: Path, tmp_path: Path
) -> None:
    spoil, code = BAD[name]
    header = seg(outlined())
    spoil(header)
    path = save(tmp_path / "a.dcm", header)
    with pytest.raises(Unusable) as refused:
        read_label_map(path, series)
    assert refused.value.code == code
    assert "4711" not in str(refused.value)
    assert refused.value.remedy


def test_a_segmentation_of_an_image_that_is_no_series_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", seg(outlined()))
    (tmp_path / "image.nii").write_bytes(b"\0" * 400)
    for image in (None, tmp_path / "image.nii"):
        with pytest.raises(Unusable) as refused:
            read_label_map(path, image)
        assert refused.value.code == "segmentation-image"


@pytest.mark.slow  # it loads highdicom
@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", ExplicitVRLittleEndian),
        ("LABELMAP", ExplicitVRLittleEndian),
        ("LABELMAP", RLELossless),
    ],
)
def test_what_highdicom_writes_is_read_bit_for_bit(kind: str, syntax: str, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    folder = series_folder(tmp_path / "series", block(), framed)
    path = tmp_path / "a.dcm"
    sources = [dcmread(one) for one in sorted(folder.iterdir())]
    highdicom_seg(sources, outlined(), kind, syntax).save_as(path)
    assert np.array_equal(read_label_map(path, folder).voxels, outlined())
