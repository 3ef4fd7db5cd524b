"""The local half of a strategy, and what steers its hospitals, obeyed in every optimiser step.

A rule comes after the optimiser: under differential privacy the gradients of the patients have been clipped,
added up and noised by then, and the step is taken. It is handed weights and learning rate, which are made of
released steps and of what everybody knows, so the update that leaves the hospital is as private as without
it (post-processing). No rule can be put before the noise from here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medveil.strategies import Courses, LocalHalf, Steered, strategy_of
from medveil.study import Study
from medveil.tensors import unflatten


def obey_local_rule(study: Study, optimizer: torch.optim.Optimizer) -> None:
    """Let the study's strategy have its word after each step of ``optimizer``, if it has a local half.

    Args:
        optimizer: the one that moves the weights, which are the global model's now: the rule's ``start``.

    Raises:
        UnknownName, BadStrategy: as in :func:`medveil.strategies.strategy_of`.
    """
    strategy = strategy_of(study)
    if not isinstance(strategy, LocalHalf):
        return
    rule = strategy.local
    start = [[w.detach().clone() for w in group["params"]] for group in optimizer.param_groups]

    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        with torch.no_grad():
            for group, began in zip(optimizer.param_groups, start, strict=True):
                for weight, first in zip(group["params"], began, strict=True):
                    # Values only: a parameter has gradients hanging on it.
                    weight.copy_(rule(weight.detach(), first, group["lr"]))

    optimizer.register_step_post_hook(after_step)


def obey_courses(
    study: Study, module: nn.Module, optimizer: torch.optim.Optimizer, courses: Courses | None
) -> None:
    """Let the courses of a steered study have their word after each step of ``optimizer``.

    Args:
        courses: None: nobody has one yet, and a step is the optimiser's.
    Raises: UnknownName, BadStrategy.
    """
    strategy = strategy_of(study)
    if courses is None or not isinstance(strategy, Steered):
        return
    steps, trained = study.training.local_steps or 1, dict(module.named_parameters())
    pairs = zip(
        *(unflatten(course, study.model.tensors).items() for course in (courses.own, courses.common)),
        strict=True,
    )
    told = [
        (trained[name], *(torch.from_numpy(part.copy()).to(trained[name].device) for part in (own, common)))
        for (name, own), (_, common) in pairs
        if trained[name].requires_grad
    ]

    def after_step(*_: Any) -> None:
        with torch.no_grad():
            for weight, own, common in told:
                weight.copy_(strategy.steered(weight.detach(), own, common, steps))

    optimizer.register_step_post_hook(after_step)
