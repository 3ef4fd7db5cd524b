"""What a study learns: the loss of one image, and one patient's bounded share of the figures."""

from __future__ import annotations

from typing import Protocol

import torch

from medveil.metrics import Sums
from medveil.registry import Registry
from medveil.study import Study


class Task(Protocol):
    """A kind of learning. Both functions look at one patient's images and nothing else."""

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One loss an image, shape (k,); entry i depends on image i only. Safe under ``torch.func.vmap``."""
        ...

    def sums(self, study: Study, logits: torch.Tensor, labels: torch.Tensor) -> Sums:
        """One patient's contribution to :func:`medveil.metrics.layout`, from at most
        ``study.evaluation.images_per_patient`` images (the first ones); every entry finite and bounded."""
        ...


TASKS: Registry[Task] = Registry("task", __name__)
