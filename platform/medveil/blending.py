"""Histograms that get noise leave a hospital as blends of their cells, so that sums of neighbours are surer.

Noise of its own in each of 20 cells adds up in whatever is a sum of many cells: the number of patients, a
share at a threshold, an AUROC. So cells x are sent as y = L^T x, where G = L L^T says how alike two cells
are by their distance d, and noise of equal strength is added to each number. Whoever reads solves for x. A
patient in one cell is a row of L, whose length is sqrt(G_ii) <= 1: the price is that of plain cells, whatever
G is. The noise of the solved cells has the covariance G^-1, with which all intervals are computed.

G(d) = .2 + .8 sum over k < cells / 2 of cos((2k + 1) pi d / cells) / (2k + 1), the sum scaled to 1 at d = 0.
The waves carry "below a threshold", for a step is made of them; the constant carries how many patients there
are. Made-up scores say so; what was seen of patients meanwhile, docs/decisions/0079-blended-cells.md tells.

Sources: Li, Miklau, Hay, McGregor, Rastogi, "The matrix mechanism", VLDB Journal 2015. Henzinger, Upadhyay,
"Improved differentially private continual observation using group algebra", SODA 2025: odd waves for sums
up to a place.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.float64]

TOGETHER = 0.2
"""Share of a patient's squared length that says "one more patient", whatever the score."""
WITHIN = 1 - 1e-12
"""So much is the squared length of a patient at most, so that rounding makes nobody longer than 1."""


def likeness(cells: int) -> Cells:
    """G, float64, shape (cells, cells); symmetric, positive definite, ``WITHIN`` on its diagonal."""
    odd = np.arange(1, cells, 2)
    distances = np.abs(np.subtract.outer(np.arange(cells), np.arange(cells)))
    waves = np.cos(np.pi / cells * np.multiply.outer(distances, odd)) @ (1 / odd) / (1 / odd).sum()
    return np.asarray(WITHIN * (TOGETHER + (1 - TOGETHER) * waves))


@lru_cache
def _ways(cells: int) -> tuple[Cells, Cells, Cells]:
    """There, back, and the covariance of the noise that has come back."""
    there: Cells = np.asarray(np.linalg.cholesky(likeness(cells)).T, np.float64)
    back: Cells = np.asarray(np.linalg.inv(there), np.float64)
    noise: Cells = back @ back.T
    ways = there, back, noise
    for way in ways:
        way.flags.writeable = False
    return ways


def blended(histogram: Cells) -> Cells:
    """What is sent of a histogram, float64, shape (cells,).

    Guarantees: for counts that are not negative it is no longer than their sum.
    """
    return np.asarray(_ways(len(histogram))[0] @ histogram)


def cells_of(blends: Cells) -> Cells:
    """The histogram that was sent, give or take what noise became; the inverse of :func:`blended`."""
    return np.asarray(_ways(len(blends))[1] @ blends)


def covariance(cells: int, *, blends: bool) -> Cells:
    """Of the noise in the cells of a histogram, where each number that was sent has a variance of 1."""
    return _ways(cells)[2] if blends else np.eye(cells)


def reach(cells: int, *, blends: bool) -> Cells:
    """The most that the noise in each cell can be, where it is 1 at most in each number that was sent."""
    return np.asarray(np.abs(_ways(cells)[1]).sum(1)) if blends else np.ones(cells)
