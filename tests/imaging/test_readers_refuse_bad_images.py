"""A reader gives pixels and geometry, or a named refusal; never a crash, a tag or a guess."""

from __future__ import annotations

import gzip
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    MPEG2MPML,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
)

from medveil_imaging.sources.formats import FORMATS, format_of
from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.read import read_film, read_label_map, read_volume
from tries import tries

PIXELS = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24)
NAME = "Quillfeather^Ottoline"


def dicom(path: Path, pixels: np.ndarray[Any, Any] = PIXELS, *, syntax: str = "", **tags: Any) -> Path:
    """A DICOM file with a fictional patient; ``tags`` overwrite or, with None, remove."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
    header.Modality, header.PatientName, header.SeriesInstanceUID = "CR", NAME, "1.2.4"
    header.Rows, header.Columns = pixels.shape[:2]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.PixelData = pixels.astype("<u2").tobytes()
    for tag, value in tags.items():
        if value is None:
            header.pop(tag, None)
        else:
            setattr(header, tag, value)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, "1.2.3"
    path.parent.mkdir(parents=True, exist_ok=True)
    FileDataset(str(path), header, file_meta=meta, preamble=b"\0" * 128).save_as(path)
    return path


def mr_slice(path: Path, z: float, value: int = 0, **tags: Any) -> Path:
    geometry: dict[str, Any] = {
        "Modality": "MR",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [-10.0, -20.0, z],
        "PixelSpacing": [2.0, 3.0],
    }
    return dicom(path, PIXELS + np.uint16(value), **(geometry | tags))


def series(folder: Path, *places: float, **tags: Any) -> Path:
    for number, z in enumerate(places):
        mr_slice(folder / f"{number}.dcm", z, value=int(100 * z), **tags)
    return folder


def nifti(path: Path, voxels: Any = None, affine: Any = None) -> Path:
    data = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32) if voxels is None else voxels
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def refusal(reader: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(Unusable) as caught:
        reader(path)
    assert NAME not in str(caught.value)
    return caught.value.code


def test_a_film_is_read_with_its_rescale(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", RescaleSlope=2.0, RescaleIntercept=-5.0, RescaleType="US")
    assert np.array_equal(read_film(path).pixels, PIXELS * 2.0 - 5)


def test_a_film_is_windowed_as_its_header_says(tmp_path: Path) -> None:
    film = read_film(dicom(tmp_path / "a.dcm", WindowCenter=240, WindowWidth=301)).pixels
    assert np.array_equal(film, np.clip(PIXELS, 89.5, 389.5))


def test_dense_tissue_is_bright_whatever_the_photometric_interpretation(tmp_path: Path) -> None:
    plain = read_film(dicom(tmp_path / "a.dcm")).pixels
    inverse = read_film(
        dicom(tmp_path / "b.dcm", PIXELS.max() - PIXELS, PhotometricInterpretation="MONOCHROME1")
    ).pixels
    assert np.array_equal(plain - plain.mean(), inverse - inverse.mean())


def test_a_gzipped_dicom_file_is_read(tmp_path: Path) -> None:
    packed = tmp_path / "a.dcm.gz"
    packed.write_bytes(gzip.compress(dicom(tmp_path / "a.dcm").read_bytes()))
    assert np.array_equal(read_film(packed).pixels, PIXELS)


@pytest.mark.parametrize(
    ("code", "tags"),
    [
        ("no-pixels", {"PixelData": None}),
        ("no-pixels", {"Rows": None}),
        ("wrong-modality", {"Modality": "MR"}),
        ("wrong-modality", {"Modality": "SEG"}),
        ("several-frames", {"NumberOfFrames": 3}),
        ("burned-in", {"BurnedInAnnotation": "YES"}),
        ("colour-image", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("cut-short", {"PixelData": PIXELS.astype("<u2").tobytes()[:-40]}),
        ("too-large", {"Rows": 60000, "Columns": 60000}),
        ("bad-header", {"Rows": 0}),
        ("contradiction", {"syntax": JPEGLosslessSV1}),
        ("no-decoder", {"syntax": MPEG2MPML}),
        ("unreadable-image", {"syntax": RLELossless}),
    ],
)
def test_unusable_dicom_films_are_refused_by_name(tmp_path: Path, code: str, tags: dict[str, Any]) -> None:
    if tags.get("syntax"):
        tags = tags | {"PixelData": pydicom.encaps.encapsulate([b"\xff\xd8 not a stream"])}
    assert refusal(read_film, dicom(tmp_path / "a.dcm", **tags)) == code


def test_a_file_cut_inside_its_pixels_is_never_padded(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm")
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        assert refusal(read_film, path) in {
            "unreadable-image",
            "cut-short",
            "no-pixels",
            "no-transfer-syntax",
        }


def test_a_film_that_is_not_called_one_is_read_with_a_note(tmp_path: Path) -> None:
    film = read_film(dicom(tmp_path / "a.dcm", Modality="OT"))
    assert [note.code for note in film.notes] == ["modality-unclear"]


def test_printed_text_is_noticed_even_if_the_header_denies_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(100, 4000, (200, 300), dtype=np.uint16)
    pixels[:24] = 0
    assert read_film(dicom(tmp_path / "a.dcm", pixels)).notes == ()
    pixels[6:18, 20:24] = 4095  # a side marker is not a name
    assert read_film(dicom(tmp_path / "b.dcm", pixels)).notes == ()
    pixels[6:18, 20:280] = np.tile(np.repeat([4095, 0], 4), 33)[:260]
    for name, picture in (("c.dcm", pixels), ("d.dcm", pixels[::-1])):
        film = read_film(dicom(tmp_path / name, picture, BurnedInAnnotation="NO"))
        assert [note.code for note in film.notes] == ["possible-writing"]


def test_a_deflate_bomb_is_refused_before_it_is_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medveil_imaging.sources.dicom.header.MAX_FILE_BYTES", 500)
    path = dicom(tmp_path / "a.dcm", syntax=DeflatedExplicitVRLittleEndian)
    assert refusal(read_film, path) == "too-large"


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medveil_imaging.sources.raw.MAX_FILE_BYTES", 1000)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(100_000)))
    assert refusal(read_volume, path) == "too-large"


@pytest.mark.parametrize(
    ("code", "content"),
    [
        ("empty-file", b""),
        ("unknown-format", b"GIF89a" + bytes(400)),
        ("unknown-format", b"hello"),
        ("no-transfer-syntax", bytes(128) + b"DICM" + b"\xff" * 50),
        ("unreadable-file", b"\x1f\x8b" + b"\0" * 30),
        ("analyze-format", struct.pack("<i", 348) + bytes(344)),
        ("nifti-pair", struct.pack("<i", 348) + bytes(340) + b"ni1\0"),
        ("freesurfer-format", b"\0\0\0\x01" + bytes(400)),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, code: str, content: bytes) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    assert refusal(read_film, path) == refusal(read_volume, path) == code


def test_grey_pictures_are_read_even_when_stored_in_colour(tmp_path: Path) -> None:
    grey = (PIXELS % 256).astype(np.uint8)
    for name, picture in {
        "a.png": Image.fromarray(grey),
        "b.png": Image.fromarray(np.stack([grey] * 3, 2)),
        "c.png": Image.fromarray(PIXELS * 100),
    }.items():
        picture.save(tmp_path / name)
    assert np.array_equal(read_film(tmp_path / "a.png").pixels, grey)
    assert np.array_equal(read_film(tmp_path / "b.png").pixels, grey)
    assert np.array_equal(read_film(tmp_path / "c.png").pixels, PIXELS * 100)
    Image.fromarray(np.stack([grey] * 3, 2)).save(tmp_path / "d.jpg")
    assert read_film(tmp_path / "d.jpg").pixels.shape == grey.shape


def test_colour_pictures_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert refusal(read_film, tmp_path / "a.png") == "colour-image"
    Image.fromarray(colour[:, :, 0]).save(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:-300])
    assert refusal(read_film, tmp_path / "c.jpg") == "unreadable-image"
    assert refusal(read_volume, tmp_path / "b.jpg") == "wrong-format"
    (tmp_path / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    assert refusal(read_film, tmp_path / "d.png") == "unreadable-image"


def test_a_picture_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    length, check = struct.pack(">I", len(header)), struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + length + chunk + check)
    assert refusal(read_film, tmp_path / "a.png") in {"too-large", "unreadable-image"}


def test_slices_are_stacked_by_position_and_placed_in_ras(tmp_path: Path) -> None:
    volume = read_volume(series(tmp_path / "s", 5.0, 1.0, 3.0))
    assert volume.voxels.shape == (24, 20, 3)
    assert volume.voxels[0, 0].tolist() == [100, 300, 500]
    assert volume.voxels[4, 2, 0] == PIXELS[2, 4] + 100
    # DICOM (left, posterior, superior) = (-10 + 3 column, -20 + 2 row, 1 + 2 slice); RAS turns the first two.
    assert np.allclose(volume.affine @ [4, 2, 1, 1], [10 - 12, 20 - 4, 3, 1])


@pytest.mark.parametrize(
    ("code", "places"),
    [
        ("uneven-slices", (0.0, 1.0, 3.0)),
        ("wrong-dimensions", (0.0,)),
    ],
)
def test_series_with_missing_or_repeated_slices_are_refused(
    tmp_path: Path, code: str, places: tuple[float, ...]
) -> None:
    assert refusal(read_volume, series(tmp_path / "s", *places)) == code


@pytest.mark.parametrize(
    ("code", "tags"),
    [
        ("mixed-geometry", {"PixelSpacing": [2.0, 3.1]}),
        ("mixed-geometry", {"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}),
        ("several-series", {"SeriesInstanceUID": "1.2.99"}),
        ("wrong-modality", {"Modality": "CT"}),
        ("bad-geometry", {"ImagePositionPatient": None}),
        ("mosaic", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}),
        ("no-pixels", {"PixelData": None}),
        ("uneven-slices", {"ImagePositionPatient": [-9.0, -20.0, 2.0]}),
    ],
)
def test_one_odd_slice_refuses_the_series(tmp_path: Path, code: str, tags: dict[str, Any]) -> None:
    series(tmp_path / "s", 0.0, 1.0)
    mr_slice(tmp_path / "s" / "9.dcm", 2.0, **tags)
    assert refusal(read_volume, tmp_path / "s") == code


def test_a_series_with_a_foreign_file_or_a_link_outside_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", 0.0, 1.0)
    (folder / "2.dcm").symlink_to(mr_slice(tmp_path / "elsewhere.dcm", 2.0))
    assert refusal(read_volume, folder) == "mixed-folder"
    (folder / "2.dcm").write_text("no image, but called like one")
    assert refusal(read_volume, folder) == "mixed-folder"
    (folder / "2.dcm").unlink()
    (folder / "deeper").mkdir()
    assert refusal(read_volume, folder) == "mixed-folder"


def enhanced(path: Path, places: tuple[float, ...], *, slope: float = 1.0) -> Path:
    frames, shared = [], Dataset()
    for z in places:
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [0.0, 0.0, z]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    orientation, measures, scale = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing = [1.0, 1.0]
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = slope, 0.0, "US"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [scale]
    pixels = np.concatenate([PIXELS + np.uint16(1000 * z) for z in places])
    return dicom(
        path,
        pixels,
        Rows=20,
        Modality="MR",
        NumberOfFrames=len(places),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )


def test_an_enhanced_file_is_a_volume(tmp_path: Path) -> None:
    volume = read_volume(enhanced(tmp_path / "a.dcm", (2.0, 0.0, 1.0), slope=0.5))
    assert volume.voxels.shape == (24, 20, 3)
    assert volume.voxels[0, 0].tolist() == [0, 500, 1000]


def test_frames_without_geometry_are_refused(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", np.concatenate([PIXELS] * 2), Rows=20, Modality="MR", NumberOfFrames=2)
    assert refusal(read_volume, path) == "bad-geometry"
    assert refusal(read_volume, mr_slice(tmp_path / "b.dcm", 0.0)) == "wrong-dimensions"


def test_nifti_volumes_keep_their_affine_and_drop_trailing_ones(tmp_path: Path) -> None:
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    voxels = np.random.default_rng(1).random((5, 6, 7, 1)).astype(np.float32)
    volume = read_volume(nifti(tmp_path / "a.nii.gz", voxels, affine))
    assert np.array_equal(volume.voxels, voxels[..., 0])
    assert np.array_equal(volume.affine, affine)
    nibabel.save(nibabel.Nifti2Image(voxels[..., 0], affine), tmp_path / "b.nii")
    assert np.array_equal(read_volume(tmp_path / "b.nii").voxels, voxels[..., 0])


@pytest.mark.parametrize(
    ("code", "voxels"),
    [
        ("wrong-dimensions", np.ones((4, 4, 4, 2), np.float32)),
        ("wrong-dimensions", np.ones((4, 4, 4, 1, 2), np.float32)),
        ("wrong-dimensions", np.ones((4, 4), np.float32)),
        ("constant-image", np.ones((4, 4, 4), np.float32)),
        ("not-finite", np.where(np.arange(64).reshape(4, 4, 4) == 5, np.nan, 1).astype(np.float32)),
        ("not-finite", np.where(np.arange(64).reshape(4, 4, 4) == 5, np.inf, 1).astype(np.float32)),
        ("complex-image", np.ones((4, 4, 4), np.complex64)),
    ],
)
def test_unusable_volumes_are_refused_by_name(tmp_path: Path, code: str, voxels: Any) -> None:
    assert refusal(read_volume, nifti(tmp_path / "a.nii.gz", voxels)) == code


def test_cut_and_spoiled_nifti_files_are_refused(tmp_path: Path) -> None:
    packed = nifti(tmp_path / "a.nii.gz").read_bytes()
    for share in (0.4, 0.99):
        (tmp_path / "b.nii.gz").write_bytes(packed[: int(share * len(packed))])
        assert refusal(read_volume, tmp_path / "b.nii.gz") == "unreadable-file"
    plain = gzip.decompress(packed)
    (tmp_path / "c.nii").write_bytes(plain[:-8])
    assert refusal(read_volume, tmp_path / "c.nii") == "cut-short"
    (tmp_path / "d.nii").write_bytes(plain[:42] + struct.pack("<3h", 30000, 30000, 30000) + plain[48:])
    assert refusal(read_volume, tmp_path / "d.nii") == "too-large"
    flat = struct.pack("<12f", *np.diag([1.0, 1, 0, 1])[:3].ravel())
    (tmp_path / "e.nii").write_bytes(plain[:280] + flat + plain[328:])
    assert refusal(read_volume, tmp_path / "e.nii") == "bad-geometry"
    assert refusal(read_film, nifti(tmp_path / "f.nii")) == "wrong-format"


def test_two_geometries_and_none_are_noted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(0).random((5, 5, 5)), np.eye(4))
    image.set_sform(np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 50, code=1)
    image.set_qform(np.eye(4), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert [note.code for note in volume.notes] == ["two-geometries"]
    assert volume.affine[0, 3] == 50
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "b.nii")
    assert [note.code for note in read_volume(tmp_path / "b.nii").notes] == ["no-orientation"]


def test_an_empty_label_map_is_readable(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", np.zeros((4, 4, 4), np.uint8))
    assert read_label_map(path).voxels.max() == 0


def test_no_warning_and_no_log_line_gets_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = dicom(tmp_path / "a.dcm")
    loud = path.read_bytes().replace(b"PN" + struct.pack("<H", 22), b"DA" + struct.pack("<H", 22))
    assert loud != path.read_bytes()
    path.write_bytes(loud)  # the name now sits in a date: pydicom would quote it in a warning
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert read_film(path).pixels.shape == PIXELS.shape
    said = capfd.readouterr()
    assert not heard
    assert "Quillfeather" not in caplog.text + said.out + said.err


@settings(max_examples=tries(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["dcm", "nii", "png"]),
    place=st.integers(0, 5000),
    junk=st.binary(min_size=1, max_size=12),
    keep=st.floats(0.2, 1.0),
)
def test_spoiled_bytes_never_raise_anything_but_a_refusal(
    tmp_path: Path, kind: str, place: int, junk: bytes, keep: float
) -> None:
    path = tmp_path / f"image.{kind}"
    if kind == "dcm":
        dicom(path)
    elif kind == "nii":
        nifti(path)
    else:
        buffer = io.BytesIO()
        Image.fromarray((PIXELS % 256).astype(np.uint8)).save(buffer, "png")
        path.write_bytes(buffer.getvalue())
    data = path.read_bytes()
    at = place % len(data)
    path.write_bytes((data[:at] + junk + data[at + len(junk) :])[: int(keep * len(data))])
    for reader in (read_film, read_volume, read_label_map):
        try:
            image = reader(path)
        except Unusable:
            continue
        assert np.asarray(image.pixels if hasattr(image, "pixels") else image.voxels).size > 0


def test_a_preamble_that_looks_like_another_format_does_not_hide_a_dicom_file(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm")
    plain = read_film(path).pixels
    data = bytearray(path.read_bytes())
    data[:8] = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(data)
    assert np.array_equal(read_film(path).pixels, plain)


def test_every_format_reads_something_and_knows_no_other_formats_files() -> None:
    begins = {"picture": b"\xff\xd8\xff", "dicom": bytes(128) + b"DICM", "nifti": bytes(344) + b"n+1\0"}
    begins["idx"] = b"\0\0\x08\x03" + bytes(12)
    assert set(FORMATS) == set(begins)
    for name, data in begins.items():
        assert format_of(data) is FORMATS[name]
        assert FORMATS[name].film or FORMATS[name].volume
    assert format_of(b"") is None
