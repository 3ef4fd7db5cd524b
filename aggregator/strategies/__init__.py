"""How the mean update becomes the next global model. A strategy sees the aggregate only, by type.

Median, trimmed mean or Krum over single updates cannot be written here: that is what the masks promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from medveil.registry import Registry
from medveil.tensors import Float32

State = dict[str, Float32]
"""What a strategy remembers from round to round, e.g. a momentum vector of shape (d,)."""


class ServerStrategy(Protocol):
    """One step of the server's optimiser."""

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """The next global model and the state to keep.

        Args:
            model: float32, shape (d,), the model the round started from.
            mean_update: float32, shape (d,), weighted mean of trained minus global weights.
            state: what the previous call returned; empty at first.
        Guarantees: pure and deterministic, so a hospital can compute the same step again.
        """
        ...


STRATEGIES: Registry[Callable[[Mapping[str, float]], ServerStrategy]] = Registry(
    "strategy", "aggregator.strategies"
)
