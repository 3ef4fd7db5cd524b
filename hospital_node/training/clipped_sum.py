"""The clipped sum of one step: all that patients add to it, before there is noise.

Here, and nowhere else, gradients of patients become a sum. It depends on who was drawn and on nothing that
must happen once a step, so devices could share the drawn patients between them and add up their sums before
the step is finished; coins, noise and charge stay in one place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hospital_node.training.gradients import Drawn, Loss, patient_gradients
from hospital_node.training.optimizer import PatientOptimizer
from medveil.stopping import check_stopped


def add_clipped_sum(
    optimizer: PatientOptimizer,
    module: nn.Module,
    loss: Loss,
    drawn: Sequence[Drawn],
    *,
    device: torch.device,
) -> None:
    """Clip each drawn patient's gradient and add it to the step in progress; nothing for an empty draw.

    The sum lies in each parameter's ``summed_grad`` until :meth:`PatientOptimizer.finish_step`.

    Guarantees: a patient moves the sum by the clipping norm at most, whoever else was drawn.
    Raises: Stopped between two chunks of patients.
    """
    for gradients in patient_gradients(module, loss, drawn, device=device):
        check_stopped()
        optimizer.accumulate(gradients)
        del gradients  # memory for the next ones
