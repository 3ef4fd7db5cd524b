"""NIfTI-1 and NIfTI-2 volumes through nibabel."""

from __future__ import annotations

import io
import itertools

import nibabel
import numpy as np

from medveil_imaging.sources.formats import FORMATS, Format
from medveil_imaging.sources.raw import (
    MAX_FILE_BYTES,
    MAX_VOXELS,
    Float64,
    Note,
    Unusable,
    Volume,
    check_pixel_count,
)

MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}
AGREE_MM = 0.5
"""How far the two affines of a header may place one corner apart before somebody should look."""


def read_nifti(data: bytes) -> Volume:
    """A volume from the bytes of an unpacked ``.nii`` file.

    The affine is the sform where its code is set, else the qform, else the voxel size alone (with a note).
    Trailing axes of length one are dropped; any other fourth axis is refused.

    Raises:
        Unusable: not 3-D, too large, cut short, not real numbers, no usable geometry.
    """
    kind = nibabel.Nifti2Image if data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
    header = kind.header_class.from_fileobj(io.BytesIO(data))
    shape = tuple(int(edge) for edge in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise Unusable(
            "wrong-dimensions",
            f"The image has {len(shape)} axes; a volume has three.",
            "Export one volume per file (for example the first of a series).",
        )
    check_pixel_count(shape, MAX_VOXELS)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise Unusable("colour-image", "The voxels are not single real numbers.", "Export a grey volume.")
    end = int(header["vox_offset"]) + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if not 0 < end <= min(len(data), MAX_FILE_BYTES):
        raise Unusable("cut-short", "The file ends before its last voxel.", "Copy it again.")
    affine, notes = _affine(header, shape)
    voxels = np.asarray(kind.from_bytes(data).dataobj, np.float32).reshape(shape)
    return Volume(voxels, affine, notes)


def _affine(header: nibabel.Nifti1Header, shape: tuple[int, ...]) -> tuple[Float64, tuple[Note, ...]]:
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    notes: list[Note] = []
    if sform is not None and qform is not None and _apart(sform, qform, shape) > AGREE_MM:
        notes.append(
            Note(
                "two-geometries",
                "The header's sform and qform place the volume differently; the sform was used.",
                "Check its orientation in a viewer.",
            )
        )
    chosen = sform if sform is not None else qform
    if chosen is None:
        chosen = header.get_base_affine()
        notes.append(
            Note(
                "no-orientation",
                "The header says nothing about orientation; only the voxel size was used.",
                "Check in a viewer that left and right are right, or convert the original again.",
            )
        )
    affine = np.array(chosen, np.float64)
    affine[:3] *= MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    return affine, tuple(notes)


def _apart(first: Float64, second: Float64, shape: tuple[int, ...]) -> float:
    """Largest distance in mm between the places that two affines give to a corner of the volume."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, edge - 1) for edge in shape))])
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


FORMATS.register("nifti")(
    Format(
        what="a NIfTI volume",
        begins=lambda data: data[344:348] == b"n+1\0" or data[4:8] == b"n+2\0",
        volume=read_nifti,
    )
)
