"""Federated averaging: the next model is the weighted mean of the hospitals' models.

Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, AISTATS 2017, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from medveil.strategies import STRATEGIES, State
from medveil.tensors import Float32


@STRATEGIES.register("fedavg")
class FedAvg:
    """model + mean(trained - model); it takes no options."""

    def __init__(self, options: Mapping[str, float]) -> None:
        if options:
            raise ValueError("fedavg takes no options")

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """See :class:`medveil.strategies.ServerStrategy`; it keeps no state."""
        return model + mean_update, state

    def response(self, rounds: int) -> tuple[float, ...]:
        """See :class:`medveil.strategies.Summing`."""
        return (1.0,) * rounds
