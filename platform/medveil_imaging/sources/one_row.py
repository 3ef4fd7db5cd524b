"""One line of the manifest → tensors: which files are read for it, and what becomes of their content."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch

from medveil.profiles import PROFILES
from medveil.study import Study, Transforms
from medveil.tasks import Label
from medveil_imaging.patches import without_margins
from medveil_imaging.sources.channels import one_volume
from medveil_imaging.sources.label_maps import checked_label_film, checked_labels
from medveil_imaging.sources.manifest import Row
from medveil_imaging.sources.people import Marks, marks_of
from medveil_imaging.sources.raw import Film, Note, Volume, brought_into_shape
from medveil_imaging.sources.read import Kind, Wanted
from medveil_imaging.transforms import (
    film_transform,
    label_film_transform,
    label_slice_transform,
    label_transform,
    slice_transform,
    volume_transform,
)

CUT = Note(
    "structure-cut",
    "A part of an outlined structure lies outside the study's field of view.",
    "Centre the volume on the structure.",
)


LOST = Note(
    "structure-lost",
    "An outlined structure is too small to be seen at the study's size.",
    "Ask for a study with larger images, or leave this film out.",
)


@dataclass(frozen=True)
class Shaped:
    """What one line gives, as :class:`medveil_imaging.patients.PatientImages` has it; one image at least."""

    images: torch.Tensor = field(repr=False)
    """float32, shape (k, channels, \\*size)."""
    labels: torch.Tensor = field(repr=False)
    """Shape (k, …)."""
    notes: tuple[Note, ...]
    marks: Marks


class RowShape:
    """How the lines of a study's manifests become tensors. The files are read by somebody else in between.

    Args:
        key: of the marks by which images are compared (:func:`medveil_imaging.sources.people.marks_of`).
    """

    def __init__(self, study: Study, key: bytes) -> None:
        self._key = key
        self._classes = len(study.classes)
        self._transforms = study.transforms
        self._whole = study.transforms.patches > 0
        profile = PROFILES[study.transforms.profile]
        self._flat, self._sliced = not profile.reads_volumes, profile.sliced
        if self._flat:
            self._film = film_transform(study.transforms)
            self._label_film = label_film_transform(study.transforms)
        elif self._sliced:
            self._slices = slice_transform(study.transforms)
            self._label_slices = label_slice_transform(study.transforms)
        else:
            self._volume = volume_transform(study.transforms)
            self._outline = label_transform(study.transforms)

    def wanted(self, row: Row) -> tuple[Wanted, ...]:
        """The files that the line is made of; what they hold comes to :meth:`shaped` in the same order."""
        images = images_wanted(self._transforms, row.paths)
        outline: Kind = "label film" if self._flat else "label map"
        return images if row.label_map is None else (*images, Wanted(outline, row.label_map, row.paths[0]))

    def shaped(self, row: Row, read: Sequence[Film | Volume]) -> Shaped:
        """The line's images and labels.

        Raises:
            Unusable: the images cannot be brought into the study's shape.
        """
        with brought_into_shape():
            return self._one_film(row, read) if self._flat else self._one_volume(row, read)

    def _one_film(self, row: Row, read: Sequence[Film | Volume]) -> Shaped:
        raw = cast(Film, read[0])
        if row.label_map is None:
            return self._single(raw, self._film(raw), label_tensor(row.label))
        labels, notes = checked_label_film(raw, cast(Film, read[-1]), self._classes)
        placed, lost = self._label_film(labels)
        return self._single(raw, self._film(raw), placed, notes + (LOST,) * lost)

    def _one_volume(self, row: Row, read: Sequence[Film | Volume]) -> Shaped:
        raw = one_volume(cast(Sequence[Volume], read[: len(row.paths)]), self._transforms.channels)
        if self._sliced:
            return self._each_slice(row, raw, read)
        if row.label_map is None:
            return self._single(raw, self._volume(raw), label_tensor(row.label))
        labels, notes = checked_labels(raw, cast(Volume, read[-1]), self._classes)
        seen, outlined = without_margins(raw, labels) if self._whole else (raw, labels)
        placed, lost = self._outline(outlined)
        return self._single(raw, self._volume(seen), placed, notes + (CUT,) * lost)

    def _each_slice(self, row: Row, raw: Volume, read: Sequence[Film | Volume]) -> Shaped:
        images, chosen = self._slices(raw)
        marks = marks_of(raw, self._key)
        if row.label_map is None:
            label = label_tensor(row.label)
            return Shaped(images, label.expand(len(images), *label.shape).clone(), raw.notes, marks)
        labels, notes = checked_labels(raw, cast(Volume, read[-1]), self._classes)
        placed, lost = self._label_slices(labels, chosen)
        return Shaped(images, placed, raw.notes + notes + (CUT,) * lost, marks)

    def _single(
        self, raw: Film | Volume, image: torch.Tensor, label: torch.Tensor, notes: tuple[Note, ...] = ()
    ) -> Shaped:
        return Shaped(image[None], label[None], raw.notes + notes, marks_of(raw, self._key))


def label_tensor(label: Label | None) -> torch.Tensor:
    """int64 of a class; float32 of numbers, NaN for those that are not known."""
    if isinstance(label, tuple):
        return torch.tensor([math.nan if value is None else value for value in label], dtype=torch.float32)
    return torch.tensor(label, dtype=torch.int64 if isinstance(label, int) else torch.float32)


def images_wanted(transforms: Transforms, paths: Sequence[Path]) -> tuple[Wanted, ...]:
    """What the files that make one image are to be read as."""
    profile = PROFILES[transforms.profile]
    kind: Kind = "film" if profile.channels == 1 else "colour film"
    if profile.reads_volumes:
        kind = "channels" if len(paths) < len(transforms.channels) else "volume"
    return tuple(Wanted(kind, path) for path in paths)
