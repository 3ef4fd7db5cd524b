"""Discrete noise in a training round: patients' shares in whole steps, and whole numbers on their way out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from medveil.errors import Error
from medveil.study import Study
from medveil.tensors import Update
from privacy.dp.grid import LANE_STEPS, lane_clip

LONGEST = 1 - 2.0**-11
"""Of the clipping norm: no patient's whole steps are longer. What is left pays for the last bits of the
others' gradients, which may differ with the company they are computed in."""


class NoiseCut(Error):
    """A noisy coordinate lies outside what the encoding carries."""

    code = "noise-cut"

    def __init__(self) -> None:
        super().__init__(
            what="A coordinate of the noisy update lies beyond the study's update_clip.",
            meaning="Cutting it would leave too little noise in the sum, so nothing was sent this round.",
            remedy="Raise secure_aggregation.update_clip in the study, or lower its learning rate.",
        )


def whole_sums(
    samples: Sequence[torch.Tensor],
    factors: torch.Tensor,
    *,
    step: float,
    clip_norm: float,
    shorten: bool = False,
) -> list[torch.Tensor]:
    """The sum over patients of factor times gradient, each patient's rounded to whole steps; float64, exact.

    Rounded to the nearest step. Where that makes a patient's vector longer than ``LONGEST`` clipping norms,
    it is rounded towards zero instead, which lengthens nothing; and should it still be longer, it is left
    out. So a patient's share depends on that patient's gradient alone, and its length has a limit in whole
    numbers, whatever floating point made of norm and factor.

    Args:
        samples: by parameter, shape (P, d_i), finite. factors: shape (P,). step: a power of two. shorten:
            round everybody towards zero, where what a patient adds is booked by the length that it had
            before.
    Guarantees: adding or removing a patient moves the sum by at most ``LONGEST * clip_norm``, exactly:
        multiples of a power of two below 2^53 of it add up without rounding, in any order.
    """
    by = (factors.double() / step).to(samples[0].dtype)[:, None]
    steps = [(sample * by).round_() for sample in samples]
    limit = LONGEST * clip_norm / step
    long = ~(_lengths(steps) <= (0.0 if shorten else limit))
    if bool(long.any()):
        for sample, rounded in zip(samples, steps, strict=True):
            rounded[long] = (sample[long] * by[long]).trunc_()
        long = ~(_lengths(steps) <= limit)
        for rounded in steps:
            rounded[long] = 0.0
    return [rounded.sum(0, dtype=torch.float64).mul_(step) for rounded in steps]


def _lengths(steps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Shape (P,), float64."""
    parts = [torch.linalg.vector_norm(one, dim=1, dtype=torch.float64) for one in steps]
    lengths: torch.Tensor = torch.stack(parts).norm(dim=0)
    return lengths


def whole_update(
    study: Study,
    number: int,
    moved: NDArray[np.float64],
    *,
    start: NDArray[np.float64] | None = None,
    declared: int,
) -> Update:
    """The update whose coordinates are whole steps of a lane, once it is weighted.

    Args:
        moved: shape (d,), what the round's noisy sum, divided by the public constant, makes of a model at
            zero.
        start: shape (d,), what is taken off it, known to all; nothing if left out.
        declared: the hospital's weight.
    Guarantees: the encoding finds exactly the whole numbers that were noised (less whole numbers that all
        know): they are below 2^22, and ``moved`` is at most a relative 2^-23 from them.
    Raises: NoiseCut: a number lies beyond its lane.
    """
    clip = lane_clip(study, number)
    if clip is None:
        raise TypeError("only whole numbers in lanes have a step")
    per_step = LANE_STEPS * (declared / study.secure_aggregation.max_weight) / clip
    steps = np.rint(moved * per_step)
    if start is not None:
        steps -= np.clip(np.rint(start * per_step), -LANE_STEPS // 2, LANE_STEPS // 2)
    if not np.all(np.abs(steps) < LANE_STEPS):
        raise NoiseCut()
    return Update((steps / per_step).astype(np.float32))
