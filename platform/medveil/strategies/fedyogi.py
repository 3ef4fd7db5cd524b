"""Federated averaging with an adaptive server step that forgets large updates slowly.

Source: Reddi et al., "Adaptive federated optimization", ICLR 2021, algorithm 2 (FedYogi): no bias
correction, and the second moment begins at shift squared. Yogi itself: Zaheer et al., NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medveil.strategies import STRATEGIES, State
from medveil.tensors import Float32

DEFAULTS = {"rate": 0.01, "momentum": 0.9, "second_momentum": 0.99, "shift": 1e-3}


@STRATEGIES.register("fedyogi")
class FedYogi:
    """The model moves by rate * first / (sqrt(second) + shift); second follows the squares of the updates.

    It follows them by steps of their own size, up or down, where FedAdam's goes a share of the way: after a
    rare large update the step stays short for longer. Options as of ``fedadam``: ``rate`` > 0 (0.01),
    ``momentum`` and ``second_momentum`` in [0, 1) (0.9, 0.99), ``shift`` > 0 (0.001, in model units: the
    paper's tau).
    """

    def __init__(self, options: Mapping[str, float]) -> None:
        if set(options) - set(DEFAULTS):
            raise ValueError(f"fedyogi knows the options {', '.join(DEFAULTS)}")
        self._options = {name: np.float32(options.get(name, value)) for name, value in DEFAULTS.items()}
        o = self._options
        sound = 0 < o["rate"] < np.inf and 0 < o["shift"] < np.inf
        if not (sound and 0 <= o["momentum"] < 1 and 0 <= o["second_momentum"] < 1):
            raise ValueError("fedyogi: rate and shift must be positive, both momenta in [0, 1)")

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """See :class:`medveil.strategies.ServerStrategy`; the state is both moments."""
        o, zero = self._options, np.zeros_like(model)
        first = o["momentum"] * state.get("first", zero) + (1 - o["momentum"]) * mean_update
        squares = mean_update * mean_update
        before = state.get("second", zero + o["shift"] * o["shift"])
        # Not below zero: a second moment less than the square rises, a larger one falls by less than itself.
        second = before - (1 - o["second_momentum"]) * squares * np.sign(before - squares)
        stepped = model + o["rate"] * first / (np.sqrt(second) + o["shift"])
        return stepped, {"first": first, "second": second}
