"""Federated averaging with a server step that shrinks where updates were large.

Source: Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 2 (FedAdagrad): no bias
correction, and the sum of squares begins at shift squared.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medveil.strategies import STRATEGIES, State
from medveil.tensors import Float32

DEFAULTS = {"rate": 0.01, "momentum": 0.0, "shift": 1e-3}


@STRATEGIES.register("fedadagrad")
class FedAdagrad:
    """The model moves by rate * first / (sqrt(squares) + shift); squares are those of all updates so far.

    Options: ``rate`` > 0 (0.01), ``momentum`` in [0, 1) (0, as in the paper), ``shift`` > 0 (0.001, in model
    units: the paper's tau).
    """

    def __init__(self, options: Mapping[str, float]) -> None:
        if set(options) - set(DEFAULTS):
            raise ValueError(f"fedadagrad knows the options {', '.join(DEFAULTS)}")
        self._options = {name: np.float32(options.get(name, value)) for name, value in DEFAULTS.items()}
        o = self._options
        if not (0 < o["rate"] < np.inf and 0 < o["shift"] < np.inf and 0 <= o["momentum"] < 1):
            raise ValueError("fedadagrad: rate and shift must be positive, momentum in [0, 1)")

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """See :class:`medveil.strategies.ServerStrategy`; the state is the momentum and the squares."""
        o, zero = self._options, np.zeros_like(model)
        first = o["momentum"] * state.get("first", zero) + (1 - o["momentum"]) * mean_update
        squares = state.get("squares", zero + o["shift"] * o["shift"]) + mean_update * mean_update
        stepped = model + o["rate"] * first / (np.sqrt(squares) + o["shift"])
        return stepped, {"first": first, "squares": squares}
