"""Federated averaging with an adaptive server step.

Source: Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 2 (FedAdam); here with the bias
correction of Kingma and Ba, ICLR 2015, so that the first rounds are not too short.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medveil.strategies import STRATEGIES, State
from medveil.tensors import Float32

DEFAULTS = {"rate": 0.01, "momentum": 0.9, "second_momentum": 0.99, "shift": 1e-3}


@STRATEGIES.register("fedadam")
class FedAdam:
    """The model moves by rate * first / (sqrt(second) + shift), moments of the mean update.

    Options: ``rate`` > 0 (0.01), ``momentum`` and ``second_momentum`` in [0, 1) (0.9, 0.99), ``shift`` > 0
    (0.001, in model units).
    """

    def __init__(self, options: Mapping[str, float]) -> None:
        if set(options) - set(DEFAULTS):
            raise ValueError(f"fedadam knows the options {', '.join(DEFAULTS)}")
        self._options = {name: np.float32(options.get(name, value)) for name, value in DEFAULTS.items()}
        o = self._options
        if not (
            o["rate"] > 0 and o["shift"] > 0 and 0 <= o["momentum"] < 1 and 0 <= o["second_momentum"] < 1
        ):
            raise ValueError("fedadam: rate and shift must be positive, both momenta in [0, 1)")

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """See :class:`medveil.strategies.ServerStrategy`; the state is both moments and their bias.

        The bias is momentum to the power of the rounds, one product a round: powers are not rounded alike
        on all machines.
        """
        o, zero, one = self._options, np.zeros_like(model), np.ones(1, np.float32)
        first = o["momentum"] * state.get("first", zero) + (1 - o["momentum"]) * mean_update
        squares = mean_update * mean_update
        second = o["second_momentum"] * state.get("second", zero) + (1 - o["second_momentum"]) * squares
        bias = o["momentum"] * state.get("first_bias", one)
        second_bias = o["second_momentum"] * state.get("second_bias", one)
        spread = np.sqrt(second / (1 - second_bias))
        stepped = model + o["rate"] * (first / (1 - bias)) / (spread + o["shift"])
        return stepped, {"first": first, "second": second, "first_bias": bias, "second_bias": second_bias}
