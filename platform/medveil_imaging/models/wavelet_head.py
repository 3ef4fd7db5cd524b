"""Fixed public wavelet features and a trained linear head: the default for films under strong privacy.

What a private run can learn is limited by the number of trained weights, not by the picture's size. Here only
the head (1,217 weights at the default setting) is trained; the features come from textbook filters and from
synthetic noise, never from a patient, so they cost no privacy.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medveil_imaging.heads import Head
from medveil_imaging.models import MODELS, BadModel, ModelShape, Options, read_options, whole_number

Float64 = NDArray[np.float64]
NAME = "wavelet_head"
CLAMP = 4.0
"""Standard deviations of synthetic noise beyond which a feature counts no more."""
BIAS = 0.3
"""The constant feature: small beside the unit length of the others, so the bias does not eat the clip."""
NOISE_IMAGES = 64
CHUNK = 128
"""Images per Fourier transform: bounds memory at about 40 MB at 64x64 and 19 channels."""


class WaveletHead(nn.Module):
    """Local energies of oriented wavelets on a coarse grid, and one linear layer.

    Source: first-order scattering (Bruna, Mallat, IEEE TPAMI 2013) as fixed features for private learning
    (Tramer, Boneh, ICLR 2021).
    """

    frozen_features = True
    """Tells a training engine that :meth:`features` may be computed once for a whole data set."""

    def __init__(
        self, shape: ModelShape, *, scales: int, angles: int, grid: int, equalised: bool, centred: bool
    ) -> None:
        super().__init__()
        rows, columns = shape.size
        mean, deviation = noise_statistics(rows, columns, scales, angles, grid, equalised=equalised)
        public = {
            "bands": filters(rows, columns, scales, angles),
            "pool_rows": pooling(rows, scales, grid, equalised=equalised),
            "pool_columns": pooling(columns, scales, grid, equalised=equalised),
            "mean": mean,
            "deviation": deviation,
        }
        for name, value in public.items():
            self.register_buffer(name, torch.from_numpy(value.astype(np.float32)), persistent=False)
        bands = 1 + scales * angles
        self.head = Head(shape.channels * bands * grid * grid + 1, shape.outputs, centred=centred)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features (k, d) of z-scored images (k, channels, rows, columns): unit length, then 0.3.

        Each row depends on its own image only; no trained weight takes part.
        """
        if not len(images):  # Fourier transforms refuse an empty draw
            return images.new_zeros(0, self.head.in_features)
        with torch.no_grad():
            return torch.cat([self.features_at_once(part) for part in torch.split(images, CHUNK)])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (k, outputs) of images (k, channels, rows, columns), or of features (k, d) known already."""
        values = images if images.ndim == 2 else self.features(images)
        logits: torch.Tensor = self.head(values)
        return logits

    def energies(self, images: torch.Tensor) -> torch.Tensor:
        """See :func:`pooled_energies`."""
        return pooled_energies(
            images, *(self.get_buffer(name) for name in ("bands", "pool_rows", "pool_columns"))
        )

    def features_at_once(self, images: torch.Tensor) -> torch.Tensor:
        """As :meth:`features`; memory grows with k."""
        energy = self.energies(images.flatten(0, 1))
        energy = energy.view(*images.shape[:2], *energy.shape[1:])
        scaled = (energy - self.get_buffer("mean")) / self.get_buffer("deviation")
        scaled = scaled.clamp(-CLAMP, CLAMP).flatten(1)
        # An image whose every feature is average has no direction; it must not become 0/0.
        length = scaled.square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
        return torch.cat([scaled / length, torch.full_like(length, BIAS)], 1)


def pooled_energies(
    images: torch.Tensor, bands: torch.Tensor, pool_rows: torch.Tensor, pool_columns: torch.Tensor
) -> torch.Tensor:
    """Image and wavelet moduli, smoothed and pooled: (k, rows, columns) → (k, 1 + bands, grid, grid)."""
    moduli = torch.fft.ifft2(torch.fft.fft2(images)[:, None] * bands).abs()
    channels = torch.cat([images[:, None], moduli], 1)
    return pool_rows @ channels @ pool_columns.T


def filters(rows: int, columns: int, scales: int, angles: int) -> Float64:
    """Gabor band-pass filters (scales * angles, rows, columns) in Fourier space.

    Frequencies are in cycles per pixel: centre 0.35 halved at each scale, radial width 0.18 halved likewise.
    """
    vertical, horizontal = np.meshgrid(np.fft.fftfreq(rows), np.fft.fftfreq(columns), indexing="ij")
    bands = []
    for scale in range(scales):
        centre, width = 0.35 / 2**scale, 0.18 / 2**scale
        for angle in (math.pi * step / angles for step in range(angles)):
            along = horizontal * math.cos(angle) + vertical * math.sin(angle)
            across = vertical * math.cos(angle) - horizontal * math.sin(angle)
            bands.append(
                np.exp(-((along - centre) ** 2) / (2 * width**2) - across**2 / (2 * (0.8 * width) ** 2))
            )
    return np.stack(bands)


def pooling(edge: int, scales: int, grid: int, *, equalised: bool = False) -> Float64:
    """Gaussian low-pass (deviation 0.3 / 2^scales cycles per pixel), then means over a grid: (grid, edge).

    ``equalised``: the cosine coefficients (orthonormal, type II) of these means in their place. All steps are
    linear and act on each axis by itself, so one small matrix does them.
    """
    low = np.exp(-(np.fft.fftfreq(edge) ** 2) / (2 * (0.3 / 2**scales) ** 2))
    smooth = np.fft.ifft(np.fft.fft(np.eye(edge), axis=0) * low[:, None], axis=0).real
    cells = nn.functional.adaptive_avg_pool1d(torch.eye(edge, dtype=torch.float64), grid).T.numpy()
    means = np.asarray(cells @ smooth)
    return cosines(grid) @ means if equalised else means


def cosines(length: int) -> Float64:
    """The orthonormal cosine transform of type II, (length, length): row k has k half periods."""
    waves = np.cos(math.pi * np.outer(np.arange(length), np.arange(length) + 0.5) / length)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    return np.asarray(waves)


@lru_cache(maxsize=8)
def noise_statistics(
    rows: int, columns: int, scales: int, angles: int, grid: int, *, equalised: bool = False
) -> tuple[Float64, Float64]:
    """What a feature less ``mean`` is divided by, over synthetic 1/f noise, the public stand-in for films.

    The noise is the same on every position, so both are per channel, shape (1 + scales * angles, 1, 1): the
    channel's mean and deviation. ``equalised``: (1 + scales * angles, grid, grid), for cosine coefficients,
    the geometric mean of the channel's deviation and the coefficient's own, which is that of the scale's
    angles together and at least a quarter of the channel's. So coefficients of films, which fall off with
    their frequency as those of the noise do, come half the way to being alike, and none is more than doubled.

    The noise is made from raw bits of a counter whose stream is fixed by specification, so every machine gets
    the same scale.
    """
    vertical, horizontal = np.meshgrid(np.fft.fftfreq(rows), np.fft.fftfreq(columns), indexing="ij")
    radius = np.hypot(vertical, horizontal)
    radius[0, 0] = 1.0
    bits = np.random.PCG64(20).random_raw(NOISE_IMAGES * rows * columns)
    white = ((bits >> np.uint64(11)) * 2.0**-53 - 0.5).reshape(NOISE_IMAGES, rows, columns)
    noise = np.fft.ifft2(np.fft.fft2(white) / radius**1.3).real
    noise -= noise.mean((1, 2), keepdims=True)
    noise /= noise.std((1, 2), keepdims=True)
    fixed = [filters(rows, columns, scales, angles)]
    fixed += [pooling(rows, scales, grid), pooling(columns, scales, grid)]
    tensors = [torch.from_numpy(value) for value in fixed]
    parts = torch.split(torch.from_numpy(noise), 8)
    energy = torch.cat([pooled_energies(part, *tensors) for part in parts])
    mean = energy.mean((0, 2, 3), keepdim=True)[0].numpy()
    deviation = (energy.std((0, 2, 3)) + 1e-4).numpy()[:, None, None]
    if not equalised:
        return mean, deviation
    waves = cosines(grid)
    variance = (waves @ (energy.numpy() - mean) @ waves.T).var(0)
    alike = [
        variance[:1],
        *(group.mean(0, keepdims=True).repeat(angles, 0) for group in np.split(variance[1:], scales)),
    ]
    own = np.maximum(np.sqrt(np.concatenate(alike)), deviation / 4)
    constant = waves @ np.ones((grid, grid)) @ waves.T
    return mean * constant, np.sqrt(own * deviation)


@MODELS.register(NAME)
def wavelet_head(shape: ModelShape, options: Options) -> nn.Module:
    """Wavelet features and a linear head that starts at zero; 1,217 weights at one logit.

    Input (k, channels, rows, columns), output (k, outputs); each channel has its own features.
    Options ``scales`` (3), ``angles`` (6), ``grid`` (8); for 28x28 pictures take scales 2, grid 7.
    ``equalised`` (false): the features are cosine coefficients over the grid, scaled half the way to being
    alike (:func:`noise_statistics`); better under strong privacy, and no weight more.
    ``centred`` (false): see :class:`medveil_imaging.heads.Head`.

    Raises:
        BadModel: not 2-D, or the images are too small for the scales or the grid.
    """
    chosen = read_options(
        NAME,
        options,
        {"scales": 3, "angles": 6, "grid": 8, "equalised": False, "centred": False, "mean_rounds": 1},
    )
    scales = whole_number(NAME, chosen, "scales", low=1, high=6)
    angles = whole_number(NAME, chosen, "angles", low=1, high=16)
    grid = whole_number(NAME, chosen, "grid", low=1, high=32)
    if shape.dims != 2:
        raise BadModel(name=NAME, problem="it is for films (2-D images) only")
    if min(shape.size) < max(grid, 4 * 2**scales):
        raise BadModel(name=NAME, problem="the images are too small for its 'scales' or 'grid'")
    return WaveletHead(
        shape,
        scales=scales,
        angles=angles,
        grid=grid,
        equalised=bool(chosen["equalised"]),
        centred=bool(chosen["centred"]),
    )
