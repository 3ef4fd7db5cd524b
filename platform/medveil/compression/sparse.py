"""Every hospital sends the same few coordinates, other ones in each round, and of small tensors more.

Of each tensor a number of coordinates is sent that grows with the root of its size, and all of it where that
is more: norms, biases, the first and the last layer are few numbers on which much depends. The tensor is cut
into as many runs of nearly equal length. In each run the first coordinate to be sent is drawn from the public
seed, and every round sends the next one. So none waits longer than its run is long: with coordinates that are
drawn afresh for each round, a third would still be unsent after as many rounds.

Sources: Stich, Cordonnier, Jaggi, "Sparsified SGD with memory", NeurIPS 2018 (rand-k); Konečný et al. 2016
(one seed for all, so that no places are sent).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medveil.compression import MAPS, Compression, draw, option
from medveil.tensors import Float32, ModelSpec

LEAST_SHARE, MOST_SHARE = 1 / 256, 1 / 2


@MAPS.register("sparse")
class Sparse:
    """Option ``share``, from 1/256 to 1/2: at most that share of all coordinates is sent in a round.

    See :class:`medveil.compression.PublicMap`.
    """

    def __init__(self, chosen: Compression, spec: ModelSpec, seed: bytes, number: int) -> None:
        share = float(option(chosen, "share", low=LEAST_SHARE, high=MOST_SHARE))
        self._sizes, self._seed, self._number = [t.size for t in spec.root], seed, number
        self._counts = _sent_of_each(self._sizes, math.floor(share * spec.size))
        self.length = sum(self._counts)
        self.cycle = math.ceil(1 / share)

    @cached_property
    def _runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of each run its first coordinate, its length and its draw; shape (k,) each."""
        runs, start = [], 0
        for size, count in zip(self._sizes, self._counts, strict=True):
            runs.append(start + np.arange(count, dtype=np.int64) * size // count)
            start += size
        firsts = np.concatenate(runs)
        lengths = np.diff(firsts, append=start)
        draws = np.frombuffer(draw(b"medveil-sparse" + self._seed, 4 * self.length), "<u4").astype(np.int64)
        return firsts, lengths, draws

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """The coordinates of this round, in rising order; shape (k,)."""
        firsts, lengths, draws = self._runs
        return firsts + (draws + self._number) % lengths

    def forward(self, update: Float32) -> Float32:
        """The chosen coordinates."""
        return update[self._places]

    def backward(self, sent: Float32, first: int, end: int) -> Float32:
        """What was sent at its places, zeros elsewhere."""
        low, high = np.searchsorted(self._places, [first, end])
        update = np.zeros(end - first, np.float32)
        update[self._places[low:high] - first] = sent[low:high]
        return update

    def still(self, rest: Float32, last: int) -> Float32:
        """Coordinates whose next turn comes in time, zeros elsewhere."""
        firsts, lengths, draws = self._runs
        if self._number + int(lengths.max()) <= last:
            return rest
        place = np.arange(len(rest)) - np.repeat(firsts, lengths)
        waits = (place - np.repeat(draws, lengths) - self._number - 1) % np.repeat(lengths, lengths)
        return np.where(self._number + 1 + waits <= last, rest, np.float32(0))


def _sent_of_each(sizes: Sequence[int], budget: int) -> list[int]:
    """How many numbers are sent of each tensor: together as many as the budget allows.

    Raises: ValueError if it does not allow one of each.
    """

    def counts(factor: float) -> list[int]:
        return [max(1, min(size, math.floor(factor * math.sqrt(size)))) for size in sizes]

    if len(sizes) > budget:
        raise ValueError(f"a share of {budget} numbers leaves out some of the {len(sizes)} tensors")
    low, high = 0.0, math.sqrt(max(sizes))
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(counts(middle)) <= budget else (low, middle)
    return counts(low)
