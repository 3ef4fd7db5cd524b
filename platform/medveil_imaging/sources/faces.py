"""Whether a volume of a head shows the face, told from where tissue lies in its middle plane.

Nothing is taken out here. De-facing tools cut by a template of a face or by a mask of the brain
(Bischoff-Grethe et al. 2007; Schimke & Hale 2011), and neither is at hand: a cut that guesses may take brain
with it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medveil_imaging.sources.raw import Float32, Volume

GRID_MM = 4.0
"""The outline of a head needs no more; a volume is averaged down to about this."""
DARK = 0.12
"""Share of the bright end of a volume below which there is air, or bone."""
MIDDLE_MM = 24.0
"""Thickness of the slab about the head's middle plane in which the profile is looked for."""
LEAST_MM = 60.0
"""A volume that is thinner in some direction is no head."""
HEAD_MM = (130.0, 290.0)
"""How long a head is from front to back: less is a brain's part, more is no head."""
FOREHEAD, FACE = (0.20, 0.45), (0.55, 0.80)
"""Heights below the crown, in head lengths: eyes lie at half of it, the nose above 0.7, the chin at 1."""
BEHIND = 0.13
"""How far behind the forehead, in head lengths, tissue may end that is still a face."""
ENOUGH = 0.5
"""Share of the face's heights at which there is tissue so far in front."""


def shows_face(volume: Volume) -> bool:
    """Whether the middle plane of a head goes on below the forehead without falling back.

    Below the forehead of a brain without skull, or of a head whose face was cut away, tissue ends several
    centimetres farther behind. A volume that ends above the nose shows no face that is known by it.

    Args:
        volume: RAS axes by its affine, whatever order its voxels are stored in.
    """
    head = _tissue(volume)
    if head is None or not head.any():
        return False
    outline = _profile(head)
    if outline is None:
        return False
    front, back = outline
    length = float(np.nanmax((front - back)[: int(110 / GRID_MM)]))
    if not HEAD_MM[0] <= length * GRID_MM <= HEAD_MM[1]:
        return False
    above, below = (
        front[int(np.floor(first * length)) : int(np.ceil(last * length))] for first, last in (FOREHEAD, FACE)
    )
    wanted = (FACE[1] - FACE[0]) * length
    if not len(above) or np.isnan(above).all():
        return False
    forehead = float(np.nanmax(above))
    return int((below >= forehead - BEHIND * length).sum()) >= ENOUGH * wanted


def _tissue(volume: Volume) -> NDArray[np.bool_] | None:
    """The largest connected part that is not dark: right, anterior, superior, :data:`GRID_MM` a side."""
    voxels = volume.voxels if volume.voxels.ndim == 3 else volume.voxels[0]
    axes, spacing = volume.affine[:3, :3], np.linalg.norm(volume.affine[:3, :3], axis=0)
    order = np.argmax(np.abs(axes / spacing), axis=1)  # which stored axis runs most along each of R, A, S
    extent = np.array(voxels.shape) * spacing
    if sorted(order) != [0, 1, 2] or extent.min() < LEAST_MM:
        return None
    turned = np.transpose(voxels, order)
    for axis, stored in enumerate(order):
        if axes[axis, stored] < 0:
            turned = np.flip(turned, axis)
    coarse = _averaged(turned.astype(np.float32), spacing[order])
    bright = float(np.percentile(coarse, 98))
    dark = float(np.percentile(coarse, 1))
    mask = coarse > dark + DARK * (bright - dark)
    labels, count = ndimage.label(ndimage.binary_opening(mask))
    if not count:
        return None
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def _averaged(voxels: Float32, spacing: NDArray[np.float64]) -> Float32:
    """Blocks of voxels averaged to at most the grid, then brought to it exactly."""
    steps = [max(1, int(GRID_MM / edge)) for edge in spacing]
    cut = voxels[tuple(slice(0, n // s * s) for n, s in zip(voxels.shape, steps, strict=True))]
    x, y, z = (n // s for n, s in zip(cut.shape, steps, strict=True))
    small = cut.reshape(x, steps[0], y, steps[1], z, steps[2]).mean((1, 3, 5))
    zoom = [edge * step / GRID_MM for edge, step in zip(spacing, steps, strict=True)]
    return np.asarray(ndimage.zoom(small, zoom, order=1, grid_mode=True, mode="nearest"), dtype=np.float32)


def _profile(head: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The foremost and hindmost tissue about the middle plane, from the crown down; NaN: none."""
    across = head.sum((1, 2))
    middle = float(np.average(np.arange(len(across)), weights=across))
    half = MIDDLE_MM / GRID_MM / 2
    slab = head[max(0, round(middle - half)) : round(middle + half) + 1].mean(0) >= 0.3
    rows = np.flatnonzero(slab.sum(0) * GRID_MM >= 20)
    if not len(rows):
        return None
    down = slab[:, rows[-1] :: -1].T
    some = down.any(1)
    front = np.where(some, down.shape[1] - 1.0 - down[:, ::-1].argmax(1), np.nan)
    return front, np.where(some, down.argmax(1).astype(np.float64), np.nan)
