"""A label map on the grid of its image, with whole class numbers: or a refusal that says which it is not."""

from __future__ import annotations

import numpy as np

from medveil_imaging.sources.raw import Float32, Float64, Note, Unusable, Volume

SAME_PLACE_MM = 1.0
"""How far a corner of a label map's grid may lie from its image's, and by no more than half a voxel."""
PARALLEL = 0.02
"""Largest share by which an axis of the label map may lean towards another axis of the image."""
WHOLE = 1e-3
"""How far a class number may lie from a whole one: what a tool's scale factor or resampling leaves."""


def checked_labels(image: Volume, labels: Volume, classes: int) -> tuple[Volume, tuple[Note, ...]]:
    """The label map in its image's order of voxels, float32 with whole numbers from 0 to ``classes - 1``.

    A label map that covers the same voxels in another order of storage (axes exchanged or reversed) is
    turned; nothing is resampled.

    Raises:
        Unusable: another shape or place, an undeclared class, or values that are not whole numbers.
    """
    voxels, affine = _turned(image, labels)
    if voxels.shape != image.voxels.shape:
        raise Unusable(
            "label-map-shape", "Image and label map have different sizes.", "Export the pair again."
        )
    if not _same_place(image, affine):
        raise Unusable(
            "label-map-place",
            "Image and label map lie at different places in the patient.",
            "Resample the label map to its image.",
        )
    values = _whole(voxels)
    _check_classes(values, classes)
    notes = tuple(note for note in labels.notes if note not in image.notes)
    if values.max() == 0:
        notes += (Note("empty-label-map", "The label map is empty.", "Check that the outline was saved."),)
    return Volume(values, image.affine), notes


def _turned(image: Volume, labels: Volume) -> tuple[Float32, Float64]:
    """The label map with its axes in the order and direction of its image's.

    Raises:
        Unusable: its axes are no permutation of the image's.
    """
    if sorted(labels.voxels.shape) != sorted(image.voxels.shape):
        raise Unusable(
            "label-map-shape", "Image and label map have different sizes.", "Export the pair again."
        )
    into_image = np.linalg.solve(image.affine, labels.affine)[:3, :3]
    steps = np.rint(into_image)
    axes = np.abs(steps)
    permuted = (axes.sum(0) == 1).all() and (axes.sum(1) == 1).all()
    if not permuted or np.abs(into_image - steps).max() > PARALLEL:
        raise _other_grid()
    order = axes.argmax(1)
    turned, back = labels.voxels.transpose(order), np.zeros((4, 4))
    for axis, own in enumerate(order):
        reversed_here = steps[axis, own] < 0
        back[own, axis] = -1 if reversed_here else 1
        if reversed_here:
            turned = np.flip(turned, axis)
            back[own, 3] = turned.shape[axis] - 1
    back[3, 3] = 1
    return turned, labels.affine @ back


def _other_grid() -> Unusable:
    return Unusable(
        "label-map-place",
        "The voxels of the label map have another size or direction than its image's.",
        "Resample the label map to its image.",
    )


def _same_place(image: Volume, affine: Float64) -> bool:
    """Whether every corner lies where the image's does: within half a voxel, and within a millimetre."""
    edges = np.array(image.voxels.shape) - 1.0
    corners = np.array([(*(edges * corner), 1.0) for corner in np.ndindex(2, 2, 2)])
    apart_mm = np.linalg.norm(corners @ (affine - image.affine).T, axis=1).max()
    apart = np.abs(corners @ (np.linalg.solve(image.affine, affine) - np.eye(4)).T).max()
    return bool(apart_mm <= SAME_PLACE_MM and apart < 0.5)


def _whole(voxels: Float32) -> Float32:
    if not np.isfinite(voxels).all():
        raise Unusable(
            "label-map-values",
            "Some voxels of the label map are not numbers (NaN or infinite).",
            "Write the background as 0.",
        )
    values = np.rint(voxels)
    if float(np.abs(voxels - values).max()) > WHOLE:
        raise Unusable(
            "label-map-values", "The label map holds fractions.", "Export it as whole class numbers."
        )
    return np.asarray(values, np.float32)


def _check_classes(values: Float32, classes: int) -> None:
    """Raises: Unusable: a class that the study does not name."""
    low, high = float(values.min()), float(values.max())
    if low < 0:
        raise Unusable(
            "undeclared-class", "The label map holds negative numbers.", "Write what is not outlined as 0."
        )
    if high == 255 and classes == 2 and bool(((values == 0) | (values == 255)).all()):
        raise Unusable(
            "undeclared-class",
            "The label map marks its structure with 255, as black-and-white pictures do.",
            "Divide its numbers by 255, so that the structure is 1.",
        )
    if high >= classes:
        raise Unusable(
            "undeclared-class", "The label map holds a class the study does not name.", "Remap its numbers."
        )
