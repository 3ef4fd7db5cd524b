"""Single slices of MR: the pixels of each frame of a file and where they lie in the patient.

Source: PS3.3 C.7.6.2 (classic files) and C.7.6.16 (enhanced files, also those of one frame each).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medveil_imaging.sources.dicom.colour import coloured
from medveil_imaging.sources.dicom.header import comma_notes, first, numbers, text, texts
from medveil_imaging.sources.dicom.padding import FOUND, undeclared_padding
from medveil_imaging.sources.dicom.scale import NO_SCALE, is_inverted, rescaled
from medveil_imaging.sources.dicom.stored import check_is_image, frame_count, stored_values
from medveil_imaging.sources.raw import Float32, Float64, Note, Unusable

WHY = {
    "StackID": "several stacks",
    "EffectiveEchoTime": "several echoes",
    "EchoTime": "several echoes",
    "EchoNumbers": "several echoes",
    "DiffusionBValue": "several diffusion weightings",
    "TemporalPositionIndex": "several time points",
    "TemporalPositionIdentifier": "several time points",
    "TriggerTime": "several time points",
    "ComplexImageComponent": "magnitude and phase",
    "ImageType": "several kinds of image, such as magnitude and phase",
    "AcquisitionNumber": "several acquisitions",
}
"""What tells slices at one place apart, and how a sentence names it; the first that differs is told."""
GROUPS = {
    "StackID": "FrameContentSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
}


@dataclass(frozen=True)
class Plane:
    """One slice: its pixels and where they lie in the patient (DICOM axes: left, posterior, superior)."""

    pixels: Float32
    position: Float64
    """Centre of the first pixel, mm."""
    directions: Float64
    """Shape (2, 3): vectors of increasing column and of increasing row, as written."""
    spacing: Float64
    """Between rows and between columns, mm."""
    padding: NDArray[np.bool_] | None = None
    """Where the slice holds no picture; None: nowhere."""
    is_scaled: bool = True
    """False: its rescale makes no sense and was not applied."""
    told_apart: tuple[str, ...] = ()
    """What the header says under the names of :data:`WHY`: for comparing, never shown."""


def check_is_mr(header: Dataset) -> None:
    """Raises: Unusable: no pixels, not MR, or a mosaic."""
    check_is_image(header)
    if text(header, "Modality") != "MR":
        raise Unusable("wrong-modality", "This is not an MR image.", "List MR images only.")
    if "MOSAIC" in texts(header, "ImageType"):
        raise Unusable(
            "mosaic",
            "This is a mosaic: many slices side by side in one picture.",
            "Convert it to NIfTI with dcm2niix.",
        )


def planes_of(header: Dataset, limit: int) -> tuple[list[Plane], tuple[Note, ...]]:
    """The slices of a file, one a frame.

    Args:
        limit: most pixels of all its frames together.

    Raises:
        Unusable: as :func:`stored_values`, or a frame without its place.
    """
    sources = _sources(header)
    places = [source.place() for source in sources]
    stored = stored_values(header, limit)
    if not stored.grey:  # a map in colours, or a picture of the screen: no grey scale of a scanner
        raise coloured()
    notes = list(stored.notes + sources[0].notes())
    inverted, polarity = is_inverted(header)
    planes = []
    for k, (source, place) in enumerate(zip(sources, places, strict=True)):
        values, padding = stored.values[k], stored.padding[k]
        if values.dtype.kind in "iu" and not padding.any():
            padding = undeclared_padding(values, 8 * values.itemsize, is_film=False)
            notes += (FOUND,) if padding.any() else ()
        pixels, said = rescaled(values, header, source.scale())
        notes += said
        planes.append(
            Plane(
                -pixels if inverted else pixels,
                *place,
                padding=padding if padding.any() else None,
                is_scaled=NO_SCALE not in said,
                told_apart=source.told_apart(),
            )
        )
    return planes, tuple(dict.fromkeys(notes + list(polarity)))


def places_of(header: Dataset) -> list[tuple[Float64, Float64, Float64]]:
    """Position, directions and spacing of each frame of a file, as of a :class:`Plane`.

    Raises:
        Unusable: a frame without its place.
    """
    return [source.place() for source in _sources(header)]


def _sources(header: Dataset) -> list[_Source]:
    """One for each frame. Raises: Unusable: the file does not tell of each."""
    count = frame_count(header)
    shared, groups = (
        first(header, "SharedFunctionalGroupsSequence"),
        header.get("PerFrameFunctionalGroupsSequence"),
    )
    if count > 1 and (groups is None or len(groups) != count):
        raise no_geometry()
    return [
        _Source(header, shared, groups[k] if groups and len(groups) == count else None) for k in range(count)
    ]


@dataclass(frozen=True)
class _Source:
    """Where the header of one frame stands: its own group, the shared one, the file's top level."""

    header: Dataset
    shared: Dataset | None
    own: Dataset | None

    def _item(self, group: str) -> Dataset | None:
        return first(self.own, group) or first(self.shared, group)

    def _numbers(self, group: str, name: str, count: int) -> Float64:
        item = self._item(group)
        found = numbers(item if item is not None and name in item else self.header, name)
        if len(found) != count:
            raise no_geometry()
        return np.array(found)

    def place(self) -> tuple[Float64, Float64, Float64]:
        """Position, directions and spacing. Raises: Unusable: one of them is missing or no number."""
        spacing = self._numbers("PixelMeasuresSequence", "PixelSpacing", 2)
        if (spacing <= 0).any():
            raise no_geometry()
        directions = self._numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6).reshape(2, 3)
        return self._numbers("PlanePositionSequence", "ImagePositionPatient", 3), directions, spacing

    def scale(self) -> Dataset:
        """What holds the frame's rescale."""
        found = self._item("PixelValueTransformationSequence")
        return self.header if found is None else found

    def notes(self) -> tuple[Note, ...]:
        """Whether numbers are written with a comma."""
        names = ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence")
        return comma_notes(self.header, self.scale(), *(self._item(name) for name in names))

    def told_apart(self) -> tuple[str, ...]:
        """Values under the names of :data:`WHY`, in its order."""
        said: list[Any] = []
        for name in WHY:
            item = self._item(GROUPS[name]) if name in GROUPS else None
            said.append(texts(self.header if item is None else item, name))
        return tuple(str(one) for one in said)


def no_geometry() -> Unusable:
    """The refusal of slices whose place is unknown."""
    return Unusable(
        "bad-geometry",
        "The header does not say where the slices lie in the patient.",
        "Export the original series.",
    )
