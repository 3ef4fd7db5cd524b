"""PNG and JPEG films through Pillow, grey only."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from medveil_imaging.sources.formats import FORMATS, Format
from medveil_imaging.sources.raw import MAX_PIXELS, Film, Unusable, check_pixel_count

GREY = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "F"})
COLOUR = frozenset({"RGB", "RGBA", "P", "PA"})
GREY_TOLERANCE = 4
"""Levels of 255 by which the channels of a grey picture stored as colour may differ (JPEG rounding)."""


def read_picture(data: bytes) -> Film:
    """A grey film from the bytes of a PNG or JPEG file.

    A picture stored in colour is accepted when its three channels are equal, as exports often write it.

    Raises:
        Unusable: damaged, too large, animated or truly coloured.
    """
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
        check_pixel_count(picture.size, MAX_PIXELS)
        if getattr(picture, "n_frames", 1) != 1:
            raise Unusable("several-frames", "The picture has several frames.", "Export one film per file.")
        picture.load()
        if picture.mode in GREY:
            grey = picture.convert("L") if picture.mode in {"1", "LA"} else picture
            return Film(np.asarray(grey, np.float32))
        if picture.mode not in COLOUR:
            raise _coloured()
        channels = np.asarray(picture.convert("RGB"), np.int16)
    red, green, blue = channels[:, :, 0], channels[:, :, 1], channels[:, :, 2]
    if max(int(np.abs(red - green).max()), int(np.abs(blue - green).max())) > GREY_TOLERANCE:
        raise _coloured()
    return Film(green.astype(np.float32))


def _coloured() -> Unusable:
    return Unusable("colour-image", "The image is in colour, so it is no X-ray.", "Export the grey original.")


FORMATS.register("picture")(
    Format(
        what="a flat picture",
        begins=lambda data: data[:8] == b"\x89PNG\r\n\x1a\n" or data[:3] == b"\xff\xd8\xff",
        film=read_picture,
    )
)
