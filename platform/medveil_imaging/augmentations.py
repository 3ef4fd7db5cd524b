"""Random changes of images just before a training step; an image and its label map move together.

Built from MONAI's transforms, image by image; a study of shifts alone does not load it. Chance comes from a
generator that the operating system has seeded; it is never a source of a mechanism's noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from medveil.augmentations import MIRROR, SHARE
from medveil.study import Study
from medveil.tasks import TASKS

SHIFT = 16
"""Random shifts go up to 1/16 of the edge: as far as patients stand from the middle."""

Numbers = Mapping[str, float]
Pair = tuple[torch.Tensor, torch.Tensor | None]
"""An image (channels, \\*size) and its label map (1, \\*size), if it has one."""
Step = Callable[[torch.Tensor, torch.Tensor | None], Pair]
Change = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Images (k, channels, \\*size), labels (k, …) → the same, changed at random."""


def random_change(study: Study, generator: torch.Generator) -> Change:
    """What a study's ``training.augmentations`` do to images and labels; each image by its own chance.

    The result lies where the images lie, a GPU included.

    Guarantees: row i depends on row i and chance only.
    """
    chance = np.random.RandomState(int(torch.randint(2**32, (1,), generator=generator)))
    outlines, asked = TASKS[study.task].outlines, study.training.augmentations
    dims, spacing_mm = len(study.transforms.size), study.transforms.spacing_mm
    spacing = spacing_mm[:dims] or (1.0,) * dims
    steps: list[Step] = []
    intensities = _intensities()
    for name, numbers in asked.items():
        if name == "affine":
            steps.append(_affine(numbers, spacing, chance))
        elif name == MIRROR:
            # A volume and its slices begin with the axis from left to right, a film with its rows.
            steps.append(_mirror(numbers, chance, axis=1 if spacing_mm else 2))
        else:
            steps.append(_intensity(intensities[name](numbers), chance))

    def apply(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        changed: list[torch.Tensor] = []
        moved: list[torch.Tensor] = []
        for image, label in zip(images, labels, strict=True):
            pair: Pair = (image, label[None].float() if outlines else None)
            for step in steps:
                pair = step(*pair)
            changed.append(pair[0])
            moved.append(label if pair[1] is None else pair[1][0].round().long())
        return torch.stack(changed), torch.stack(moved)

    return apply


def _affine(numbers: Numbers, spacing: tuple[float, ...], chance: np.random.RandomState) -> Step:
    """In mm about the middle: with unequal edges of a voxel a turn in voxels would shear."""
    from monai.transforms import Affine
    from monai.transforms.utils import create_rotate, create_scale, create_shear, create_translate

    dims = len(spacing)
    turns, shears = (1, 2) if dims == 2 else (3, 6)
    to_mm = np.diag([*spacing, 1.0])

    def between(most: float, count: int) -> list[float]:
        return list(chance.uniform(-most, most, count))

    def step(image: torch.Tensor, label: torch.Tensor | None) -> Pair:
        if chance.uniform() >= numbers[SHARE]:
            return image, label
        angles = between(np.deg2rad(numbers["degrees"]), turns)
        shear = between(numbers["shear"], shears)
        scale = [1 + stretch for stretch in between(numbers["scale"], dims)]
        shift = between(numbers["shift"], dims) * np.array(image.shape[1:])
        turned = create_rotate(dims, angles) @ create_shear(dims, shear) @ create_scale(dims, scale)
        matrix = create_translate(dims, list(shift)) @ np.linalg.inv(to_mm) @ turned @ to_mm
        move = Affine(affine=matrix, padding_mode="border", image_only=True, device=image.device)
        return (
            _plain(move(image, mode="bilinear")),
            None if label is None else _plain(move(label, mode="nearest")),
        )

    return step


def _mirror(numbers: Numbers, chance: np.random.RandomState, *, axis: int) -> Step:
    def step(image: torch.Tensor, label: torch.Tensor | None) -> Pair:
        if chance.uniform() >= numbers[SHARE]:
            return image, label
        return image.flip(axis), None if label is None else label.flip(axis)

    return step


def _intensities() -> dict[str, Callable[[Numbers], Any]]:
    """What changes grey values only."""
    from monai import transforms

    return {
        "blur": lambda n: transforms.RandGaussianSmooth(*[(0.0, n["deviation"])] * 3, prob=n[SHARE]),
        "noise": lambda n: transforms.RandGaussianNoise(prob=n[SHARE], std=n["deviation"]),
        "contrast": lambda n: transforms.RandScaleIntensity(n["factor"], prob=n[SHARE]),
        "brightness": lambda n: transforms.RandShiftIntensity(n["offset"], prob=n[SHARE]),
        "gamma": lambda n: transforms.RandAdjustContrast(
            prob=n[SHARE], gamma=(1 / n["exponent"], n["exponent"]), retain_stats=True
        ),
    }


def _intensity(transform: Any, chance: np.random.RandomState) -> Step:
    transform.set_random_state(state=chance)

    def step(image: torch.Tensor, label: torch.Tensor | None) -> Pair:
        return _plain(transform(image)), label

    return step


def _plain(image: Any) -> torch.Tensor:
    """Without MONAI's bookkeeping."""
    tensor: torch.Tensor = image.as_subclass(torch.Tensor)
    return tensor


def random_shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image (k, 1, \\*size) moved by up to 1/16 of every edge; the border is repeated.

    Anatomy is never mirrored: a heart on the right is a finding.
    """
    return _shift(images, _offsets(images, generator))


def random_shift_pair(
    images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`random_shift`; images (k, 1, \\*size) and label maps (k, \\*size) move together."""
    offsets = _offsets(images, generator)
    return _shift(images, offsets), _shift(labels[:, None], offsets)[:, 0]


def _offsets(images: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
    offsets = []
    for edge in images.shape[2:]:
        reach = edge // SHIFT
        offsets.append(torch.randint(-reach, reach + 1, (len(images),), generator=generator))
    return offsets


def _shift(images: torch.Tensor, offsets: list[torch.Tensor]) -> torch.Tensor:
    for axis, offset in enumerate(offsets, start=2):
        edge = images.shape[axis]
        index = (torch.arange(edge) + offset[:, None]).clamp(0, edge - 1).to(images.device)
        layout = [len(images), *(edge if a == axis else 1 for a in range(1, images.ndim))]
        images = images.gather(axis, index.view(layout).expand(images.shape))
    return images
