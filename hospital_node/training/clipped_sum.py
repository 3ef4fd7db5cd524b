"""The clipped sum of one step: all that patients add to it, before there is noise.

Here, and nowhere else, gradients of patients become a sum. It depends on who was drawn and on nothing that
must happen once a step, so the ranks of a job may share the drawn patients between them and add up their sums
before the step is finished (:mod:`hospital_node.training.shared`); coins, noise and charge stay in one place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hospital_node.training.gradients import Drawn, Loss, patient_gradients
from hospital_node.training.optimizer import PatientOptimizer
from hospital_node.training.shared import SharedSteps
from medveil.stopping import check_stopped


def add_clipped_sum(
    optimizer: PatientOptimizer,
    module: nn.Module,
    loss: Loss,
    drawn: Sequence[Drawn],
    *,
    device: torch.device,
    shared: SharedSteps | None = None,
) -> None:
    """Clip each drawn patient's gradient and add it to the step in progress; nothing for an empty draw.

    Args:
        shared: ranks that compute the sum; in this process without them.

    The sum lies in each parameter's ``summed_grad`` until :meth:`PatientOptimizer.finish_step`.

    Guarantees: a patient moves the sum by the clipping norm at most, whoever else was drawn.
    Raises: Stopped between two chunks of patients. What :meth:`SharedSteps.clipped_sum` raises.
    """
    if shared is not None:
        if drawn:
            optimizer.add(shared.clipped_sum(drawn, clip_norm=optimizer.max_grad_norm))
        return
    for gradients in patient_gradients(module, loss, drawn, device=device):
        check_stopped()
        optimizer.accumulate(gradients)
        del gradients  # memory for the next ones
