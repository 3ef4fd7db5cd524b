"""Kinds of image, by name: one file each, found through :data:`PROFILES`.

What a profile says is all that differs between kinds: edges, grey scale, what a new study begins with.
:mod:`medveil_imaging.transforms` makes a MONAI ``Compose`` of it, the same way for all; a profile that wants
another way builds a ``Compose`` of its own. A study names the hash of the profile's file and the fingerprint
of what it makes of a phantom, and a node with others refuses the study. The aggregator reads profiles, too,
and starts without torch: so torch and MONAI are imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from medveil.registry import Registry
from medveil.tensors import Float32


def as_it_is(pixels: Float32) -> Float32:
    """The grey scale unchanged."""
    return pixels


class Shape(Protocol):
    """What a profile's own ``Compose`` sees of a study (:class:`medveil.study.Transforms`)."""

    @property
    def size(self) -> tuple[int, ...]: ...
    @property
    def spacing_mm(self) -> tuple[float, ...]: ...
    @property
    def channel_count(self) -> int: ...
    @property
    def patches(self) -> int: ...


@dataclass(frozen=True)
class Profile:
    """How an image of this kind becomes a tensor.

    With two edges it is a film and resized; with three it is a volume, turned to RAS, resampled to voxels of
    ``spacing_mm``, then cropped or padded around its centre. Of a sliced volume each axial slice is an image
    with two edges.
    """

    images: str
    """As a sentence names them."""
    size: tuple[int, ...]
    """Edges of a new study that names none, in pixels or voxels."""
    recipes_of: str
    """Profile whose shipped settings and usual models suit it, mostly itself."""
    spacing_mm: tuple[float, ...] = ()
    """Edges of a voxel in a new study; films have none."""
    sliced: bool = False
    """Whether a line names a volume, and its axial slices are the images."""
    channels: int = 1
    """Of an image whose study names no channels: 3 for pictures in colour."""
    grey: Callable[[Float32], Float32] = as_it_is
    """What is done to the pixels of one image before they are resized or resampled, whatever their shape."""
    z_score: bool = True
    """Whether each image then gets mean 0 and deviation 1; else the grey scale means the same everywhere."""
    outside: float = 0.0
    """What a volume is padded with, in the finished tensor; 0 is the mean of a z-scored one."""
    mirrors: bool = False
    """Whether a study may exchange left and right at random: not where a side is a finding."""
    compose: Callable[[Shape], Any] | None = None
    """Instead of ``grey``, ``z_score`` and ``outside``: builds the whole way as a MONAI ``Compose``, without
    chance. It gets a float32 tensor (channels, \\*edges), of a volume a MetaTensor with its RAS affine in mm.
    It gives (channels, \\*size); with patches any edges not below it, of a sliced volume all its slices."""
    outline: Callable[[Shape], Any] | None = None
    """Beside ``compose``, for tasks that outline: the same way for a label map (1, \\*edges), whose class
    numbers it keeps."""
    shifts: bool = False
    """Whether a small random shift is harmless enough to be in the shipped settings."""

    @property
    def dims(self) -> int:
        """Of an image: 2 for films and slices, 3 for volumes."""
        return len(self.size)

    @property
    def reads_volumes(self) -> bool:
        """Whether the files are volumes."""
        return self.dims == 3 or self.sliced


PROFILES: Registry[Profile] = Registry("profile", __name__)
