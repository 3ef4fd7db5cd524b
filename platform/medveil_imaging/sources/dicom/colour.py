"""Grey films that are stored as colour: the grey scale if there is no colour in them, else a refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from medveil_imaging.sources.raw import Unusable

TOLERANCE = 4 / 255
"""Share of the scale by which the channels of a grey picture may differ, as lossy compression makes them."""


def grey_of_channels(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Channels (..., 3) → grey.

    A picture is grey when its three channels are equal (RGB) or when two of them stay at the middle of the
    scale (YCbCr), whatever the header calls it: exports and decoders do not agree in that.

    Raises:
        Unusable: it has colour.
    """
    top = (1 << bits) - 1
    kind: Any = np.int32 if bits <= 16 else np.int64
    one, two, three = (values[..., channel].astype(kind) for channel in range(3))
    allowed = TOLERANCE * top
    if max(np.abs(one - two).max(), np.abs(three - two).max()) <= allowed:
        return values[..., 1]
    middle = (top + 1) // 2
    if max(np.abs(two - middle).max(), np.abs(three - middle).max()) <= allowed:
        return values[..., 0]
    raise coloured()


def grey_of_palette(values: NDArray[Any], header: Dataset) -> NDArray[Any]:
    """Indices into the header's colour tables → grey on the scale of 0 to 255.

    Raises:
        Unusable: a colour is used, or the tables are missing.
    """
    try:
        mapped = apply_color_lut(values, header)
    except (ValueError, AttributeError, KeyError) as error:
        raise coloured() from error
    bits = 8 * mapped.itemsize
    grey = grey_of_channels(mapped, bits)
    return grey if bits == 8 else grey.astype(np.float32) / 257


def coloured() -> Unusable:
    """The refusal of a coloured picture."""
    return Unusable("colour-image", "The image is in colour.", "Export the grey original.")
