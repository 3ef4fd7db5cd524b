"""An optimiser without torch's compiler steps as torch's own does, bit for bit, and its hooks are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hospital_node.training.uncompiled import uncompiled


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
    ],
)
def test_its_steps_are_the_bits_of_torchs_own(kind: Any, options: dict[str, float]) -> None:
    ours, own = _stepped(uncompiled(kind), **options), _stepped(kind, **options)
    assert len(ours) == len(own) == 3
    assert all(torch.equal(a, b) for a, b in zip(ours, own, strict=True))
    assert not torch.equal(ours[0], ours[2])


def test_hooks_of_one_optimizer_and_of_all_see_each_step() -> None:
    seen = list[str]()
    weight = torch.zeros(2, requires_grad=True)
    optimizer = uncompiled(torch.optim.SGD)([weight], lr=1.0)
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    handle = register_optimizer_step_pre_hook(lambda *_: seen.append("before"))
    try:
        weight.grad = torch.ones(2)
        optimizer.step()
    finally:
        handle.remove()
    assert seen == ["before", "after"]
    assert weight.tolist() == [-1.0, -1.0]


def _stepped(kind: Callable[..., torch.optim.Optimizer], **options: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(40, generator=generator).requires_grad_()
    optimizer, found = kind([weight], lr=0.1, **options), []
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        (weight * torch.randn(40, generator=generator)).square().sum().backward()
        optimizer.step()
        found.append(weight.detach().clone())
    return found
