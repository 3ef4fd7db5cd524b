"""Federated averaging whose local steps are corrected by how far a hospital's course is off the common one.

Source: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: stochastic controlled averaging for
federated learning", ICML 2020, algorithm 1 with option II for the control variates. That the server needs
nothing for them but the updates: Huang, Li, Li, "Stochastic controlled averaging for federated learning with
communication compression", ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medveil.noise_policies import JointNoise
from medveil.strategies import STRATEGIES, Entries, State, plain_sgd
from medveil.study import Study, Training
from medveil.tensors import Float32


@STRATEGIES.register("scaffold")
class Scaffold:
    """model + rate * mean(trained - model), each local step corrected by (common - own) / steps.

    Option ``rate`` > 0 (1): the paper's global step size.

    The paper's control variates c and c_i are gradients; here they are courses, what the steps of a round
    would come to along them: C = -K eta c and C_i = -K eta c_i, with K local steps of rate eta, the same for
    every hospital and round. Then c_i+ - c_i = -c - (y_i - x) / (K eta), option II, becomes
    C_i+ - C_i = (y_i - x) - C: it is made of the update and of what everybody knows. So the server moves C by
    the same mean update that moves the model, nothing else travels, and no hospital's own course is seen.
    """

    weights = "equal"

    def __init__(self, options: Mapping[str, float]) -> None:
        if set(options) - {"rate"}:
            raise ValueError("scaffold knows the option 'rate' only")
        self._rate = np.float32(options.get("rate", 1.0))
        if not 0 < self._rate < np.inf:
            raise ValueError("scaffold: rate must be positive")

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """See :class:`medveil.strategies.ServerStrategy`; the common course is kept beside it."""
        return model + self._rate * mean_update, state

    def common_after(self, common: Float32, mean_update: Float32, present: Float32) -> Float32:
        """See :class:`medveil.strategies.Steered`: the mean of all hospitals' own, moved or not, stays C."""
        return common + present * (mean_update - common)

    def own_after(self, own: Float32, common: Float32, update: Float32) -> Float32:
        """See :class:`medveil.strategies.Steered`."""
        return own + (update - common)

    def steered(self, weights: Entries, own: Entries, common: Entries, steps: int) -> Entries:
        """See :class:`medveil.strategies.Steered`: y - eta (g - c_i + c), after the step y - eta g."""
        return weights + (common - own) / steps

    def suited(self, training: Training) -> Training:
        """See :class:`medveil.strategies.Demanding`: plain steps, as many and as long in every round."""
        return plain_sgd(training).model_copy(update={"schedule": "constant"})

    def problem(self, study: Study) -> str | None:
        """See :class:`medveil.strategies.Demanding`."""
        if isinstance(study.privacy, JointNoise):
            return "scaffold changes local steps, which joint noise cannot bear"
        if study.compression is not None:
            return "scaffold's courses are of whole updates, and the study sends shortened ones"
        return None
