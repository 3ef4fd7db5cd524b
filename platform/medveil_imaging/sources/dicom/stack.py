"""Slices → a volume, if they lie in it as in a pile of equal, even, straight layers."""

from __future__ import annotations

import numpy as np

from medveil_imaging.sources.dicom.padding import filled
from medveil_imaging.sources.dicom.planes import WHY, Plane, no_geometry
from medveil_imaging.sources.raw import Float64, Note, Unusable, Volume

PARALLEL = 1e-3
"""Largest difference of a direction cosine between slices of one volume."""
EVEN = 0.02
"""How far a slice may lie from its place, as a share of the gap, beyond what rounding does."""
MOST_ROUNDING = 0.15
"""The most that rounded positions may add to that."""
UNIT = 0.02
"""How far directions may be from length one and from a right angle: some are written with two decimals."""
SAME_PLACE = 0.01
"""Slices nearer than this share of the ordinary gap lie at one place."""
DECIMALS = 4
COPIES = Note(
    "slice-copies",
    "A slice is there more than once, with the same pixels at the same place; its copies were left out.",
    "Nothing need be done; look for files such as 'name (1)'.",
)


def stack(planes: list[Plane]) -> Volume:
    """Slices → volume with axes (column, row, slice) and its RAS affine.

    Copies of a slice are left out with a note. Padding becomes as dark as the darkest voxel of the picture.

    Raises:
        Unusable: slices of another size, direction or spacing, several at one place, gaps, a sheared stack.
    """
    first = planes[0]
    for plane in planes:
        same = (
            plane.pixels.shape == first.pixels.shape
            and np.allclose(plane.directions, first.directions, atol=PARALLEL)
            and np.allclose(plane.spacing, first.spacing, rtol=PARALLEL)
        )
        if not same:
            raise Unusable(
                "mixed-geometry", "The slices differ in size, direction or spacing.", "Give one acquisition."
            )
    if len({plane.is_scaled for plane in planes}) > 1:
        raise Unusable(
            "mixed-rescale",
            "Some of the slices have a rescale that makes no sense.",
            "Export the series again.",
        )
    across, down = _unit(first.directions)
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    kept, copies = _without_copies(planes)
    ordered = sorted(kept, key=lambda plane: float(plane.position @ normal))
    if len(ordered) < 2:
        raise Unusable(
            "wrong-dimensions", "All slices lie at one place; a volume has many.", "List the whole series."
        )
    positions = np.array([plane.position for plane in ordered])
    _check_places(ordered, positions @ normal)
    gap = _even_gap(positions, normal)
    affine = np.eye(4)
    affine[:3, 0] = across * first.spacing[1]
    affine[:3, 1] = down * first.spacing[0]
    affine[:3, 2] = normal * gap
    affine[:3, 3] = ordered[0].position
    affine[:2] *= -1  # DICOM's left and posterior → right and anterior
    voxels = np.stack([plane.pixels.T for plane in ordered], axis=2)
    if any(plane.padding is not None for plane in ordered):
        empty = np.zeros(first.pixels.shape, bool)
        padding = [empty if plane.padding is None else plane.padding for plane in ordered]
        voxels = filled(voxels, np.stack([one.T for one in padding], axis=2))
    return Volume(voxels, affine, (COPIES,) if copies else ())


def _unit(directions: Float64) -> Float64:
    """Directions of length one. Raises: Unusable: they are none, or at no right angle."""
    lengths = np.linalg.norm(directions, axis=1)
    if not (np.abs(lengths - 1) < UNIT).all() or abs(directions[0] @ directions[1]) >= UNIT:
        raise no_geometry()
    unit: Float64 = directions / lengths[:, None]
    return unit


def _without_copies(planes: list[Plane]) -> tuple[list[Plane], bool]:
    """Slices without those that repeat another's pixels at its place."""
    here: dict[tuple[float, ...], list[Plane]] = {}
    for plane in planes:
        others = here.setdefault(tuple(np.round(plane.position, 3).tolist()), [])
        if not any(np.array_equal(other.pixels, plane.pixels) for other in others):
            others.append(plane)
    kept = [plane for others in here.values() for plane in others]
    return kept, len(kept) < len(planes)


def _check_places(ordered: list[Plane], heights: Float64) -> None:
    """Raises: Unusable: several slices at one place, with what tells them apart."""
    gaps = np.diff(heights)
    ordinary = float(gaps.mean())
    if ordinary > 0 and gaps.min() >= SAME_PLACE * ordinary:
        return
    differing = (
        why
        for number, why in enumerate(WHY.values())
        if len({plane.told_apart[number] for plane in ordered if plane.told_apart}) > 1
    )
    why = next(differing, "a series over time?")
    raise Unusable(
        "repeated-slices", f"Several slices lie at one place ({why}).", "Export one time point or one echo."
    )


def _even_gap(positions: Float64, normal: Float64) -> float:
    """The gap between slices. Raises: Unusable: it changes, or the stack leans over."""
    index = np.arange(len(positions)) - (len(positions) - 1) / 2
    step = index @ positions / (index @ index)  # the straight line that fits best
    gap = float(step @ normal)
    allowed = EVEN * abs(gap) + min(_rounding(positions), MOST_ROUNDING * abs(gap))
    residual = positions - positions.mean(0) - index[:, None] * step
    if np.linalg.norm(residual, axis=1).max() > allowed:
        raise Unusable(
            "uneven-slices", "The slices are not evenly spaced; some may be missing.", "Export all slices."
        )
    if np.linalg.norm(step - gap * normal) > allowed:
        raise Unusable(
            "leaning-slices",
            "The stack of slices leans over (a tilted gantry?).",
            "Resample it to straight axes, for example with dcm2niix.",
        )
    return gap


def _rounding(positions: Float64) -> float:
    """How far rounding to the decimals that all positions have may have moved one, in mm."""
    for decimals in range(DECIMALS):
        if np.allclose(positions, np.round(positions, decimals), rtol=0, atol=1e-9):
            return float(0.5 * 10**-decimals * np.sqrt(3))
    return 0.0
