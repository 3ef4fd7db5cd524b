"""Federated averaging with server momentum.

Source: Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution", 2019 (FedAvgM).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, repeat

import numpy as np

from medveil.strategies import STRATEGIES, State
from medveil.tensors import Float32


@STRATEGIES.register("fedavgm")
class FedAvgMomentum:
    """velocity = momentum * velocity + mean update; the model moves by the velocity.

    Option ``momentum``, in [0, 1), default 0.9.
    """

    def __init__(self, options: Mapping[str, float]) -> None:
        unknown = set(options) - {"momentum"}
        if unknown:
            raise ValueError("fedavgm knows the option 'momentum' only")
        self._momentum = np.float32(options.get("momentum", 0.9))
        if not 0 <= self._momentum < 1:
            raise ValueError("fedavgm: momentum must lie in [0, 1)")

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """See :class:`medveil.strategies.ServerStrategy`; the state is the velocity."""
        velocity = self._momentum * state.get("velocity", np.zeros_like(model)) + mean_update
        return model + velocity, {"velocity": velocity}

    def response(self, rounds: int) -> tuple[float, ...]:
        """See :class:`medveil.strategies.Summing`: 1, 1 + momentum, 1 + momentum + momentum^2 …"""
        momentum = float(self._momentum)
        return tuple(accumulate(repeat(1.0, rounds), lambda so_far, one: momentum * so_far + one))
