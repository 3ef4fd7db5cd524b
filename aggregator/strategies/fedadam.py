"""Federated averaging with an adaptive server step.

Source: Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 2 (FedAdam); here with the bias
correction of Kingma and Ba, ICLR 2015, so that the first rounds are not too short.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aggregator.strategies import STRATEGIES, State
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
        """See :class:`aggregator.strategies.ServerStrategy`; the state is both moments and a count."""
        o, zero = self._options, np.zeros_like(model)
        rounds = state.get("rounds", np.zeros(1, np.float32)) + np.float32(1)
        first = o["momentum"] * state.get("first", zero) + (1 - o["momentum"]) * mean_update
        squares = np.square(mean_update)
        second = o["second_momentum"] * state.get("second", zero) + (1 - o["second_momentum"]) * squares
        level = first / (1 - o["momentum"] ** rounds[0])
        spread = np.sqrt(second / (1 - o["second_momentum"] ** rounds[0]))
        stepped = model + o["rate"] * level / (spread + o["shift"])
        return stepped.astype(np.float32), {"first": first, "second": second, "rounds": rounds}
