"""T1-weighted MR volumes of the brain alone: skull and face removed, everything outside the brain zero.

The unit of the grey scale is the peak of the white matter, which is the brightest large tissue of a T1 image
on every scanner: grey matter then lies near 0.7 and the ventricles near 0.3, whoever made the image. A
z-score would shift with the size of the ventricles, and that is what age changes.
"""

from __future__ import annotations

import numpy as np

from medveil.profiles import PROFILES, Profile
from medveil.tensors import Float32

BINS = 256
SMOOTHING = 10.0
"""Deviation of the smoothing of the histogram, in bins, some 6 % of the peak, which is a tissue's then."""
BRIGHTEST = 99.9
"""Percentile of the brain's voxels where the histogram ends; vessels and spikes lie above."""
LARGEST = 2.0
"""Peaks of the white matter at which the scale is cut: no tissue is brighter."""


def of_white_matter(voxels: Float32) -> Float32:
    """Each voxel as a multiple of the white matter's peak, within 0 to 2; the outside stays 0.

    The peak is the highest point of the smoothed histogram above the median of the brain's voxels.
    """
    brain = voxels[voxels > 0]
    if not brain.size:
        return np.zeros_like(voxels)
    top = np.percentile(brain, BRIGHTEST)
    counts, edges = np.histogram(brain, BINS, (0.0, float(top)))
    steps = np.arange(-4 * SMOOTHING, 4 * SMOOTHING + 1)
    smooth = np.convolve(counts, np.exp(-((steps / SMOOTHING) ** 2) / 2), "same")
    middle = min(int(np.searchsorted(edges, np.median(brain), "right")), BINS) - 1
    peak = edges[middle + int(smooth[middle:].argmax())] + edges[1] / 2
    found: Float32 = np.clip(voxels / np.float32(peak), 0, np.float32(LARGEST))
    return found


PROFILES.register("brain")(
    Profile(
        images="MR images of the brain",
        size=(96, 112, 96),
        recipes_of="mri",
        spacing_mm=(2.0, 2.0, 2.0),
        grey=of_white_matter,
        z_score=False,
    )
)
