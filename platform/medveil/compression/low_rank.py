"""Of each tensor, seen as a matrix W of m rows and n columns, W P is sent, with a public P of n rows.

P has ``rank`` columns and one entry in each row: the columns of W are dealt to ``rank`` groups at random,
each with a random sign, and a group's signed columns are added up and divided by the root of their number.
So P's columns are orthonormal without a single sum, and (W P) P^T, of that rank at most, is the matrix of the
form V P^T that is nearest to W. It keeps rank / n of the squared length on average, as with a P of normal
entries; but each of its entries is one product, and so the same on every machine.

A tensor with no more columns than ``rank`` is sent whole, and so is one with one row or one column: a vector.

Sources: Konečný et al. 2016 and Vogels, Karimireddy, Jaggi, "PowerSGD", NeurIPS 2019 (low-rank updates that
add up; PowerSGD needs a second exchange for P); Charikar, Chen, Farach-Colton, ICALP 2002 (signs and groups).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medveil.compression import MAPS, Compression, draw, option
from medveil.tensors import Float32, ModelSpec

MOST_RANK = 4096


@dataclass(frozen=True)
class _Tensor:
    """A tensor as a matrix; it lies in the update from ``start`` on, in what is sent from ``sent`` on."""

    number: int
    rows: int
    columns: int
    start: int
    sent: int
    rank: int

    @property
    def end(self) -> int:
        return self.start + self.rows * self.columns

    @property
    def sent_end(self) -> int:
        return self.sent + self.rows * self.rank


@MAPS.register("low_rank")
class LowRank:
    """Option ``rank``, at least 1, and below the columns of some tensor.

    See :class:`medveil.compression.PublicMap`.
    """

    def __init__(self, chosen: Compression, spec: ModelSpec, seed: bytes, number: int) -> None:
        rank = int(option(chosen, "rank", low=1, high=MOST_RANK))
        self._seed, self._number = seed, number
        self._tensors = tuple(_laid_out(spec, rank))
        self._drawn: dict[int, tuple[NDArray[np.int64], Float32]] = {}
        shortened = [t for t in self._tensors if t.rank < t.columns]
        if not shortened:
            widest = max(t.columns for t in self._tensors)
            raise ValueError(
                f"no tensor has more than {widest} columns, so rank {rank} would shorten nothing"
            )
        self.length = self._tensors[-1].sent_end
        self.cycle = -(-spec.size // self.length)

    def forward(self, update: Float32) -> Float32:
        """Each tensor's signed group sums, row by row."""
        sent = np.empty(self.length, np.float32)
        for t in self._tensors:
            matrix = update[t.start : t.end].reshape(t.rows, t.columns)
            if t.rank < t.columns:
                groups, factors = self._groups(t)
                ordered = (matrix * factors)[:, np.argsort(groups, kind="stable")]
                firsts = np.searchsorted(np.sort(groups), np.arange(t.rank))
                matrix = np.add.reduceat(ordered, firsts, axis=1, dtype=np.float64)
            sent[t.sent : t.sent_end] = matrix.reshape(-1)
        return sent

    def backward(self, sent: Float32, first: int, end: int) -> Float32:
        """Each entry is what was sent of its group and row, times the group's factor with its sign."""
        update = np.empty(end - first, np.float32)
        for t in self._tensors:
            low, high = max(first, t.start), min(end, t.end)
            if low >= high:
                continue
            top, bottom = (low - t.start) // t.columns, -(-(high - t.start) // t.columns)
            part = sent[t.sent : t.sent_end].reshape(t.rows, t.rank)[top:bottom]
            if t.rank < t.columns:
                groups, factors = self._groups(t)
                part = part[:, groups] * factors
            skipped = low - t.start - top * t.columns
            update[low - first : high - first] = part.reshape(-1)[skipped : skipped + high - low]
        return update

    def still(self, rest: Float32, last: int) -> Float32:
        """All of it, while there are rounds: every one sends something of everything."""
        return rest if self._number < last else np.zeros_like(rest)

    def _groups(self, t: _Tensor) -> tuple[NDArray[np.int64], Float32]:
        """Of each column its group and its entry of P; shapes (n,)."""
        if t.number not in self._drawn:
            label = b"medveil-low-rank" + self._seed + b"%d/%d" % (self._number, t.number)
            keys = np.frombuffer(draw(label, 8 * t.columns), "<u8")
            groups = np.empty(t.columns, np.int64)
            groups[np.argsort(keys, kind="stable")] = np.arange(t.columns) * t.rank // t.columns
            sizes = np.bincount(groups, minlength=t.rank).astype(np.float32)
            lengths = np.float32(1) / np.sqrt(sizes)
            self._drawn[t.number] = groups, np.where(keys & np.uint64(1), lengths[groups], -lengths[groups])
        return self._drawn[t.number]


def _laid_out(spec: ModelSpec, rank: int) -> Iterator[_Tensor]:
    start = sent = 0
    for number, tensor in enumerate(spec.root):
        rows = tensor.shape[0] if len(tensor.shape) > 1 and tensor.shape[0] > 1 else tensor.size
        columns = tensor.size // rows
        found = _Tensor(number, rows, columns, start, sent, min(rank, columns))
        yield found
        start, sent = found.end, found.sent_end
