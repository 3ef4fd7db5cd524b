"""Stored pixels with nothing in the bits that hold no picture, and nothing behind the last pixel."""

from __future__ import annotations

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from medveil_imaging.sources.dicom.stored import visible_words
from medveil_imaging.sources.raw import MAX_VOXELS

PIXELS = 0x7FE00010


def visible_pixels(dataset: Dataset) -> DataElement | None:
    """The pixel data with spare bits cleared and cut to its announced length; None: it is so already.

    Overlays of older scanners lie in spare bits (PS3.5, 8.1.2), and so may a name.

    Raises:
        Unusable: as :func:`medveil_imaging.sources.dicom.stored.visible_words`.
    """
    words = visible_words(dataset, MAX_VOXELS)
    if words is None:
        return None
    little = dataset.original_encoding[1]
    data = words.astype(words.dtype.newbyteorder("<" if little else ">"), copy=False).tobytes()
    return DataElement(PIXELS, "OW" if words.itemsize > 1 else "OB", data + b"\0" * (len(data) % 2))
