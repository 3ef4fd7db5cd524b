"""A start from which each hospital gets far in a few steps of its own: meta-learning by Reptile.

Source: Nichol, Achiam, Schulman, "On first-order meta-learning algorithms", 2018, the batch version of
algorithm 1; a hospital is a task.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medveil.strategies import STRATEGIES, State
from medveil.study import Study, Training
from medveil.tensors import Float32

DEFAULTS = {"rate": 1.0, "decay": 0.9}


@STRATEGIES.register("reptile")
class Reptile:
    """model + rate * mean(adapted - model): part of the way towards the mean of the adapted weights.

    Options: ``rate`` in (0, 1] (1), that of the first round; ``decay`` in (0, 1] (0.9), by which each round's
    falls below the one before (the paper lets it fall to zero, too).

    One step is that of federated averaging with a rate; the paper says so itself. What differs is whose mean
    it is and what it is for: each hospital is a task and counts alike, however many patients it has, and the
    last steps are short, so that the result lies near all of the adapted weights instead of at the latest
    mean. It is a start, to be trained on at each hospital (``medveil research evaluate --adapt``), and its
    figures before that are a start's.
    """

    weights = "equal"

    def __init__(self, options: Mapping[str, float]) -> None:
        if set(options) - set(DEFAULTS):
            raise ValueError(f"reptile knows the options {', '.join(DEFAULTS)}")
        self._rate, self._decay = (np.float32(options.get(name, DEFAULTS[name])) for name in DEFAULTS)
        if not (0 < self._rate <= 1 and 0 < self._decay <= 1):
            raise ValueError("reptile: rate and decay must lie in (0, 1]")

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """See :class:`medveil.strategies.ServerStrategy`; the state is this round's rate, shape (1,)."""
        first: Float32 = np.ones(1, np.float32) * self._rate
        rate = state.get("rate", first)
        stepped: Float32 = model + rate * mean_update
        return stepped, {"rate": rate * self._decay}

    def suited(self, training: Training) -> Training:
        """See :class:`medveil.strategies.Demanding`: any training adapts."""
        return training

    def problem(self, study: Study) -> str | None:
        """See :class:`medveil.strategies.Demanding`."""
        return None
