"""Volumes larger than what a network takes: patches to train on, sliding windows to judge by.

A patch lies wholly inside one volume; where it lies follows from that volume's own label map and from chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from medveil_imaging.patients import Patient
from medveil_imaging.sources.raw import Volume

OVERLAP = 0.25
"""Share of a window that its neighbour sees as well; the windows are weighted by a bell, for a network knows
least at its borders. MONAI's usual value."""
WINDOWS_AT_ONCE = 2
TRIES = 4096
"""Voxels looked at for one of the wanted kind, before all of them are."""


def without_margins(volume: Volume, labels: Volume) -> tuple[Volume, Volume]:
    """A volume and its label map on the same grid, without the outer layers in which nothing was imaged.

    Those are layers in which every channel is as dark as it is anywhere and nothing is outlined: the air of a
    head whose skull was removed. Air with a scanner's noise in it stays. What is left keeps its place.
    """
    layers = volume.voxels if volume.voxels.ndim > 3 else volume.voxels[None]
    seen = labels.voxels > 0
    for layer in layers:
        seen |= layer > layer.min()
    box = []
    for axis in range(3):
        along = np.flatnonzero(seen.any(tuple(other for other in range(3) if other != axis)))
        if not len(along):
            return volume, labels
        box.append(slice(int(along[0]), int(along[-1]) + 1))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    x, y, z = box
    kept = replace(volume, voxels=volume.voxels[..., x, y, z], affine=affine)
    return kept, replace(labels, voxels=labels.voxels[x, y, z], affine=affine)


def random_patches(
    patient: Patient, which: Sequence[int], size: tuple[int, ...], *, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of each chosen volume: images (k * count, channels, \\*size), labels (k * count, \\*size).

    By a coin for each, a patch lies around a voxel of some structure or of the background, so that small
    structures are seen; anywhere, where a volume has not both (MONAI's ``RandCropByPosNegLabel``, without a
    list of all voxels for every patch). Near a border it moves inwards. Volumes may have different shapes;
    one at a time is taken.

    Guarantees: depends on this patient's volumes and the generator only.
    """
    images, labels = [], []
    for k in which:
        image, label_map = patient.take([k])
        for _ in range(count):
            box = _box(label_map[0], size, generator)
            images.append(image[(slice(None), slice(None), *box)])
            labels.append(label_map[(slice(None), *box)])
    return torch.cat(images), torch.cat(labels)


def _box(labels: torch.Tensor, size: tuple[int, ...], generator: torch.Generator) -> list[slice]:
    structure = bool(torch.randint(2, (1,), generator=generator))
    flat = labels.reshape(-1)
    places = torch.randint(len(flat), (TRIES,), generator=generator)
    fitting = places[(flat[places] > 0) == structure]
    if not len(fitting):  # rare or absent
        every = ((flat > 0) == structure).nonzero()[:, 0]
        fitting = every[torch.randint(len(every), (1,), generator=generator)] if len(every) else places
    middle = np.unravel_index(int(fitting[0]), labels.shape)
    starts = (
        min(max(int(place) - edge // 2, 0), length - edge)
        for place, edge, length in zip(middle, size, labels.shape, strict=True)
    )
    return [slice(start, start + edge) for start, edge in zip(starts, size, strict=True)]


def by_windows(
    module: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    size: tuple[int, ...],
    device: torch.device,
) -> torch.Tensor:
    """Logits (1, outputs, \\*shape), float32, of a volume (1, channels, \\*shape) not below ``size``.

    The network sees windows of ``size`` on ``device``; the volume and its logits, once, stay on the CPU.
    """

    from monai.inferers import sliding_window_inference

    def logits(windows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module(windows)
        return found.float()

    with torch.no_grad():
        whole: torch.Tensor = sliding_window_inference(
            image,
            size,
            WINDOWS_AT_ONCE,
            logits,
            overlap=OVERLAP,
            mode="gaussian",
            sw_device=device,
            device=torch.device("cpu"),
        )
    return whole
