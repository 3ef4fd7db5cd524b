"""NIfTI-1 and NIfTI-2 volumes: header and scaling through nibabel, places by the rules of the standard.

Source: the comments of nifti1.h and nifti2.h (NIfTI Data Format Working Group, 2003 and 2011), which say what
each field means, and what a reader does when one is 0.
"""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import replace
from typing import Any, Literal

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.quaternions import quat2mat

from medveil_imaging.sources.formats import FORMATS, Format
from medveil_imaging.sources.raw import (
    MAX_VOXELS,
    Float32,
    Float64,
    Note,
    Unusable,
    Volume,
    check_pixel_count,
)

NIFTI2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
"""The first four bytes of a NIfTI-2 header: its length, 540, in either byte order."""
UNCHANGED = b"\r\n\x1a\n"
"""Follows the magic of NIfTI-2, so that a copy in text mode is noticed."""
MM_PER_UNIT = {1: 1000.0, 3: 0.001}
"""Metres and microns; 2 is the millimetre, and 0 says nothing."""
AGREE_MM = 0.5
"""How far the two affines of a header may place one corner apart before somebody should look."""
LONG_QUATERNION = 1.01
"""Largest squared length of a quaternion's three numbers that rounding explains; the fourth is then 0."""
SINGULAR = 1e-9
"""Smallest volume of one voxel in cubic mm that an affine may have."""
LOST = 1e-3
"""Share of a volume's range that may get lost when its values become float32."""


def read_nifti(data: bytes) -> Volume:
    """A volume from the bytes of an unpacked ``.nii`` file.

    The affine is the sform where its code is set, else the qform, else the voxel size alone (with a note).
    Trailing axes of length one, and of length zero as some programs count them, are dropped; any other
    fourth axis is refused.

    Raises:
        Unusable: not 3-D, too large, cut short, not real numbers, no usable geometry or scaling.
    """
    header, length = _header(data)
    shape = _shape(header)
    if len(shape) != 3:
        raise Unusable(
            "wrong-dimensions",
            f"The image has {len(shape)} axes; a volume has three.",
            "Export one volume per file (for example the first of a series).",
        )
    return _read(data, header, length, shape)


def read_nifti_channels(data: bytes) -> Volume:
    """All volumes of a file, as channels: its fourth axis, or its fifth if the fourth has length one.

    As :func:`read_nifti`, with voxels of shape (channels, i, j, k).
    """
    header, length = _header(data)
    shape = _shape(header)
    if len(shape) == 5 and shape[3] == 1:  # a vector in every voxel, as ITK writes several channels
        shape = (*shape[:3], shape[4])
    if not 3 <= len(shape) <= 4:
        raise Unusable(
            "wrong-dimensions",
            f"The image has {len(shape)} axes; a volume with channels has four.",
            "Export one volume per channel, or all of them along the fourth axis.",
        )
    volume = _read(data, header, length, shape)
    voxels = volume.voxels if len(shape) == 4 else volume.voxels[..., None]
    return replace(volume, voxels=np.moveaxis(voxels, 3, 0))


def _read(data: bytes, header: Any, length: int, shape: tuple[int, ...]) -> Volume:
    check_pixel_count(shape, MAX_VOXELS)
    dtype = header.get_data_dtype()
    if dtype.kind == "c":
        raise Unusable(
            "complex-image", "The voxels are complex numbers.", "Export the magnitude of the image."
        )
    if dtype.kind not in "iuf" and dtype.names is None:
        raise Unusable("colour-image", "The voxels are not single real numbers.", "Export a grey volume.")
    offset, notes = _offset(data, header, length, math.prod(shape) * dtype.itemsize)
    affine, doubts = _affine(header, shape[:3])
    voxels, lost = _voxels(data, header, shape, offset)
    return Volume(voxels, affine, (*notes, *doubts, *lost))


def _header(data: bytes) -> tuple[Any, int]:
    """The header, and its length in bytes; no extension is read."""
    second = data[:4] in NIFTI2
    if second and data[8:12] != UNCHANGED:
        raise Unusable(
            "text-mode",
            "The file was changed on its way: line ends were replaced in it.",
            "Copy it again, as binary.",
        )
    kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
    length = 540 if second else 348
    if len(data) <= length + 4:
        raise Unusable(
            "nifti-pair",
            "This is a header without its voxels, as in a .hdr/.img pair.",
            "Convert it to one .nii.gz file.",
        )
    return kind(data[:length], check=False), length


def _shape(header: Any) -> tuple[int, ...]:
    """Without trailing axes of length 1 or 0."""
    shape = tuple(int(edge) for edge in header.get_data_shape())
    while len(shape) > 3 and shape[-1] in (0, 1):
        shape = shape[:-1]
    return shape


def _offset(data: bytes, header: Any, length: int, size: int) -> tuple[int, tuple[Note, ...]]:
    """Where the voxels begin: behind the header, its four bytes of flags and its extensions.

    An offset of 0 means that place in old files. Any other number that lies before it is believed only where
    the file ends with the last voxel, as it does when a program left the flags out.
    """
    told = float(header["vox_offset"])
    if not (math.isfinite(told) and told >= 0 and told == int(told)):
        raise _no_offset()
    offset, first = int(told), _behind_extensions(data, header, length, size)
    notes: tuple[Note, ...] = ()
    if offset == 0:
        offset = first
        notes = (
            Note(
                "no-offset",
                "The header does not say where the voxels begin; they were read from behind it.",
                "Look at the volume in a viewer, or convert the original again.",
            ),
        )
    if offset + size > len(data):
        raise Unusable("cut-short", "The file ends before its last voxel.", "Copy it again.")
    if offset < first and not (offset >= length and offset + size == len(data)):
        raise _no_offset()
    return offset, notes


def _behind_extensions(data: bytes, header: Any, length: int, size: int) -> int:
    """The first byte that belongs neither to the header nor to an extension."""
    place, told = length + 4, int(header["vox_offset"])
    order: Literal["big", "little"] = "big" if header.endianness == ">" else "little"
    while data[length] and place + 8 <= len(data):
        edge = int.from_bytes(data[place : place + 4], order)
        ended = place == told > length + 4 or place + size == len(data)
        if ended or edge < 16 or edge % 16:
            break
        place += edge
    return place


def _no_offset() -> Unusable:
    return Unusable(
        "contradiction",
        "The header contradicts itself about where the voxels begin.",
        "Convert the original to NIfTI again.",
    )


def _voxels(
    data: bytes, header: Any, shape: tuple[int, ...], offset: int
) -> tuple[Float32, tuple[Note, ...]]:
    """Scaled values as nibabel gives them, and whether they lost something on becoming float32."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    scaled = math.isfinite(slope) and slope != 0
    if scaled and not math.isfinite(intercept):
        raise Unusable(
            "bad-scaling", "The header scales the voxels by what is no number.", "Export the volume again."
        )
    dtype = header.get_data_dtype()
    spec = (shape, dtype, offset, slope if scaled else 1.0, intercept if scaled else 0.0)
    proxy = ArrayProxy(io.BytesIO(data), spec, order="F")
    if dtype.names is not None:
        return _equal_channels(proxy.get_unscaled()), ()
    voxels = np.asarray(proxy, np.float32)
    if voxels.size == 0 or dtype.itemsize < 4 or dtype == np.float32 or not np.isfinite(voxels).all():
        return voxels, ()
    span = float(voxels.max()) - float(voxels.min())
    if float(np.spacing(np.abs(voxels).max())) <= LOST * span:
        return voxels, ()
    note = Note(
        "fine-values",
        "The values differ by less than 32-bit numbers of their size can tell apart.",
        "Subtract a constant from the volume before you export it.",
    )
    return voxels, (note,)


def _equal_channels(voxels: Any) -> Float32:
    """A grey volume that is stored as red, green and blue."""
    red, green, blue = (voxels[name] for name in "RGB")
    if not (np.array_equal(red, green) and np.array_equal(green, blue)):
        raise Unusable("colour-image", "The volume is in colour.", "Export a grey volume.")
    return np.asarray(green, np.float32)


def _affine(header: Any, shape: tuple[int, ...]) -> tuple[Float64, tuple[Note, ...]]:
    """Voxel index → mm in RAS axes, and what somebody should look at."""
    sizes = np.array(header["pixdim"][1:4], np.float64)
    sform = np.vstack([[header[f"srow_{axis}"] for axis in "xyz"], [0, 0, 0, 1]]).astype(np.float64)
    qform = _qform(header, sizes) if int(header["qform_code"]) > 0 else None
    notes: list[Note] = []
    if int(header["sform_code"]) > 0 and _usable(sform):
        chosen = sform
        if _differs(sform, qform, sizes, shape):
            notes.append(
                Note(
                    "two-geometries",
                    "The header's sform differs from its qform or voxel size; the sform was used.",
                    "Check the volume's orientation and size in a viewer.",
                )
            )
    elif int(header["qform_code"]) > 0:
        if qform is None or not _usable(qform):
            raise Unusable(
                "bad-geometry", "The header gives no usable orientation.", "Export the volume again."
            )
        chosen = qform
        if int(header["sform_code"]) > 0:
            notes.append(
                Note(
                    "two-geometries",
                    "The header's sform places nothing anywhere (zeros, say); the qform was used.",
                    "Check the volume's orientation and size in a viewer.",
                )
            )
    elif int(header["sform_code"]) > 0 or not _usable(np.diag([*sizes, 1.0])) or sizes.min() <= 0:
        raise Unusable("bad-geometry", "The header gives no usable voxel size.", "Export the volume again.")
    else:
        header["pixdim"][0] = 1
        chosen = header.get_base_affine()
        notes.append(
            Note(
                "no-orientation",
                "The header says nothing about orientation; only the voxel size was used.",
                "Check in a viewer that left and right are right, or convert the original again.",
            )
        )
    affine = np.array(chosen, np.float64)
    affine[:3] *= MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine, tuple(notes)


def _qform(header: Any, sizes: Float64) -> Float64 | None:
    """The affine of quaternion, offset and voxel size (method 2 of the standard); None if they give none.

    A quaternion a little longer than 1 is rounding: its first number is then 0, as in the standard's code.
    pixdim[0] is the sign of the third axis, and 0 counts as 1.
    """
    rest = np.array([float(header[f"quatern_{axis}"]) for axis in "bcd"])
    place = np.array([float(header[f"qoffset_{axis}"]) for axis in "xyz"])
    length = float(rest @ rest)
    if not (length <= LONG_QUATERNION and (sizes > 0).all() and np.isfinite(place).all()):
        return None
    first = math.sqrt(max(0.0, 1.0 - length))
    turn = quat2mat(np.array([first, *rest]))
    affine = np.eye(4)
    affine[:3, :3] = turn * (sizes * (1, 1, -1 if float(header["pixdim"][0]) < 0 else 1))
    affine[:3, 3] = place
    return affine


def _usable(affine: Float64) -> bool:
    return bool(np.isfinite(affine).all()) and abs(float(np.linalg.det(affine[:3, :3]))) > SINGULAR


def _differs(sform: Float64, qform: Float64 | None, sizes: Float64, shape: tuple[int, ...]) -> bool:
    """Whether the sform places a corner elsewhere than the qform, or has other voxels than the header says.

    A voxel size of 0 says nothing.
    """
    if qform is not None and _apart(sform, qform, shape) > AGREE_MM:
        return True
    told = np.abs(sizes)
    edges = np.linalg.norm(sform[:3, :3], axis=0)
    return bool(((np.abs(edges - told) * shape > AGREE_MM) & (told > 0)).any())


def _apart(first: Float64, second: Float64, shape: tuple[int, ...]) -> float:
    """Largest distance in mm between the places that two affines give to a corner of the volume."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, edge - 1) for edge in shape))])
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


FORMATS.register("nifti")(
    Format(
        what="a NIfTI volume",
        begins=lambda data: data[344:348] == b"n+1\0" or data[4:8] == b"n+2\0",
        volume=read_nifti,
        channels=read_nifti_channels,
    )
)
