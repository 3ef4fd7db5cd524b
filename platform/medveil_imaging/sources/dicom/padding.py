"""Pixels without a picture: outside the field of view or the collimator. They never set a scale.

Source: PS3.3 C.7.5.1.1.2 (PixelPaddingValue, PixelPaddingRangeLimit).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from medveil_imaging.sources.dicom.header import numbers
from medveil_imaging.sources.raw import Float32, Note, Unusable

NEAR = 1 / 128
"""Share of the picture's range within which lossy compression keeps a padded area."""
BLOCK = 8
"""Pixels around a padded area into which lossy compression spreads it."""
UNDECLARED = 0.01
"""Smallest share of an image of one value, far from all the rest, that is taken for padding."""
FAR = 2
"""How many times the range of all the rest such a value lies away from it."""
FOUND = Note(
    "padding-undeclared",
    "A part of the image holds one value far from all others; it was taken for a part without picture.",
    "Look at the picture.",
)


def declared_padding(
    header: Dataset, words: NDArray[Any], values: NDArray[Any], *, lossy: bool
) -> NDArray[np.bool_]:
    """Where an image holds its header's padding value, or one between that and its limit.

    Args:
        words: the image as it is stored; writers compare the whole word, also if it has spare bits.
        values: the same, cut to the bits of the picture.
        lossy: the padding came through lossy compression, so it is not exact and has a soft edge.

    Returns: same shape as ``values``.
    """
    if words.dtype.kind == "f":
        ends = numbers(header, "FloatPixelPaddingValue") or numbers(header, "DoubleFloatPixelPaddingValue")
        limit = numbers(header, "FloatPixelPaddingRangeLimit") or numbers(
            header, "DoubleFloatPixelPaddingRangeLimit"
        )
    else:
        ends, limit = numbers(header, "PixelPaddingValue"), numbers(header, "PixelPaddingRangeLimit")
    if not ends:
        return np.zeros(values.shape, bool)
    low, high = sorted(_as_stored(number, words.dtype) for number in (ends[0], (limit or ends)[0]))
    exact = ((words >= low) & (words <= high)) | ((values >= low) & (values <= high))
    return _softened(exact, values, low, high) if lossy and exact.any() else exact


def _as_stored(number: float, kind: np.dtype[Any]) -> float:
    """A header's number in the type of the words: it may have the other sign (63536 for -2000)."""
    if kind.kind == "f":
        return number
    return int(np.array(int(number) % (1 << 8 * kind.itemsize), f"u{kind.itemsize}").view(kind))


def _softened(exact: NDArray[np.bool_], values: NDArray[Any], low: float, high: float) -> NDArray[np.bool_]:
    """Padding grown over what lossy compression made of its inside and its edge."""
    others = values[~exact]
    if not others.size:
        return exact
    bottom, top = np.percentile(others, (1, 99))
    distance = max(float(low) - top, float(bottom) - high, 0.0)
    reach = distance / 2 if distance > top - bottom else NEAR * (top - bottom)
    near = (values >= low - reach) & (values <= high + reach)
    grown = np.zeros_like(exact)
    for index in np.ndindex(exact.shape[:-2]):
        grown[index] = ndimage.binary_propagation(exact[index], mask=near[index] | exact[index])
        if (
            distance > top - bottom
        ):  # far from the picture: its edge rings as far as a block of the compression
            grown[index] = ndimage.binary_dilation(grown[index], iterations=BLOCK)
    return grown


def undeclared_padding(values: NDArray[Any], bits: int, *, is_film: bool) -> NDArray[np.bool_]:
    """Where an image holds its least or its greatest value often, and nothing near to it.

    A picture has soft edges, with values between metal or air and all the rest; padding has hard ones.

    Args:
        values: stored whole numbers.
        bits: that they are stored in.
        is_film: else only the ends of the scale count, and not 0: it is the background of MR.
    """
    ends = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if values.dtype.kind == "i" else ((1 << bits) - 1,)
    found = np.zeros(values.shape, bool)
    for end in (int(values.min()), int(values.max())):
        here = values == end
        if (not is_film and end not in ends) or here.mean() < UNDECLARED or (found | here).all():
            continue
        rest = values[~here & ~found]
        low, high = int(rest.min()), int(rest.max())
        if high > low and min(abs(end - low), abs(end - high)) > FAR * (high - low):
            found |= here
    return found


def filled(pixels: Float32, padding: NDArray[np.bool_]) -> Float32:
    """Pixels with their padding as dark as the darkest pixel of the picture.

    Raises:
        Unusable: there is nothing but padding.
    """
    if not padding.any():
        return pixels
    if padding.all():
        raise Unusable("constant-image", "All pixels are equal.", "Check that the export was not blank.")
    return np.where(padding, pixels[~padding].min(), pixels).astype(np.float32, copy=False)
