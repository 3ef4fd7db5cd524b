"""Segmentation of small aligned crops with few weights: where a structure lies, and how it looks there.

With a hundred patients, noise that hides each of them drowns a network of a hundred thousand weights. Here
861 weights are trained (three classes); everything else is public: the crop is cut around the structure, so
position alone says much, and textbook filters describe each voxel. The filters come from no patient; the
ellipsoid is where the public Decathlon hippocampus crops have their structure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options

Float64 = NDArray[np.float64]
NAME = "position_head"
FINE, COARSE, PARTS = (8, 10, 8), (3, 3, 3), (4, 6, 4)
"""Knots along the axes: the position map, the weights of the features, the maps that tell parts apart."""
AXES = (1 / 3, 3 / 8, 3 / 8)
"""Semi-axes of the central ellipsoid in which the structure is looked for, as shares of the edges."""
RIM = 1.4
"""Squared radius, in units of the ellipsoid, up to which there are weights; beyond it all is background."""
PRIOR, FALL = -1.5, 3.0
"""Logit of the structure before training, and how fast it falls outside the ellipsoid (down to -7.5)."""
SMOOTHINGS = (0.8, 2.0, 4.0)
"""Standard deviations of the smoothings, in voxels."""
LEVELS = (-1.2, -0.6, 0.0, 0.6, 1.2)
"""Centres of the soft intensity bins, in standard deviations of the volume."""
FEATURES = 23
LARGEST = 3.0
SMALLEST_EDGE = 16


class PositionHead(nn.Module):
    """Logit 0 for the background, h + contrast * s for the parts of one structure.

    Within the ellipsoid h(v) = fixed prior + position map + 23 features with weights that vary over a 3x3x3
    grid; it tells the structure from the background. One coarse map s for each part but the first tells the
    parts apart: with three classes the logits are 0, h + s, h - s. Outside it the prior stands alone: what
    weights would learn there is noise, and noise far from the structure is what a segmentation suffers from.

    Source: a probabilistic atlas with local appearance (Fischl et al., Neuron 2002), in logistic form.
    """

    frozen_features = True
    """Tells a training engine that :meth:`features` may be computed once for a whole data set."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.size = shape.size
        for name, value in _public(shape.size).items():
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("contrast", torch.from_numpy(contrasts(shape.outputs - 1)), persistent=False)
        self.position = nn.Parameter(torch.zeros(len(self.get_buffer("knots"))))
        self.appearance = nn.Parameter(torch.zeros(FEATURES, int(np.prod(COARSE))))
        if shape.outputs > 2:
            self.parts = nn.Parameter(torch.zeros(shape.outputs - 2, *PARTS))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features (k, 23, voxels of the ellipsoid) of z-scored volumes (k, 1, x, y, z), each about one.

        float16 for float32 volumes, which halves a data set's memory; float64 stays float64. Each row
        depends on its own volume only; no trained weight takes part.

        Raises:
            ValueError: another size than the model was built for.
        """
        empty = images.new_zeros(0, FEATURES, len(self.get_buffer("inside")))
        return one_by_one(self.features_at_once, images, size=self.size, empty=empty)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (k, outputs, x, y, z) of volumes (k, 1, x, y, z), or of features computed before."""
        values = images if images.ndim == 3 else self.features(images)
        looks = (values.to(self.appearance.dtype) * (self.appearance @ self.get_buffer("coarse"))).sum(1)
        structure = (looks + self._map(self._fine_grid(), "fine"))[:, None]
        if len(self.get_buffer("contrast")) > 1:
            structure = structure + self.get_buffer("contrast") @ self._map(self.parts, "part")
        prior = self.get_buffer("prior").expand(values.shape[0], len(self.get_buffer("contrast")), -1)
        inside = self.get_buffer("inside")
        parts = prior.index_add(2, inside, structure.expand(prior.shape[0], prior.shape[1], len(inside)))
        logits = torch.cat([torch.zeros_like(parts[:, :1]), parts], 1)
        return logits.view(values.shape[0], logits.shape[1], *self.size)

    def _fine_grid(self) -> torch.Tensor:
        empty = self.position.new_zeros(int(np.prod(FINE)))
        return empty.index_copy(0, self.get_buffer("knots"), self.position).view(FINE)

    def _map(self, knots: torch.Tensor, name: str) -> torch.Tensor:
        """Values at knots (…, a, b, c) → voxels of the ellipsoid (…, voxels), linear in between."""
        x, y, z = (self.get_buffer(f"{name}_{axis}") for axis in range(3))
        whole = torch.einsum("...abc,xa,yb,zc->...xyz", knots, x, y, z)
        return whole.flatten(-3)[..., self.get_buffer("inside")]

    def _along(self, name: str, axis: int, volumes: torch.Tensor) -> torch.Tensor:
        return torch.movedim(torch.movedim(volumes, axis + 1, -1) @ self.get_buffer(name).T, -1, axis + 1)

    def _smooth(self, volumes: torch.Tensor, scale: int) -> torch.Tensor:
        for axis in range(3):
            volumes = self._along(f"smooth{scale}_{axis}", axis, volumes)
        return volumes

    def features_at_once(self, volumes: torch.Tensor) -> torch.Tensor:
        """(k, 1, x, y, z) → (k, 23, voxels of the ellipsoid), as :meth:`features`; memory grows with k."""
        raw = volumes[:, 0]
        smooth = [self._smooth(raw, scale) for scale in range(len(SMOOTHINGS))]
        slopes = [
            self._along(f"slope_{axis}", axis, part) * gain
            for axis in range(3)
            for part, gain in ((smooth[0], 3.0), (smooth[1], 6.0))
        ]
        roughness = self._smooth((raw - smooth[1]).square(), 1) * 2
        inside = self.get_buffer("inside")
        fine, medium, wide, rough, *steep = (
            part.flatten(1).index_select(1, inside) for part in (*smooth, roughness, *slopes)
        )
        bins = [
            torch.exp(-(part - level).square() / (2 * width**2))
            for part, width in ((fine, 0.5), (medium, 0.4))
            for level in LEVELS
        ]
        rest = [fine, medium, wide, fine - medium, medium - wide, *steep, (fine - medium).square() * 4, rough]
        return torch.stack([*bins, *rest], 1).clamp(-LARGEST, LARGEST).to(_kept(volumes))


def one_by_one(
    features_at_once: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    *,
    size: tuple[int, ...],
    empty: torch.Tensor,
) -> torch.Tensor:
    """Fixed features of volumes (k, 1, x, y, z), each computed for itself; ``empty`` is those of none.

    Raises:
        ValueError: another size than the model was built for.
    """
    if images.shape[2:] != size:
        raise ValueError("the volumes do not have the size the model was built for")
    with torch.no_grad():
        if not len(images):
            return empty.to(_kept(images))
        return torch.cat([features_at_once(volume) for volume in torch.split(images, 1)])


def _kept(volumes: torch.Tensor) -> torch.dtype:
    return volumes.dtype if volumes.dtype == torch.float64 else torch.float16


def hats(edge: int, knots: int) -> Float64:
    """Linear interpolation between knots spread evenly from end to end of an axis: (edge, knots)."""
    place = (np.arange(edge) + 0.5) / edge * (knots - 1)
    return np.asarray(np.maximum(0.0, 1 - np.abs(place[:, None] - np.arange(knots))))


def smoothing(edge: int, deviation: float) -> Float64:
    """Gaussian smoothing over three deviations with the border repeated, as a matrix (edge, edge)."""
    reach = int(3 * deviation + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * deviation**2))
    return _stencil(edge, offsets, weights / weights.sum())


def slope(edge: int) -> Float64:
    """Central difference with the border repeated, as a matrix (edge, edge)."""
    return _stencil(edge, np.array([-1, 1]), np.array([-0.5, 0.5]))


def contrasts(parts: int) -> NDArray[np.float32]:
    """(parts, parts - 1): columns of length sqrt(2) that are orthogonal to each other and to "all alike"."""
    columns = np.zeros((parts, parts - 1))
    for place in range(1, parts):
        columns[:place, place - 1], columns[place, place - 1] = 1.0, -place
    return np.asarray(columns * np.sqrt(2 / np.square(columns).sum(0)), np.float32)


def _stencil(edge: int, offsets: NDArray[np.int64], weights: Float64) -> Float64:
    matrix = np.zeros((edge, edge))
    for offset, weight in zip(offsets, weights, strict=True):
        rows = np.arange(edge)
        np.add.at(matrix, (rows, np.clip(rows + offset, 0, edge - 1)), weight)
    return matrix


def _radius(places: list[Float64]) -> Float64:
    """Squared distance from the centre in units of the ellipsoid; ``places`` per axis in [0, 1]."""
    x, y, z = (((p - 0.5) / axis) ** 2 for p, axis in zip(places, AXES, strict=True))
    return np.asarray(x[:, None, None] + y[None, :, None] + z[None, None, :])


@lru_cache(maxsize=4)
def _public(size: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Everything fixed for a size: filters, interpolation, ellipsoid. Shared by all models; never changed."""
    radius = _radius([(np.arange(edge) + 0.5) / edge for edge in size])
    knots = _radius([np.linspace(0, 1, count) for count in FINE])
    inside = np.flatnonzero(radius < RIM)
    spread = [hats(edge, count) for edge, count in zip(size, COARSE, strict=True)]
    coarse = np.einsum("xa,yb,zc->abcxyz", *spread).reshape(int(np.prod(COARSE)), -1)[:, inside]
    found: dict[str, Float64] = {
        "prior": (PRIOR - FALL * np.clip(radius - 1, 0, 2)).ravel(),
        "coarse": coarse,
    }
    for axis, edge in enumerate(size):
        found[f"fine_{axis}"], found[f"part_{axis}"] = hats(edge, FINE[axis]), hats(edge, PARTS[axis])
        found[f"slope_{axis}"] = slope(edge)
        for scale, deviation in enumerate(SMOOTHINGS):
            found[f"smooth{scale}_{axis}"] = smoothing(edge, deviation)
    tensors = {name: torch.from_numpy(value.astype(np.float32)) for name, value in found.items()}
    return tensors | {
        "inside": torch.from_numpy(inside),
        "knots": torch.from_numpy(np.flatnonzero(knots < RIM)),
    }


@MODELS.register(NAME)
def position_head(shape: ModelShape, options: Options) -> nn.Module:
    """Position map and fixed features with a head that starts at zero; 861 weights for three classes.

    Input (k, 1, x, y, z), output (k, outputs, x, y, z); 765 weights for two classes, 96 more for each
    further one. For crops around one structure of one or more parts, all in the same orientation. It has no
    options.

    Raises:
        BadModel: not 3-D, an edge below 16, or fewer than two classes.
    """
    read_options(NAME, options, {})
    if shape.dims != 3:
        raise BadModel(name=NAME, problem="it is for volumes (3-D images) only")
    if min(shape.size) < SMALLEST_EDGE:
        raise BadModel(name=NAME, problem=f"every edge must be {SMALLEST_EDGE} or more")
    if shape.channels != 1:
        raise BadModel(name=NAME, problem="its filters describe one channel; use unet3d for several")
    if shape.outputs < 2:
        raise BadModel(name=NAME, problem="it outlines structures and does not classify")
    return PositionHead(shape)
