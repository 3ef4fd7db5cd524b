"""The private-mean round: one noisy release of the mean of the patients' fixed features.

It is the training engine's own step on a model that is nothing but the mean: the gradient of
-(mean . features) is -features, so one step of length 1 from zero is the clipped, noised sum over patients,
divided by the public constant. Drawing, clipping, noise and division are those of training, and the same
self-checks hold for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hospital_node.training.clipped_sum import add_clipped_sum
from hospital_node.training.gradients import Drawn, draw
from hospital_node.training.optimizer import PatientOptimizer
from hospital_node.training.uncompiled import uncompiled
from medveil.study import Study
from medveil_imaging.patients import Patient
from privacy.dp.grid import training_grid
from privacy.dp.individual import PatientFilter
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import mean_policy


class Mean(nn.Module):
    """``centre``, shape (d - 1,), starts at zero; features (k, d), whose last is a constant, → (k, 1)."""

    frozen_features = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(width))

    def features(self, values: torch.Tensor) -> torch.Tensor:
        """They are features already."""
        return values

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """How far the features lie along the mean."""
        return (values[:, :-1] @ self.centre)[:, None]


def mean_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Scores (k, 1), labels unused → (k,); its gradient per image is minus that image's features."""
    return -scores[:, 0]


def noisy_mean(
    study: Study,
    patients: Sequence[Patient],
    *,
    width: int,
    declared_patients: int,
    noise: NoiseSource,
    device: torch.device,
    filter: PatientFilter | None = None,
) -> torch.Tensor:
    """The noised mean over patients of their mean features, shape (width,), on the device.

    Args:
        patients: with features (k, width + 1) in place of images.
        width: features without the constant.
        declared_patients: the public number of patients that the sum is divided by.
        filter: what each patient may still add, for a study with one.

    Guarantees: adding or removing one patient moves the sum behind it by at most 1, against noise of
        :func:`privacy.dp.policy.mean_policy`; labels are not looked at.
    """
    policy, module, grid = mean_policy(study), Mean(width).to(device), training_grid(study, 1)
    optimizer = PatientOptimizer(
        uncompiled(torch.optim.SGD)(module.parameters(), lr=1.0),
        policy=policy,
        expected_patients=declared_patients,
        noise=noise,
        grid=grid,
        filter=filter,
    )
    chosen = draw(patients, policy, noise)
    optimizer.enter([one.patient.patient for one in chosen])
    drawn = [Drawn(*one.patient.take(one.which)) for one in chosen]
    add_clipped_sum(optimizer, module, mean_loss, drawn, device=device)
    optimizer.finish_step()
    return module.centre.detach()
