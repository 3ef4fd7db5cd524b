"""Federated averaging whose local steps stay near the global model: for hospitals with unlike patients.

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated optimization in heterogeneous networks", MLSys
2020 (FedProx); here the proximal term is solved in each step, so that no learning rate makes it overshoot.
"""

from __future__ import annotations

from collections.abc import Mapping

from medveil.strategies import STRATEGIES, Entries, State
from medveil.tensors import Float32


@STRATEGIES.register("fedprox")
class FedProx:
    """model + mean(trained - model), each local step drawn back towards the model.

    Option ``pull``, at least 0 (0.01): the paper's mu, weight of half the squared distance in the loss.
    """

    def __init__(self, options: Mapping[str, float]) -> None:
        if set(options) - {"pull"}:
            raise ValueError("fedprox knows the option 'pull' only")
        self._pull = options.get("pull", 0.01)
        if not 0 <= self._pull < float("inf"):
            raise ValueError("fedprox: pull must be a number from 0 on")

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """See :class:`medveil.strategies.ServerStrategy`; it keeps no state."""
        return model + mean_update, state

    def local(self, weights: Entries, start: Entries, rate: float) -> Entries:
        """See :class:`medveil.strategies.LocalHalf`: the nearest to ``weights`` with the term's pull."""
        return start + (weights - start) / (1 + rate * self._pull)
