"""From what a reader has read to the network's tensor, and from what it outlined back to the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from torch.nn import functional

from medveil.profiles import PROFILES
from medveil.study import Slices, Study
from medveil.tasks import TASKS
from medveil_imaging.patches import without_margins
from medveil_imaging.sources.channels import one_volume
from medveil_imaging.sources.one_row import images_wanted
from medveil_imaging.sources.raw import Film, Float64, Unusable, Volume, brought_into_shape
from medveil_imaging.sources.read import Wanted
from medveil_imaging.transforms import film_transform, placed_slices, placed_volume
from medveil_research.prediction.cases import Case

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Placed:
    """A case as the network sees it."""

    images: torch.Tensor = field(repr=False)
    """(k, channels, \\*size); by windows (1, channels, \\*shape)."""
    back: Callable[[torch.Tensor], Labels] = field(repr=False)
    """A label map (k, \\*size) of these images → on the grid of what was read: of a volume (i, j, k), of a
    film (rows, columns)."""
    affine: Float64 | None = None
    """Of the volume that was read; None of a film."""


class Shaper:
    """The way of a study's images there and back."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._profile = PROFILES[study.transforms.profile]
        self._outlines = TASKS[study.task].outlines
        if not self._profile.reads_volumes:
            self._film = film_transform(study.transforms)
        elif self._profile.sliced:
            self._slices = placed_slices(study.transforms)
        else:
            self._volume = placed_volume(study.transforms)

    def wanted(self, case: Case) -> tuple[Wanted, ...]:
        """The files of a case and what each is to be read as."""
        return images_wanted(self._study.transforms, case.paths)

    def seen(self, read: Sequence[Film | Volume]) -> Placed:
        """What the network is shown. Raises: Unusable: the images do not fit the study."""
        with brought_into_shape():
            if not self._profile.reads_volumes:
                return self._of_film(cast(Film, read[0]))
            return self._of_volume(one_volume(cast(Sequence[Volume], read), self._study.transforms.channels))

    def _of_film(self, film: Film) -> Placed:
        if self._outlines and self._profile.compose is not None:
            raise Unusable(
                "no-way-back",
                "The study's profile has its own way, and nobody knows how its pictures lie on the film.",
                "Use the profile's own program to bring the outlines back.",
            )
        shape = film.pixels.shape[-2:]

        def back(labels: torch.Tensor) -> Labels:
            wide = functional.interpolate(labels[None].float(), size=shape, mode="nearest-exact")
            return np.asarray(wide[0, 0].numpy(), np.uint8)

        return Placed(self._film(film)[None], back)

    def _of_volume(self, volume: Volume) -> Placed:
        if self._profile.sliced:
            return self._of_slices(volume)
        seen = volume
        if self._study.transforms.patches:
            seen, _ = without_margins(
                volume, replace(volume, voxels=np.zeros(volume.voxels.shape[-3:], np.float32))
            )
        image, affine = self._volume(seen)
        return Placed(image[None], lambda labels: laid_on(volume, labels[0].numpy(), affine), volume.affine)

    def _of_slices(self, volume: Volume) -> Placed:
        images, chosen, affine = self._slices(volume)
        bounds = self._study.transforms.slices or Slices()
        first, every = chosen[0], bounds.every
        steps = affine.copy()
        steps[:3, 3] += steps[:3, 2] * first
        steps[:3, 2] *= every

        def back(labels: torch.Tensor) -> Labels:
            pile = np.zeros((*labels.shape[1:], (chosen[-1] - first) // every + 1), np.uint8)
            for place, layer in zip(chosen, labels.numpy(), strict=True):
                pile[..., (place - first) // every] = layer
            return laid_on(volume, pile, steps)

        return Placed(images, back, volume.affine)


def laid_on(volume: Volume, labels: NDArray[np.integer], affine: Float64) -> Labels:
    """A label map with its affine, on the grid of a volume: each voxel has the label that is nearest to it.

    Outside of the label map's field of view all is background.
    """
    into = np.linalg.solve(affine, volume.affine)
    found = affine_transform(
        np.asarray(labels, np.uint8),
        into[:3, :3],
        into[:3, 3],
        volume.voxels.shape[-3:],
        order=0,
        mode="grid-constant",
        cval=0,
    )
    return np.asarray(found, np.uint8)
