"""X-ray films."""

from __future__ import annotations

import numpy as np

from medveil.profiles import PROFILES, Profile
from medveil.tensors import Float32

CLIP_PERCENTILES = (0.5, 99.5)
"""Per cent of the pixels below and above which the grey scale is cut: a lead letter of 1 x 2 cm covers 0.13 %
of a film of 35 x 43 cm, a wire less, and the lungs and the heart all lie between."""
SAMPLE = 2**17
"""Pixels that the percentiles are read from: every n-th of a large film, which changes them by < 0.3 %."""


def between_percentiles(pixels: Float32) -> Float32:
    """Cut at both percentiles: lead markers, wires and empty corners must not set the grey scale."""
    sample = pixels.ravel()[:: 1 + pixels.size // SAMPLE]
    low, high = np.percentile(sample, CLIP_PERCENTILES)
    return np.clip(pixels, np.float32(low), np.float32(high))


PROFILES.register("xray")(
    Profile(images="X-ray images", size=(64, 64), recipes_of="xray", grey=between_percentiles, shifts=True)
)
