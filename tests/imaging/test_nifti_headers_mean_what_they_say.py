"""NIfTI: values as nibabel reads them, places by the standard, and no byte of a header for a voxel."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.quaternions import quat2mat

from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.read import read_volume

VOXELS = np.random.default_rng(0).integers(20, 2000, (6, 5, 4)).astype(np.int16)
AFFINE = np.diag([1.5, 1.5, 2.0, 1.0])
AFFINE[:3, 3] = -18, -15, -16
# Places in a NIfTI-1 header.
DIM, DATATYPE, BITPIX, PIXDIM, OFFSET, SCALE, UNITS, CODES, QUATERNION, SROW = (
    40, 70, 72, 76, 108, 112, 123, 252, 256, 280,
)  # fmt: skip
Edit = Callable[[bytearray], object]


def put(*edits: tuple[int, str, tuple[Any, ...]]) -> Edit:
    def edit(raw: bytearray) -> None:
        for place, kind, values in edits:
            struct.pack_into(f"<{len(values)}{kind}", raw, place, *values)

    return edit


def written(
    path: Path, edit: Edit | None = None, voxels: Any = VOXELS, kind: Any = nibabel.Nifti1Image
) -> Path:
    image = kind(voxels, AFFINE)
    image.header.set_xyzt_units("mm")
    raw = bytearray(image.to_bytes())
    changed = edit(raw) if edit else None
    path.write_bytes(bytes(changed if isinstance(changed, bytes | bytearray) else raw))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(Unusable) as caught:
        read_volume(path)
    return caught.value.code


def told(path: Path) -> list[str]:
    return [note.code for note in read_volume(path).notes]


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("second", [False, True])
def test_values_are_nibabels_whatever_the_type_and_the_byte_order(
    tmp_path: Path, kind: str, order: str, second: bool
) -> None:
    family = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    header = family.header_class(endianness=order)
    header.set_data_dtype(np.dtype(order + kind))
    header.set_slope_inter(-0.5, 7.0)
    image = family(np.abs(VOXELS % 100).astype(kind), AFFINE, header)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"made up"))
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    volume = read_volume(tmp_path / "a.nii")
    independent = nibabel.load(tmp_path / "a.nii")
    assert np.allclose(volume.voxels, independent.get_fdata(), rtol=1e-6)
    assert np.allclose(volume.affine, independent.affine)
    assert volume.notes == ()


@pytest.mark.parametrize("slope", [np.nan, 0.0, np.inf])
def test_a_slope_that_says_nothing_scales_nothing(tmp_path: Path, slope: float) -> None:
    path = written(tmp_path / "a.nii", put((SCALE, "f", (slope, 100.0))))
    assert np.array_equal(read_volume(path).voxels, VOXELS)


def test_a_slope_with_an_impossible_intercept_is_refused(tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "a.nii", put((SCALE, "f", (1.0, np.nan))))) == "bad-scaling"


def test_voxels_without_an_offset_are_read_from_behind_the_header_with_a_note(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nii", put((OFFSET, "f", (0.0,))))
    assert np.array_equal(read_volume(path).voxels, VOXELS)
    assert told(path) == ["no-offset"]


def test_voxels_without_an_offset_are_read_from_behind_the_extensions(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"made up, of some length"))
    raw = bytearray(image.to_bytes())
    assert struct.unpack_from("<f", raw, OFFSET)[0] > 352
    put((OFFSET, "f", (0.0,)))(raw)
    (tmp_path / "a.nii").write_bytes(raw)
    assert np.array_equal(read_volume(tmp_path / "a.nii").voxels, VOXELS)


def without_flags(raw: bytearray) -> bytes:
    """The four bytes behind the header left out, and the offset moved with them."""
    put((OFFSET, "f", (348.0,)))(raw)
    return bytes(raw[:348] + raw[352:])


def odd(raw: bytearray) -> bytes:
    put((OFFSET, "f", (361.0,)))(raw)
    return bytes(raw[:352] + bytes(9) + raw[352:])


@pytest.mark.parametrize("edit", [without_flags, odd])
def test_an_unusual_offset_that_fits_the_file_is_obeyed(tmp_path: Path, edit: Edit) -> None:
    path = written(tmp_path / "a.nii", edit)
    assert np.array_equal(read_volume(path).voxels, VOXELS)


@pytest.mark.parametrize("offset", [1.0, 176.0, 348.0, 352.5, -352.0, np.nan, np.inf])
def test_an_offset_into_the_header_is_refused(tmp_path: Path, offset: float) -> None:
    assert refusal(written(tmp_path / "a.nii", put((OFFSET, "f", (offset,))))) == "contradiction"


def test_an_offset_into_an_extension_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"made up"))
    raw = bytearray(image.to_bytes())
    put((OFFSET, "f", (352.0,)))(raw)
    (tmp_path / "a.nii").write_bytes(raw)
    assert refusal(tmp_path / "a.nii") == "contradiction"


def test_a_voxel_size_other_than_the_sforms_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nii", put((PIXDIM, "f", (1.0, 0.5, 0.5, 5.0))))
    assert told(path) == ["two-geometries"]
    assert np.allclose(read_volume(path).affine, AFFINE)


def test_a_quaternion_longer_than_one_by_rounding_is_read(tmp_path: Path) -> None:
    turned = put((CODES, "h", (1, 0)), (QUATERNION, "f", (0.0, 0.0, 1.0000025, 3.0, 4.0, 5.0)))
    affine = read_volume(written(tmp_path / "a.nii", turned)).affine
    assert np.allclose(affine, [[-1.5, 0, 0, 3], [0, -1.5, 0, 4], [0, 0, 2, 5], [0, 0, 0, 1]], atol=1e-4)


@pytest.mark.parametrize("sign", [-1.0, 0.0, 1.0])
def test_a_qform_is_read_as_the_standard_says(tmp_path: Path, sign: float) -> None:
    edit = put(
        (CODES, "h", (1, 0)), (PIXDIM, "f", (sign,)), (QUATERNION, "f", (0.1, -0.5, 0.3, 3.0, 4.0, 5.0))
    )
    turn = quat2mat([np.sqrt(1 - 0.35), 0.1, -0.5, 0.3]) * (1.5, 1.5, -2.0 if sign < 0 else 2.0)
    volume = read_volume(written(tmp_path / "a.nii", edit))
    assert np.allclose(volume.affine[:3, :3], turn, atol=1e-6)
    assert volume.notes == ()


NO_ROOM = (SROW, "f", (0.0,) * 12)
QFORM = (QUATERNION, "f", (0.0, 0.0, 0.0, -18.0, -15.0, -16.0))


@pytest.mark.parametrize("spoil", [NO_ROOM, (SROW, "f", (np.nan,))])
def test_a_sform_of_no_extent_gives_way_to_the_qform_with_a_note(tmp_path: Path, spoil: Any) -> None:
    path = written(tmp_path / "a.nii", put((CODES, "h", (1, 1)), (PIXDIM, "f", (1.0,)), QFORM, spoil))
    assert np.allclose(read_volume(path).affine, AFFINE)
    assert told(path) == ["two-geometries"]


@pytest.mark.parametrize(
    "edits",
    [
        ((CODES, "h", (0, 1)), NO_ROOM),
        ((CODES, "h", (1, 0)), (QUATERNION, "f", (5.0, 5.0, 5.0))),
        ((CODES, "h", (1, 0)), (QUATERNION, "f", (np.nan,))),
        ((CODES, "h", (1, 0)), (PIXDIM, "f", (1.0, -1.5))),
        ((CODES, "h", (1, 0)), (PIXDIM, "f", (1.0, 0.0))),
        ((CODES, "h", (0, 0)), (PIXDIM, "f", (1.0, 0.0))),
        ((CODES, "h", (0, 0)), (PIXDIM, "f", (1.0, -1.5))),
    ],
)
def test_a_header_without_any_geometry_is_refused(tmp_path: Path, edits: Any) -> None:
    assert refusal(written(tmp_path / "a.nii", put(*edits))) == "bad-geometry"


@pytest.mark.parametrize(("unit", "mm"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 + 8, 1), (7, 1)])
def test_units_are_obeyed_and_no_unit_means_millimetres(tmp_path: Path, unit: int, mm: float) -> None:
    spread = AFFINE[:3] * (1 if mm < 1000 else 0.001) * (1 if mm > 0.001 else 1000)
    path = written(tmp_path / "a.nii", put((UNITS, "B", (unit,)), (SROW, "f", tuple(spread.ravel()))))
    assert np.allclose(read_volume(path).affine[:3], spread * mm, rtol=1e-6)


@pytest.mark.parametrize(
    "dims", [(3, 6, 5, 4, 0, 0), (4, 6, 5, 4, 1, 0), (4, 6, 5, 4, 0, 0), (7, 6, 5, 4, 1, 1)]
)
def test_trailing_axes_of_length_one_or_zero_are_no_axes(tmp_path: Path, dims: tuple[int, ...]) -> None:
    path = written(tmp_path / "a.nii", put((DIM, "h", (*dims, 1, 1))))
    assert np.array_equal(read_volume(path).voxels, VOXELS)


def test_packed_in_pieces_is_whole_and_packed_twice_is_named(tmp_path: Path) -> None:
    raw = written(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").voxels, VOXELS)
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(gzip.compress(raw)))
    assert refusal(tmp_path / "c.nii.gz") == "packed-twice"


def test_a_header_without_its_voxels_is_named(tmp_path: Path) -> None:
    raw = written(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.hdr").write_bytes(raw[:352])
    assert refusal(tmp_path / "a.hdr") == "nifti-pair"
    (tmp_path / "b.hdr").write_bytes(raw[:344] + b"ni1\0" + raw[348:])
    assert refusal(tmp_path / "b.hdr") == "nifti-pair"


def test_a_copy_in_text_mode_is_named(tmp_path: Path) -> None:
    raw = written(tmp_path / "a.nii", kind=nibabel.Nifti2Image).read_bytes()
    (tmp_path / "b.nii").write_bytes(raw.replace(b"n+2\0\r\n\x1a\n", b"n+2\0\n\x1a\n"))
    assert refusal(tmp_path / "b.nii") == "text-mode"


def test_complex_voxels_are_refused_and_equal_colours_are_grey(tmp_path: Path) -> None:
    assert refusal(written(tmp_path / "a.nii", voxels=VOXELS * np.complex64(1j))) == "complex-image"
    colours = np.zeros(VOXELS.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        colours[name] = VOXELS % 200
    assert np.array_equal(read_volume(written(tmp_path / "b.nii", voxels=colours)).voxels, VOXELS % 200)
    colours["G"] //= 2
    assert refusal(written(tmp_path / "c.nii", voxels=colours)) == "colour-image"


def test_values_too_fine_for_32_bits_are_noted(tmp_path: Path) -> None:
    assert told(written(tmp_path / "a.nii", voxels=VOXELS.astype(np.int32) + 2**26)) == ["fine-values"]
    assert told(written(tmp_path / "b.nii", voxels=VOXELS.astype(np.int32) + 2**10)) == []
