"""A wavelet head in real numbers, for formats without complex ones, about as fast as with Fourier transforms.

Cosines and sines about the middle of an edge of 4 n pixels are, of even and of odd frequencies each, the same
up to their sign at the four pixels that mirror each other. So each of these four kinds is made at the first
n pixels only, by one product with a matrix of n by n, and the kinds are added with their signs: a quarter of
the products that whole matrices take, in a size at which engines are fast.

A filter is neither even nor odd, so it mixes the kinds: its share that is odd along an axis makes sines there
of cosines, and cosines of sines.

Source: the split into mirrored pixels is that of fast transforms (Cooley, Tukey, Math. Comp. 1965); the waves
are those of the discrete cosine and sine transforms of type II (Wang, IEEE TASSP 1984).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medveil_imaging.models.wavelet_head import WaveletHead

Float64 = NDArray[np.float64]
TOGETHER = 6
"""Filters that are taken at once: those of a scale, in a usual model."""
TAIL = 1e-6
"""What a filter lets through of a frequency that is left out, at most; it lets through 1 where it is open."""


@dataclass(frozen=True)
class Axis:
    """The waves along an edge, by their kinds: cosines and sines, each of even and of odd frequencies where
    four divides the edge."""

    edge: int
    frequencies: NDArray[np.intp]
    """Whole periods in the edge, (kinds, m)."""
    sine: NDArray[np.bool_]
    """Which kinds are sines, (kinds,)."""
    pixels: NDArray[np.intp]
    """(mirrors, n): those that mirror each other stand in one column."""

    @classmethod
    def of(cls, edge: int) -> Axis:
        """Of an edge of any length; one of odd length has no mirrors."""
        half, mirrors = edge // 2, next(count for count in (4, 2, 1) if edge % count == 0)
        step, first = 2 if mirrors == 4 else 1, np.arange(edge // mirrors)
        cosines, sines = (range(half), range(1, half + 1)) if edge % 2 == 0 else (range(half + 1),) * 2
        kinds = [[k for k in waves if k % step == rest] for waves in (cosines, sines) for rest in range(step)]
        pixels = {
            4: [first, half - 1 - first, half + first, edge - 1 - first],
            2: [first, edge - 1 - first],
            1: [first],
        }[mirrors]
        return cls(edge, np.array(kinds), np.repeat([False, True], step), np.array(pixels))

    def waves(self, *, other: bool = False) -> Float64:
        """(kinds, m, edge); with ``other`` sines in place of cosines, and cosines of sines."""
        angles = 2 * np.pi * self.frequencies[:, :, None] * (np.arange(self.edge) + 0.5) / self.edge
        return np.where((self.sine ^ other)[:, None, None], np.sin(angles), np.cos(angles))

    def back(self) -> Float64:
        """From the waves' amounts to the first pixels, (kinds, m, n)."""
        once = (self.frequencies == 0) | (2 * self.frequencies == self.edge)
        return self.waves()[:, :, self.pixels[0]] * (np.where(once, 1, 2) / self.edge)[:, :, None]

    def signs(self) -> Float64:
        """Of each kind at each mirror, (mirrors, kinds)."""
        waves = self.waves()
        here = waves[:, :, self.pixels]  # (kinds, m, mirrors, n)
        found: Float64 = np.sign(np.einsum("kmin,kmn->ik", here, waves[:, :, self.pixels[0]]))
        return found


class RealWavelets(nn.Module):
    """A wavelet head that filters by real products alone; its outputs are the network's, up to rounding."""

    def __init__(self, network: WaveletHead) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        bands = self.network.get_buffer("bands").double().numpy()
        down, across = Axis.of(bands.shape[1]), Axis.of(bands.shape[2])
        pool = [self.network.get_buffer(name).numpy() for name in ("pool_rows", "pool_columns")]
        for name, other in (("same", False), ("other", True)):
            _keep(self, f"down_{name}", down.waves(other=other).reshape(-1, down.edge))
            _keep(self, f"across_{name}", across.waves(other=other).transpose(0, 2, 1))
        parts = np.array_split(bands, -(-len(bands) // TOGETHER))
        self.groups = nn.ModuleList(_Bands(part, down, across, pool[0], pool[1]) for part in parts)
        self.network.energies = self.energies  # type: ignore[method-assign]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As the network."""
        found: torch.Tensor = self.network(self.network.features_at_once(images))
        return found

    def energies(self, images: torch.Tensor) -> torch.Tensor:
        """As :func:`medveil_imaging.models.wavelet_head.pooled_energies`."""
        whole = images[:, None, None]
        same, other = self.get_buffer("down_same") @ whole, self.get_buffer("down_other") @ whole
        across, across_other = self.get_buffer("across_same"), self.get_buffer("across_other")
        # Amounts of the waves, (k, 1, kinds across, kinds and waves down, waves across).
        amounts = (same @ across, other @ across_other, same @ across_other, other @ across)
        pool_rows, pool_columns = (self.network.get_buffer(name) for name in ("pool_rows", "pool_columns"))
        plain = pool_rows @ images[:, None] @ pool_columns.T
        return torch.cat([plain, *(group(*amounts) for group in self.groups)], 1)


class _Bands(nn.Module):
    """Pooled moduli of some filters.

    Args:
        bands: in Fourier space, (filters, rows, columns). pool_rows, pool_columns: (grid, edge).
    """

    def __init__(
        self,
        bands: Float64,
        down: Axis,
        across: Axis,
        pool_rows: NDArray[np.float32],
        pool_columns: NDArray[np.float32],
    ) -> None:
        super().__init__()
        shares = _shares(bands, down, across)
        open_at = np.max([np.abs(values) for values in shares.values()], axis=(0, 1)) > TAIL
        self.kinds, self.waves = down.frequencies.shape[0], down.frequencies.shape[1]
        self.high = 1 + int(np.flatnonzero(open_at.any((0, 1, 3))).max(initial=0))
        self.wide = 1 + int(np.flatnonzero(open_at.any((0, 1, 2))).max(initial=0))
        for name, values in shares.items():
            _keep(self, name, values[..., : self.high, : self.wide].reshape(*values.shape[:2], -1, self.wide))
        _keep(self, "back_across", across.back()[:, : self.wide])
        _keep(self, "back_down", down.back()[:, : self.high].transpose(0, 2, 1))
        signs = np.einsum("ac,dr->adcr", across.signs(), down.signs())
        _keep(self, "signs", signs.reshape(across.pixels.shape[0] * down.pixels.shape[0], -1))
        self.mirrors = across.pixels.shape[0], down.pixels.shape[0]
        self.first = down.pixels.shape[1], across.pixels.shape[1]
        _keep(self, "pool_rows", pool_rows[:, down.pixels.reshape(-1)])
        _keep(self, "pool_columns", pool_columns[:, across.pixels].transpose(1, 2, 0))

    def forward(
        self, same: torch.Tensor, both: torch.Tensor, across: torch.Tensor, down: torch.Tensor
    ) -> torch.Tensor:
        """(k, filters, grid, grid) of the amounts of the waves of the kinds themselves, and of the others
        along both axes, across, and down."""
        same, both, across, down = (self._open(amounts) for amounts in (same, both, across, down))
        real = self._picture(same * self.get_buffer("even_even") + both * self.get_buffer("odd_odd"))
        imaginary = self._picture(across * self.get_buffer("even_odd") + down * self.get_buffer("odd_even"))
        moduli = (real * real + imaginary * imaginary).sqrt()
        columns = torch.unflatten(torch.unflatten(moduli, 3, self.first), 2, self.mirrors).flatten(3, 4)
        pooled: torch.Tensor = self.get_buffer("pool_rows") @ (columns @ self.get_buffer("pool_columns")).sum(
            2
        )
        return pooled

    def _open(self, amounts: torch.Tensor) -> torch.Tensor:
        """Those of the frequencies that these filters let through."""
        if amounts.shape[4] == self.wide and self.waves == self.high:
            return amounts
        kinds = torch.unflatten(amounts, 3, (self.kinds, self.waves))
        return kinds[..., : self.high, : self.wide].flatten(3, 4)

    def _picture(self, amounts: torch.Tensor) -> torch.Tensor:
        """(k, filters, mirrors across and down, first pixels) of the amounts of the waves in it."""
        lines = torch.unflatten(amounts @ self.get_buffer("back_across"), 3, (self.kinds, self.high))
        kinds = (self.get_buffer("back_down") @ lines).flatten(4, 5).flatten(2, 3)
        picture: torch.Tensor = self.get_buffer("signs") @ kinds
        return picture


def _shares(bands: Float64, down: Axis, across: Axis) -> dict[str, Float64]:
    """The even and odd shares of filters down and across, with the signs of what they make of the waves.

    A filter makes a picture's amounts of cosines and sines (cc, cs, sc, ss) down and across to those of a
    complex picture. Of its share that is even along both axes: each to itself. Odd along both: cc and ss to
    minus each other, cs and sc to each other. Of the imaginary part, odd across: -cs, cc, -ss, sc; odd down:
    -sc, -ss, cc, cs.

    Returns: each (filters, kinds across, kinds down, waves down, waves across).
    """
    turned, flipped, both = _mirrored(bands, 1), _mirrored(bands, 2), _mirrored(bands, 1, 2)
    one, sine_down, sine_across = np.ones((1, 1)), down.sine[None, :], across.sine[:, None]
    found = {
        "even_even": (bands + turned + flipped + both, one),
        "odd_odd": (bands - turned - flipped + both, np.where(sine_down ^ sine_across, 1, -1)),
        "even_odd": (bands + turned - flipped - both, np.where(sine_across, 1, -1)),
        "odd_even": (bands - turned + flipped - both, np.where(sine_down, 1, -1)),
    }
    rows, columns = down.frequencies[None, :, :, None], across.frequencies[:, None, None, :]
    return {
        name: values[:, rows, columns] / 4 * signs[:, :, None, None]
        for name, (values, signs) in found.items()
    }


def _mirrored(values: Float64, *axes: int) -> Float64:
    """Entry -k for entry k along some axes of frequencies."""
    return np.roll(np.flip(values, axes), 1, axes)


def _keep(module: nn.Module, name: str, values: NDArray[np.floating]) -> None:
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    module.register_buffer(name, tensor, persistent=False)
