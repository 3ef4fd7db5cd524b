"""Every hospital sends the same few coordinates; in the rounds of one cycle each coordinate once.

The coordinates of an update are cut into k runs of nearly equal length. In each run the first coordinate to
be sent is drawn from the public seed, and every round sends the next one. So none waits longer than the run
is long: with coordinates that are drawn afresh for each round, a third would still be unsent after a cycle.

Source: Stich, Cordonnier, Jaggi, "Sparsified SGD with memory", NeurIPS 2018 (rand-k); Konečný et al. 2016
(one seed for all, so that no places are sent).
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medveil.compression import MAPS, Compression, draw, option
from medveil.tensors import Float32, ModelSpec

LEAST_SHARE, MOST_SHARE = 1 / 256, 1 / 2


@MAPS.register("sparse")
class Sparse:
    """Option ``share``, from 1/256 to 1/2: k is that share of all coordinates, rounded up.

    See :class:`medveil.compression.PublicMap`.
    """

    def __init__(self, chosen: Compression, spec: ModelSpec, seed: bytes, number: int) -> None:
        share = float(option(chosen, "share", low=LEAST_SHARE, high=MOST_SHARE))
        self._size, self._seed, self._number = spec.size, seed, number
        self.length = math.ceil(share * spec.size)
        self.cycle = -(-spec.size // self.length)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """The coordinates of this round, in rising order; shape (k,)."""
        bounds = np.arange(self.length + 1, dtype=np.int64) * self._size // self.length
        starts = np.frombuffer(draw(b"medveil-sparse" + self._seed, 4 * self.length), "<u4").astype(np.int64)
        return bounds[:-1] + (starts + self._number) % np.diff(bounds)

    def forward(self, update: Float32) -> Float32:
        """The chosen coordinates."""
        return update[self._places]

    def backward(self, sent: Float32, first: int, end: int) -> Float32:
        """What was sent at its places, zeros elsewhere."""
        low, high = np.searchsorted(self._places, [first, end])
        update = np.zeros(end - first, np.float32)
        update[self._places[low:high] - first] = sent[low:high]
        return update
