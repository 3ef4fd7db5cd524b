"""MR volumes. Their intensity has no unit and differs a thousandfold between scanners: the z-score only."""

from __future__ import annotations

from medveil.profiles import PROFILES, Profile

PROFILES.register("mri")(
    Profile(images="MR images", size=(48, 64, 48), recipes_of="mri", spacing_mm=(1.0, 1.0, 1.0), mirrors=True)
)
