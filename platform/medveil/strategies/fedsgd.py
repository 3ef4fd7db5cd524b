"""One step a round, of each hospital on all that it has: what federated averaging is measured against.

Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, AISTATS 2017, section 2 (FedSGD: one pass, and the
batch is all local data).
"""

from __future__ import annotations

from collections.abc import Mapping

from medveil.noise_policies import GaussianNoise
from medveil.strategies import STRATEGIES, State, plain_sgd
from medveil.study import Study, Training
from medveil.tensors import Float32


@STRATEGIES.register("fedsgd")
class FedSGD:
    """model + mean(trained - model), where trained is one plain step on everybody; it takes no options.

    The step is the whole of a hospital's work in a round, so a study with more local steps or passes is
    refused, not cut short. ``batch_images`` is how many images are in memory at once; the gradients of all
    are added up before the step.
    """

    weights = None
    on_everybody = True

    def __init__(self, options: Mapping[str, float]) -> None:
        if options:
            raise ValueError("fedsgd takes no options")

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """See :class:`medveil.strategies.ServerStrategy`; it keeps no state."""
        return model + mean_update, state

    def response(self, rounds: int) -> tuple[float, ...]:
        """See :class:`medveil.strategies.Summing`."""
        return (1.0,) * rounds

    def suited(self, training: Training) -> Training:
        """See :class:`medveil.strategies.Demanding`."""
        return plain_sgd(training, steps=1)

    def problem(self, study: Study) -> str | None:
        """See :class:`medveil.strategies.Demanding`."""
        if isinstance(study.privacy, GaussianNoise) and study.privacy.sample_rate < 1:
            return "fedsgd takes its step on every patient (privacy.sample_rate = 1)"
        return None
