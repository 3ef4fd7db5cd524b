"""MR volumes. Their intensity has no unit and differs a thousandfold between scanners: the z-score only.

Voxels of 1 mm are what usual T1 volumes of a head have, so that most are hardly resampled; 48 x 64 x 48 of
them hold a structure such as the hippocampus (about 20 x 45 x 20 mm) with room around it. A whole head wants
larger voxels, or patches.
"""

from __future__ import annotations

from medveil.profiles import PROFILES, Profile

PROFILES.register("mri")(
    Profile(images="MR images", size=(48, 64, 48), recipes_of="mri", spacing_mm=(1.0, 1.0, 1.0), mirrors=True)
)
