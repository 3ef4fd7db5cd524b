"""A label map on the grid of its image, with whole class numbers: or a refusal that says which it is not."""

from __future__ import annotations

import numpy as np

from medveil_imaging.sources.grids import same_grid, turned
from medveil_imaging.sources.raw import Film, Float32, Note, Unusable, Volume

WHOLE = 1e-3
"""How far a class number may lie from a whole one: what a tool's scale factor or resampling leaves."""


EMPTY = Note("empty-label-map", "The label map is empty.", "Check that the outline was saved.")


def checked_labels(image: Volume, labels: Volume, classes: int) -> tuple[Volume, tuple[Note, ...]]:
    """The label map in its image's order of voxels, float32 with whole numbers from 0 to ``classes - 1``.

    A label map that covers the same voxels in another order of storage (axes exchanged or reversed) is
    turned; nothing is resampled.

    Raises:
        Unusable: another shape or place, an undeclared class, or values that are not whole numbers.
    """
    shape = image.voxels.shape[-3:]
    if sorted(labels.voxels.shape) != sorted(shape):
        raise _other_shape()
    placed = turned(image, labels)
    if placed is None:
        raise Unusable(
            "label-map-place",
            "The voxels of the label map have another size or direction than its image's.",
            "Resample the label map to its image.",
        )
    if placed.voxels.shape != shape:
        raise _other_shape()
    if not same_grid(image, placed):
        raise Unusable(
            "label-map-place",
            "Image and label map lie at different places in the patient.",
            "Resample the label map to its image.",
        )
    values = _whole(placed.voxels)
    _check_classes(values, classes)
    notes = tuple(note for note in labels.notes if note not in image.notes)
    if values.max() == 0:
        notes += (EMPTY,)
    return Volume(values, image.affine), notes


def checked_label_film(film: Film, labels: Film, classes: int) -> tuple[Film, tuple[Note, ...]]:
    """The label map of a film, with whole numbers from 0 to ``classes - 1``; of one structure 255 is 1.

    Raises:
        Unusable: as :func:`checked_labels`; or only one of the two was turned, so that nobody knows how the
            label map lies on the film.
    """
    if film.turned != labels.turned:
        raise Unusable(
            "label-map-place",
            "Only the film or only its label map is turned by its header; which way up was it drawn?",
            "Save both as PNG, the way up in which they are seen.",
        )
    if labels.pixels.shape != film.pixels.shape[-2:]:
        raise _other_shape()
    values = _whole(labels.pixels)
    if classes == 2 and bool(((values == 0) | (values == 255)).all()):
        values = np.minimum(values, np.float32(1))  # a black-and-white mask of the one structure
    _check_classes(values, classes)
    return Film(values), (EMPTY,) * (not values.any())


def _other_shape() -> Unusable:
    return Unusable("label-map-shape", "Image and label map have different sizes.", "Export the pair again.")


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
    if high == 255 and bool(((values == 0) | (values == 255)).all()):
        raise Unusable(
            "undeclared-class",
            "The label map marks its structure with 255, as black-and-white pictures do.",
            "Divide its numbers by 255, so that the structure is 1.",
        )
    if high >= classes:
        raise Unusable(
            "undeclared-class", "The label map holds a class the study does not name.", "Remap its numbers."
        )
