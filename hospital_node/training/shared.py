"""Steps whose sums come from a job's ranks: what the node hands out, and how it checks the answer.

Coins, patients' images, augmentation, noise and the step itself stay here; ranks see tensors and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from hospital_node.ranks.job import Block, Job, Kind, Order
from hospital_node.ranks.problems import RankAnswer
from hospital_node.ranks.tree import in_blocks
from hospital_node.training.gradients import Drawn
from medveil.study import Study

Sums = dict[nn.Parameter, torch.Tensor]
PIECE_BYTES = 2**30
"""Images that are handed out at a time: enough large volumes to keep every rank busy."""
SLACK = 1e-3
"""By so much may rounding lift a sum over the most that its patients can add up to."""


class SharedSteps:
    """The seam between a training in this process and the ranks that share its sums.

    Args:
        module: whose weights are trained here; its ranks have the same network.
    """

    def __init__(self, job: Job, module: nn.Module) -> None:
        self._job = job
        self._weights = [p for p in module.parameters() if p.requires_grad]

    def clipped_sum(self, drawn: Sequence[Drawn], *, clip_norm: float) -> Sums:
        """The sum of the patients' clipped gradients, by parameter.

        Guarantees: the same bits, however many ranks there are (with equal hardware and threads); its norm is
            at most the number of patients times ``clip_norm``.
        Raises: RankAnswer; what :meth:`hospital_node.ranks.job.Job.sum_of` raises.
        """
        total = self._sum("clipped", [_block(one) for one in in_blocks(drawn)])
        norm = float(torch.linalg.vector_norm(total.double()))
        if not norm <= len(drawn) * clip_norm * (1 + SLACK):  # a NaN as well
            raise RankAnswer(rank=0, problem="a sum that is larger than its patients' gradients can be")
        return self._parts(total)

    def mean_gradient(self, images: torch.Tensor, labels: torch.Tensor) -> Sums:
        """The gradient of the images' mean loss, by parameter. Raises: as :meth:`clipped_sum`."""
        places = in_blocks(range(len(images)))
        whole = [Drawn(images[list(one)], labels[list(one)]) for one in places]
        return self._parts(self._sum("loss", [_block([one]) for one in whole]) / len(images))

    def _sum(self, kind: Kind, blocks: Sequence[Block]) -> torch.Tensor:
        weights = torch.cat([p.detach().flatten() for p in self._weights]).cpu().numpy()
        return torch.from_numpy(self._job.sum_of(kind, weights, blocks))

    def _parts(self, total: torch.Tensor) -> Sums:
        device = self._weights[0].device
        parts = torch.split(total.to(device), [p.numel() for p in self._weights])
        return {p: part.view_as(p) for p, part in zip(self._weights, parts, strict=True)}


def order_for(study: Study, dtype: torch.dtype) -> Order:
    """What ranks must know of a study before its first step."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError("weights are float32 or float64")
    precision: Literal["float32", "float64"] = "float64" if dtype == torch.float64 else "float32"
    return Order(study.model_dump_json(), precision)


def add_gradients(sums: Sums, share: float) -> None:
    """Add ``share`` times these to each parameter's ``grad``."""
    for parameter, value in sums.items():
        mine = (share * value).to(parameter.dtype)
        parameter.grad = mine if parameter.grad is None else parameter.grad + mine


def _block(drawn: Sequence[Drawn]) -> Block:
    counts = np.array([len(one.images) for one in drawn])
    images, labels = torch.cat([one.images for one in drawn]), torch.cat([one.labels for one in drawn])
    return Block(images.cpu().numpy(), labels.cpu().numpy(), counts)
