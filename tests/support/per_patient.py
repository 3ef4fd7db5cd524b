"""What the engine's gradients are held against: one patient at a time, plain autograd, the whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hospital_node.training.gradients import Drawn, Way, patient_gradients
from medveil.tasks import TASKS

CPU = torch.device("cpu")


def oracle(net: nn.Module, loss: Any, one: Drawn) -> torch.Tensor:
    weights = [p for p in net.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss(net(one.images), one.labels).mean(), weights, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(w) if f is None else f).flatten() for w, f in zip(weights, found, strict=True)]
    )


def worst_error(net: nn.Module, task: str, drawn: Sequence[Drawn], way: Way) -> float:
    """Largest relative error of one patient's gradient; the network must be left as it was."""
    loss = TASKS[task].loss
    expected = torch.stack([oracle(net, loss, one) for one in drawn])
    weights = [p for p in net.parameters() if p.requires_grad]
    before = {k: v.clone() for k, v in (*net.state_dict().items(), *net.named_buffers())}
    chunks = patient_gradients(net, loss, drawn, device=CPU, way=way)
    found = torch.cat([torch.cat([c[w].flatten(1) for w in weights], 1) for c in chunks])
    assert [id(p) for p in net.parameters() if p.requires_grad] == [id(w) for w in weights]
    after = dict((*net.state_dict().items(), *net.named_buffers()))
    assert all(torch.equal(v, before[k]) for k, v in after.items())
    assert expected.norm(dim=1).min() > 0
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())
