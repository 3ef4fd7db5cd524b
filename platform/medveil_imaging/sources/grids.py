"""Grids of voxels in the patient: whether two are the same, and one volume brought to another's.

A volume has voxels of shape (i, j, k), or (channels, i, j, k); the grid is that of the last three axes.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import affine_transform

from medveil_imaging.sources.raw import Float32, Float64, Volume

SAME_PLACE_MM = 1.0
"""How far a corner of one grid may lie from the other's, and by no more than half a voxel."""
PARALLEL = 0.02
"""Largest share by which an axis of one grid may lean towards another axis of the other."""


def turned(onto: Volume, volume: Volume) -> Volume | None:
    """The volume with its axes in the order and direction of another's.

    Returns: None if its axes are no permutation of the other's, by direction and size of the voxels.
    """
    across = np.linalg.solve(onto.affine, volume.affine)[:3, :3]
    steps = np.rint(across)
    axes = np.abs(steps)
    permuted = bool((axes.sum(0) == 1).all() and (axes.sum(1) == 1).all())
    if not permuted or np.abs(across - steps).max() > PARALLEL:
        return None
    order = [int(own) for own in axes.argmax(1)]
    voxels, back = volume.voxels.transpose(order), np.zeros((4, 4))
    for axis, own in enumerate(order):
        reverse = steps[axis, own] < 0
        back[own, axis] = -1 if reverse else 1
        if reverse:
            voxels = np.flip(voxels, axis)
            back[own, 3] = voxels.shape[axis] - 1
    back[3, 3] = 1
    return Volume(voxels, volume.affine @ back, volume.notes)


def same_grid(one: Volume, other: Volume) -> bool:
    """Whether every corner lies where the other's does: within half a voxel, and within a millimetre."""
    shape = one.voxels.shape[-3:]
    if other.voxels.shape[-3:] != shape:
        return False
    edges = np.array(shape) - 1.0
    corners = np.array([(*(edges * corner), 1.0) for corner in np.ndindex(2, 2, 2)])
    apart_mm = np.linalg.norm(corners @ (other.affine - one.affine).T, axis=1).max()
    apart = np.abs(corners @ (np.linalg.solve(one.affine, other.affine) - np.eye(4)).T).max()
    return bool(apart_mm <= SAME_PLACE_MM and apart < 0.5)


def resampled(onto: Volume, volume: Volume) -> tuple[Float32, float]:
    """A volume's values at the voxels of another's grid: linear inside of it, its lowest value outside.

    Returns: the values, and the share of the grid that lies inside the volume.
    """
    shape = onto.voxels.shape[-3:]
    into = np.asarray(np.linalg.solve(volume.affine, onto.affine), np.float64)
    values = affine_transform(
        volume.voxels,
        into[:3, :3],
        into[:3, 3],
        shape,
        order=1,
        mode="constant",
        cval=float(volume.voxels.min()),
    )
    return np.asarray(values, np.float32), _share_inside(into, shape, volume.voxels.shape)


def _share_inside(into: Float64, shape: tuple[int, ...], inside: tuple[int, ...]) -> float:
    """Of the voxels of a grid, mapped by ``into``, those that lie between the outermost voxels of another."""
    found = np.ones(shape, bool)
    places = np.ogrid[tuple(slice(edge) for edge in shape)]
    for axis, edge in enumerate(inside):
        place = into[axis, 3] + sum(into[axis, other] * places[other] for other in range(3))
        found &= (place >= -0.5) & (place <= edge - 0.5)
    return float(found.mean())
