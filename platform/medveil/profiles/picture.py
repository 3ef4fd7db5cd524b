"""Pictures in colour: photographs of skin or fundus, endoscopy, stained tissue, pictures of everyday things.

Red, green and blue keep their relation: no z-score of a channel, which would make all pictures equally red,
green and blue, and no percentiles, which would shift white. 0 to 255 becomes -1 to 1, the range that
MobileNetV2 and its kin were made for (Sandler et al., CVPR 2018; also with weights from elsewhere). A grey
picture is taken as one whose three channels are equal. X-ray films have the profile ``xray``.
"""

from __future__ import annotations

from medveil.profiles import PROFILES, Profile
from medveil.tensors import Float32

MIDDLE = 127.5
"""Half of the largest level: black becomes -1, white 1."""


def around_zero(levels: Float32) -> Float32:
    """0 to 255 as -1 to 1, the same for each channel and picture."""
    return levels / MIDDLE - 1


PROFILES.register("picture")(
    Profile(
        images="colour pictures",
        size=(64, 64),
        recipes_of="xray",
        channels=3,
        grey=around_zero,
        z_score=False,
        mirrors=True,
        shifts=True,
    )
)
