"""Pictures for a page: an image in grey, a map or outlines over it, as PNG within the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.float32]
LEAST_EDGE = 256
"""Pixels of the shorter edge; smaller images are enlarged without smoothing."""
BETWEEN = 6
"""Pixels of white between two pictures."""
ENDS = (1.0, 99.0)
"""Per cent of the pixels between which the grey scale runs."""
STRONGEST = 0.65
"""How much of the picture the strongest place of a map covers."""
HOT = np.array([[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]], np.float64)
"""Colours of a map from weak to strong: five of the scale "plasma", which also the colour-blind can order."""
AGREED, MISSED, EXTRA = (0, 158, 115), (86, 180, 233), (213, 94, 0)
"""Both outline it; the expert alone; the model alone. Three colours of Okabe and Ito."""


def grey_of(image: Grey) -> NDArray[np.float64]:
    """One channel as 0 to 255, bright as it is."""
    low, high = np.percentile(image, ENDS)
    return np.asarray(255 * np.clip((image - low) / max(float(high - low), 1e-9), 0, 1), np.float64)


def with_map(image: Grey, values: Grey, most: float) -> NDArray[np.uint8]:
    """The image with a map over it, (rows, columns, 3); what is not above 0 shows the image alone.

    Args: most: the value that gets the strongest colour.
    """
    strength = np.clip(values / max(most, 1e-12), 0, 1)[..., None]
    place = strength[..., 0] * (len(HOT) - 1)
    colour = np.stack([np.interp(place, np.arange(len(HOT)), HOT[:, k]) for k in range(3)], -1)
    share = STRONGEST * strength
    mixed = (1 - share) * grey_of(image)[..., None] + share * colour
    return np.asarray(np.rint(mixed), np.uint8)


def with_outlines(image: Grey, truth: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The image with what expert and model outline, of any structure; where both name one but not the same it
    counts as the model's alone."""
    mixed = np.repeat(grey_of(image)[..., None], 3, -1)
    agreed = (truth == found) & (truth > 0)
    for where, colour in (
        (agreed, AGREED),
        ((truth > 0) & (found == 0), MISSED),
        ((found > 0) & ~agreed, EXTRA),
    ):
        mixed[where] = 0.5 * mixed[where] + 0.5 * np.array(colour)
    return np.asarray(np.rint(mixed), np.uint8)


def plain_picture(image: Grey) -> NDArray[np.uint8]:
    """The image alone."""
    return np.asarray(np.rint(np.repeat(grey_of(image)[..., None], 3, -1)), np.uint8)


def address(pictures: Sequence[NDArray[np.uint8]]) -> Markup:
    """Pictures of one size side by side, as the ``data:`` address of one PNG: pixels and nothing else."""
    times = max(1, -(-LEAST_EDGE // min(pictures[0].shape[:2])))
    large = [one.repeat(times, 0).repeat(times, 1) for one in pictures]
    between = np.full((len(large[0]), BETWEEN, 3), 255, np.uint8)
    parts = [part for one in large for part in (between, one)][1:]
    image = Image.fromarray(np.concatenate(parts, 1))
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return Markup("data:image/png;base64," + base64.b64encode(data.getvalue()).decode())


def axial(volume: NDArray[Any], place: int) -> NDArray[Any]:
    """The axial slice of a volume in RAS axes with this number, as :func:`as_seen`."""
    return as_seen(volume[:, :, place])


def as_seen(cut: NDArray[Any]) -> NDArray[Any]:
    """An axial slice (right, anterior) from the feet: front up, the patient's right on the left."""
    return np.ascontiguousarray(cut.T[::-1, ::-1])
