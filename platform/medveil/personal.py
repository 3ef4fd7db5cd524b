"""Weights of a model that stay in each hospital: all others are shared, and of them alone sums are made.

A study names the tensors that are personal. Its hospitals train all weights together, and send of an update
the numbers of the shared ones, in the order of the model: a public map as :mod:`medveil.compression` has
them, the same in every round. In the places of the personal weights a published version holds what the plan
began with, to the bit; what a hospital has made of them is on its own disk only.

Sources: Li, Jiang, Zhang, Kamp, Dou, "FedBN", ICLR 2021 (normalisations stay); Arivazhagan, Aggarwal, Singh,
Choudhary, "Federated learning with personalization layers", 2019 (the last layers stay); Collins, Hassani,
Mokhtari, Shakkottai, "Exploiting shared representations", ICML 2021 (the same, trained in turns; here they
are trained together, for turns would need a second kind of noised step).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medveil.compression import LEAST_SENT
from medveil.tensors import Float32, ModelSpec


class Shared:
    """The map of every round: the shared weights, in their order (:class:`medveil.compression.PublicMap`)."""

    def __init__(self, spec: ModelSpec, personal: Sequence[str]) -> None:
        self._runs = list(_runs(spec, frozenset(personal)))
        self.length = sum(end - first for first, end in self._runs)
        self.cycle = 1

    def forward(self, update: Float32) -> Float32:
        """The shared numbers of an update: float32, shape (d,) to (k,)."""
        return np.concatenate([update[first:end] for first, end in self._runs])

    def backward(self, sent: Float32, first: int, end: int) -> Float32:
        """What was sent in its places, zeros for personal weights."""
        update, done = np.zeros(end - first, np.float32), 0
        for start, stop in self._runs:
            low, high = max(start, first), min(stop, end)
            if low < high:
                update[low - first : high - first] = sent[done + low - start : done + high - start]
            done += stop - start
        return update

    def still(self, rest: Float32, last: int) -> Float32:
        """Nothing: what stays is never sent."""
        return np.zeros_like(rest)

    def stays(self, first: int, end: int) -> NDArray[np.bool_]:
        """Which of the coordinates ``first`` to ``end`` are personal."""
        shared: NDArray[np.bool_] = self.backward(np.ones(self.length, np.float32), first, end) != 0
        return ~shared


def check(spec: ModelSpec, personal: Sequence[str], *, joint: bool, centred: bool, compressed: bool) -> None:
    """Raises: ValueError, in words, if a study cannot keep these tensors of its model in the hospitals."""
    names = [tensor.name for tensor in spec.root]
    if list(personal) != [name for name in names if name in set(personal)]:
        raise ValueError("model.personal lists tensors of the model, each once and in the model's order")
    if Shared(spec, personal).length < LEAST_SENT:
        raise ValueError(f"model.personal must leave {LEAST_SENT} weights or more to share")
    if joint:
        # A hospital's next step depends on its personal weights, which have only its own share of the noise.
        raise ValueError(
            "personal weights are not for joint noise: one hospital's share of it hides too little"
        )
    if centred:
        raise ValueError(
            "personal weights are not for a centred model: its first rounds release a whole mean"
        )
    if compressed:
        raise ValueError("personal weights are not for a study with compression, which maps whole updates")


def _runs(spec: ModelSpec, personal: frozenset[str]) -> Iterator[tuple[int, int]]:
    """The shared coordinates, as (first, end) of runs as long as they can be."""
    start, begun = 0, 0
    for tensor in spec.root:
        if tensor.name in personal:
            if begun < start:
                yield begun, start
            begun = start + tensor.size
        start += tensor.size
    if begun < start:
        yield begun, start
