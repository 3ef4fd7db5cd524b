"""The trained part of models with fixed features."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Head(nn.Linear):
    """Logits (k, outputs) of fixed features (k, d), the last of which is a constant; it starts at zero.

    With ``centred`` it scores the features less ``centre``, shape (d - 1,): the mean that the study's first
    round released. That mean travels with the weights, and no gradient ever reaches it. The constant stays
    what it is, so the head keeps its bias.
    """

    centre: nn.Parameter | None

    def __init__(self, features: int, outputs: int, *, centred: bool) -> None:
        super().__init__(features, outputs, bias=False)
        nn.init.zeros_(self.weight)
        mean = nn.Parameter(torch.zeros(features - 1), requires_grad=False) if centred else None
        self.register_parameter("centre", mean)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        if self.centre is not None:
            values = values - functional.pad(self.centre, (0, 1))
        return super().forward(values)
