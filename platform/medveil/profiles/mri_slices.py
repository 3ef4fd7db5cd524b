"""Axial slices of MR volumes, for networks that see pictures.

The volume is turned to RAS and resampled as a whole, so that a slice means the same place and size at every
hospital, however thick its own slices are. It gets its z-score as a whole, too: by itself a slice with little
tissue would be stretched to the contrast of one with much. All slices are a patient's: they count together.
96 x 96 pixels of 2 mm hold a head; slices every 4 mm are as thick as those of usual clinical series.
"""

from __future__ import annotations

from medveil.profiles import PROFILES, Profile

PROFILES.register("mri_slices")(
    Profile(
        images="MR slices",
        size=(96, 96),
        recipes_of="xray",
        spacing_mm=(2.0, 2.0, 4.0),
        sliced=True,
        mirrors=True,
        shifts=True,
    )
)
