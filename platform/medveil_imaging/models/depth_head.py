"""What brains look like at each depth, and a trained linear head: for age and its like, with few patients.

Ageing widens the ventricles and the sulci and thins the grey matter: the share of dark, grey and white voxels
at each depth below the surface says most of it, in 48 numbers that need no registration and no training.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from medveil.stopping import check_stopped
from medveil_imaging.heads import Head
from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options

Float64 = NDArray[np.float64]
NAME = "depth_head"
DEPTHS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8)
"""Centres of the shells, as shares of the depth of the innermost voxel."""
LEVELS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.15)
"""Centres of the grey levels, in peaks of the white matter (:mod:`medveil.profiles.brain`)."""
CLOSING = 2
"""Voxels by which gaps in the brain's mask are closed before it is filled: sulci and dark ventricles are
inside."""
BIAS = 0.05
"""The constant feature: as long as what is left of the others when their mean is taken away is wide."""


class DepthHead(nn.Module):
    """Share of each grey level in each shell of depth, and one linear layer.

    Square roots of shares make the Hellinger distance of histograms Euclidean, and give every image length 1.
    """

    frozen_features = True
    """Tells a training engine that :meth:`features` may be computed once for a whole data set."""

    def __init__(self, shape: ModelShape, *, centred: bool) -> None:
        super().__init__()
        self.head = Head(len(DEPTHS) * len(LEVELS) + 1, shape.outputs, centred=centred)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features (k, 49) of volumes (k, 1, x, y, z) in peaks of the white matter, 0 outside the brain:
        unit length, then the constant 0.05.

        Each row depends on its own volume only; no trained weight takes part.
        """
        if not len(images):
            return images.new_zeros(0, self.head.in_features)
        rows = [shares(volume[0].detach().cpu().double().numpy()) for volume in images]
        found = torch.from_numpy(np.stack(rows)).sqrt().to(images)
        return torch.cat([found, torch.full_like(found[:, :1], BIAS)], 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (k, outputs) of volumes, or of features computed before."""
        logits: torch.Tensor = self.head(images if images.ndim == 2 else self.features(images))
        return logits


def shares(volume: Float64) -> Float64:
    """The shares of all grey levels over all shells, each shell counting alike: (48,), sum 1.

    Zeros for a volume without a brain in it.
    """
    check_stopped()
    seen = np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0)
    brain = seen > 0
    if not brain.any():
        return np.zeros(len(DEPTHS) * len(LEVELS))
    edge = CLOSING + 1
    padded = np.pad(brain, edge)
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(padded, iterations=CLOSING) | padded)
    depth = ndimage.distance_transform_edt(filled)
    inside = filled[edge:-edge, edge:-edge, edge:-edge]
    deep = depth[edge:-edge, edge:-edge, edge:-edge][inside] / depth.max()
    joint = soft_bins(deep, DEPTHS) @ soft_bins(seen[inside], LEVELS).T
    shells = np.maximum(joint.sum(1, keepdims=True), 1e-12)  # a thin brain may have nothing between
    found = (joint / shells).ravel()
    return np.asarray(found / max(float(found.sum()), 1e-12))


def soft_bins(values: Float64, centres: tuple[float, ...]) -> Float64:
    """How much of each value (n,) belongs to each centre: (centres, n), columns sum to 1.

    A value between two centres belongs to both in proportion; beyond the outer ones, to the outer one.
    """
    place = np.interp(values, centres, np.arange(len(centres)))
    return np.maximum(0.0, 1.0 - np.abs(place - np.arange(len(centres))[:, None]))


@MODELS.register(NAME)
def depth_head(shape: ModelShape, options: Options) -> nn.Module:
    """Depth and grey level shares and a linear head that starts at zero; 49 weights a logit.

    Input (k, 1, x, y, z) of the profile ``brain``, output (k, outputs). Option ``centred`` (false): see
    :class:`medveil_imaging.heads.Head`; ``mean_rounds`` (1): rounds that release the mean.

    Raises:
        BadModel: not 3-D, or several channels.
    """
    chosen = read_options(NAME, options, {"centred": False, "mean_rounds": 1})
    if shape.dims != 3 or shape.channels != 1:
        raise BadModel(name=NAME, problem="it is for volumes (3-D images) with one channel only")
    return DepthHead(shape, centred=bool(chosen["centred"]))
