"""A series of DICOM slices becomes the volume that was scanned, or is refused by what is wrong with it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import EnhancedMRImageStorage

from dicom_files import block, codes, put_text, refusal, save, series_folder, slice_header
from medveil_imaging.sources.read import read_volume

VOLUME = block()
COLUMNS, ROWS, SLICES = VOLUME.shape
AFFINE = np.array([[-3.0, 0, 0, 20], [0, -2, 0, 30], [0, 0, 2, 0], [0, 0, 0, 1]])

Change = Callable[[Dataset, int], None]


def texts(**written: str) -> Change:
    def change(header: Dataset, number: int) -> None:
        for name, text in written.items():
            put_text(header, name, text)

    return change


def tags(**values: Any) -> Change:
    def change(header: Dataset, number: int) -> None:
        for name, value in values.items():
            setattr(header, name, value(number) if callable(value) else value)

    return change


def item(**values: Any) -> list[Dataset]:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return [made]


def enhanced(header: Dataset, number: int) -> None:
    """One frame a file: the geometry moves into the functional groups."""
    header.SOPClassUID, header.NumberOfFrames = EnhancedMRImageStorage, 1
    header.SharedFunctionalGroupsSequence = item(
        PixelMeasuresSequence=item(PixelSpacing=header.PixelSpacing),
        PlaneOrientationSequence=item(ImageOrientationPatient=header.ImageOrientationPatient),
        PixelValueTransformationSequence=item(RescaleSlope="2", RescaleIntercept="0", RescaleType="US"),
    )
    header.PerFrameFunctionalGroupsSequence = item(
        PlanePositionSequence=item(ImagePositionPatient=header.ImagePositionPatient)
    )
    for name in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        delattr(header, name)


def frames_file(
    path: Path, volume: Any, change: Callable[[Dataset, Dataset, int], None] | None = None
) -> Path:
    """An enhanced file of many frames; ``change`` gets file, frame's group and number."""
    header = slice_header(volume, 0)
    enhanced(header, 0)
    header.NumberOfFrames = volume.shape[2]
    header.PixelData = np.ascontiguousarray(volume.transpose(2, 1, 0)).tobytes()
    groups = []
    for number in range(volume.shape[2]):
        (group,) = item(PlanePositionSequence=item(ImagePositionPatient=[-20, -30, 2.0 * number]))
        if change:
            change(header, group, number)
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = groups
    return save(path, header)


def assert_is_the_volume(folder: Path, said: list[str], times: float = 1.0) -> None:
    volume = read_volume(folder)
    assert np.array_equal(volume.voxels, VOLUME * np.float32(times))
    assert np.allclose(volume.affine, AFFINE, atol=0.02)
    assert codes(volume) == said


@pytest.mark.parametrize(
    ("change", "said", "times"),
    [
        (tags(), [], 1),
        (enhanced, [], 2),
        (texts(PixelSpacing="2,0\\3,0"), ["decimal-comma"], 1),
        (texts(RescaleSlope="2,0", RescaleIntercept="0,0"), ["decimal-comma"], 2),
        (lambda header, number: put_text(header, "PixelSpacing", "2.0\\3.0", "UT"), [], 1),
        (tags(NumberOfFrames="1"), [], 1),
        (texts(EchoTime="12,5", AcquisitionNumber="first", TriggerTime="", SliceThickness="thin"), [], 1),
        (tags(SeriesInstanceUID=""), [], 1),
        (tags(RescaleSlope="0", RescaleIntercept="0"), ["rescale-ignored"], 1),
        (tags(WindowCenter=0, WindowWidth=0, PixelPaddingValue=60000), [], 1),
    ],
)
def test_a_series_is_the_volume_however_its_header_is_written(
    tmp_path: Path, change: Change, said: list[str], times: float
) -> None:
    assert_is_the_volume(series_folder(tmp_path / "s", VOLUME, change), said, times)


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    def change(header: Dataset, number: int) -> None:
        header.RescaleSlope, header.RescaleIntercept = 1 + number / 4, -3 * number

    steps = np.arange(SLICES)
    volume = read_volume(series_folder(tmp_path / "s", VOLUME, change))
    assert np.array_equal(volume.voxels, VOLUME * (1 + steps / 4) - 3 * steps)


def test_a_rescale_that_makes_no_sense_in_some_slices_only_is_refused(tmp_path: Path) -> None:
    change = tags(RescaleSlope=lambda number: number % 2, RescaleIntercept=0)
    assert refusal(read_volume, series_folder(tmp_path / "s", VOLUME, change)).code == "mixed-rescale"


def test_a_copy_of_a_slice_is_left_out_with_a_note(tmp_path: Path) -> None:
    folder = series_folder(tmp_path / "s", VOLUME)
    shutil.copy(folder / "IM003.dcm", folder / "IM003 (1).dcm")
    assert_is_the_volume(folder, ["slice-copies"])
    again = pydicom.dcmread(folder / "IM002.dcm")
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "1.2.99"
    again.save_as(folder / "resent.dcm")
    assert_is_the_volume(folder, ["slice-copies"])


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"EchoTime": 80}, "several echoes"),
        ({"TemporalPositionIdentifier": 2}, "several time points"),
        ({"DiffusionBValue": 1000.0}, "several diffusion weightings"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "magnitude and phase"),
        ({"AcquisitionNumber": 2}, "several acquisitions"),
        ({}, "a series over time?"),
    ],
)
def test_slices_at_one_place_are_refused_by_what_tells_them_apart(
    tmp_path: Path, other: dict[str, Any], named: str
) -> None:
    folder = series_folder(tmp_path / "s", VOLUME)
    for number in range(SLICES):
        header = slice_header(VOLUME + np.uint16(7), number)
        tags(**other)(header, number)
        save(folder / f"second{number}.dcm", header)
    refused = refusal(read_volume, folder)
    assert refused.code == "repeated-slices"
    assert named in refused.what


def test_stacks_and_echoes_of_an_enhanced_file_are_refused_by_name(tmp_path: Path) -> None:
    twice = np.concatenate([VOLUME, VOLUME + np.uint16(9)], 2)

    def two(sequence: str, **of_second: Any) -> Callable[[Dataset, Dataset, int], None]:
        def change(header: Dataset, group: Dataset, number: int) -> None:
            z = 2.0 * (number % SLICES)
            group.PlanePositionSequence = item(ImagePositionPatient=[-20, -30, z])
            values = {name: pair[number // SLICES] for name, pair in of_second.items()}
            setattr(group, sequence, item(**values))

        return change

    cases = {
        "several stacks": two("FrameContentSequence", StackID=("1", "2")),
        "several time points": two("FrameContentSequence", TemporalPositionIndex=(1, 2)),
        "several echoes": two("MREchoSequence", EffectiveEchoTime=(10.0, 80.0)),
        "several diffusion weightings": two("MRDiffusionSequence", DiffusionBValue=(0.0, 1000.0)),
    }
    for named, change in cases.items():
        refused = refusal(read_volume, frames_file(tmp_path / "a.dcm", twice, change))
        assert refused.code == "repeated-slices"
        assert named in refused.what


def test_padding_of_a_volume_is_as_dark_as_the_darkest_voxel_of_all_slices(tmp_path: Path) -> None:
    outside = np.zeros(VOLUME.shape, bool)
    outside[:3], outside[:, -2:] = True, True
    signed = np.where(outside, -32768, VOLUME).astype(np.int16)
    for of, said in (({"PixelPaddingValue": -32768}, []), ({}, ["padding-undeclared"])):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        volume = read_volume(series_folder(tmp_path / "s", signed, **of))
        assert np.array_equal(volume.voxels[~outside], VOLUME[~outside])
        assert set(volume.voxels[outside].tolist()) == {float(VOLUME[~outside].min())}
        assert codes(volume) == said


def test_dark_background_of_mr_is_no_padding(tmp_path: Path) -> None:
    narrow = (VOLUME // 20 + 900).astype(np.uint16)
    narrow[:5] = 0
    assert np.array_equal(read_volume(series_folder(tmp_path / "s", narrow)).voxels, narrow)


def test_mr_that_stores_bright_as_small_is_turned_about(tmp_path: Path) -> None:
    folder = series_folder(tmp_path / "s", 2100 - VOLUME, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_volume(folder).voxels + 2100, VOLUME)


@pytest.mark.parametrize(("gap", "decimals"), [(0.45, 1), (0.9375, 2), (6.8, 0), (1.0 / 3, 2)])
def test_positions_that_were_rounded_are_even(tmp_path: Path, gap: float, decimals: int) -> None:
    def change(header: Dataset, number: int) -> None:
        header.ImagePositionPatient = [-20, -30, round(number * gap, decimals)]

    volume = read_volume(series_folder(tmp_path / "s", VOLUME, change))
    assert np.array_equal(volume.voxels, VOLUME)
    assert abs(volume.affine[2, 2] - gap) < 0.03 * gap


@pytest.mark.parametrize("gap", [0.45, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("missing", [1, 2, 3, 4])
def test_one_missing_slice_is_noticed(tmp_path: Path, gap: float, missing: int) -> None:
    folder = series_folder(tmp_path / "s", VOLUME, gap=gap)
    (folder / f"IM{missing:03}.dcm").unlink()
    assert refusal(read_volume, folder).code == "uneven-slices"


def test_directions_of_two_decimals_are_directions(tmp_path: Path) -> None:
    normal = np.cross([0.7, 0.7, 0], [0, 0, -1.0])

    def change(header: Dataset, number: int) -> None:
        header.ImageOrientationPatient = [0.7, 0.7, 0, 0, 0, -1]
        header.ImagePositionPatient = np.round(normal / np.linalg.norm(normal) * 2 * number, 3).tolist()

    volume = read_volume(series_folder(tmp_path / "s", VOLUME, change))
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [3, 2, 2], rtol=1e-3)


def test_a_stack_that_leans_over_is_refused_by_name(tmp_path: Path) -> None:
    change = tags(ImagePositionPatient=lambda number: [-20, -30 + 0.6 * number, 2.0 * number])
    assert refusal(read_volume, series_folder(tmp_path / "s", VOLUME, change)).code == "leaning-slices"


def test_localizers_reports_and_a_viewers_files_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = series_folder(tmp_path / "s", VOLUME)
    scout = slice_header(VOLUME, 0)
    scout.ImageType, scout.ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [0, 1, 0, 0, 0, -1]
    scout.SeriesInstanceUID = "1.2.5"
    save(folder / "scout.dcm", scout)
    assert_is_the_volume(folder, ["localizers"])
    state = slice_header(VOLUME, 0, Modality="PR", PixelData=None, SeriesInstanceUID="1.2.6")
    save(folder / "state.dcm", state)
    (folder / "VERSION").write_text("made up viewer 1.0\n")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert_is_the_volume(folder, ["other-files", "localizers"])
    save(folder / "cut.dcm", slice_header(VOLUME, 0, PixelData=None))
    assert refusal(read_volume, folder).code == "no-pixels"


def test_slices_of_two_patients_are_no_volume(tmp_path: Path) -> None:
    folder = series_folder(tmp_path / "s", VOLUME, tags(PatientID=lambda number: str(number // 3 + 1)))
    assert refusal(read_volume, folder).code == "several-patients"
    same = read_volume(series_folder(tmp_path / "t", VOLUME))
    assert same.patient_mark is not None
    assert same.patient_mark == read_volume(frames_file(tmp_path / "a.dcm", VOLUME)).patient_mark


def test_a_folder_may_hold_files_of_many_frames_in_one_or_several_parts(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    frames_file(folder / "a.dcm", VOLUME)
    assert_is_the_volume(folder, [], times=2)
    (folder / "a.dcm").unlink()

    def later(header: Dataset, group: Dataset, number: int) -> None:
        group.PlanePositionSequence = item(ImagePositionPatient=[-20, -30, 2.0 * (number + 4)])

    frames_file(folder / "a.dcm", VOLUME[:, :, :4])
    frames_file(folder / "b.dcm", VOLUME[:, :, 4:], later)
    assert_is_the_volume(folder, [], times=2)


def test_float_pixels_are_read_and_what_is_no_number_is_padding(tmp_path: Path) -> None:
    values = VOLUME.astype(np.float32) / 7
    values[0, 0, 0] = np.nan

    def change(header: Dataset, number: int) -> None:
        for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(header, name)
        header.BitsAllocated = 32
        header.FloatPixelData = np.ascontiguousarray(values[:, :, number].T).tobytes()

    volume = read_volume(series_folder(tmp_path / "s", VOLUME, change))
    assert np.array_equal(volume.voxels.ravel()[1:], values.ravel()[1:])
    assert volume.voxels[0, 0, 0] == np.nanmin(values)


def test_slices_without_a_preamble_are_read_with_a_note(tmp_path: Path) -> None:
    for implicit, little in ((True, True), (False, True), (False, False)):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        folder = series_folder(tmp_path / "s", VOLUME)
        for path in folder.iterdir():
            header = pydicom.dcmread(path)
            bare = Dataset({element.tag: element for element in header})
            if not little:
                bare.PixelData = np.frombuffer(bare.PixelData, "<u2").astype(">u2").tobytes()
            out = DicomBytesIO(io.BytesIO().getvalue())
            out.is_implicit_VR, out.is_little_endian = implicit, little
            write_dataset(out, bare)
            path.write_bytes(out.getvalue())
        assert_is_the_volume(folder, ["no-preamble"])


@pytest.mark.parametrize("written", ["2.0", "2.0\\abc", "2.0,3.0", "-2\\2", "0\\0", "", "1e400\\2"])
def test_a_spacing_that_is_none_is_refused_by_name(tmp_path: Path, written: str) -> None:
    folder = series_folder(tmp_path / "s", VOLUME, texts(PixelSpacing=written))
    assert refusal(read_volume, folder).code == "bad-geometry"


def test_the_index_of_a_disc_is_named(tmp_path: Path) -> None:
    index = slice_header(VOLUME, 0, SOPClassUID="1.2.840.10008.1.3.10", PixelData=None)
    assert refusal(read_volume, save(tmp_path / "INDEX", index)).code == "disc-index"
