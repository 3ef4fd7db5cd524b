"""Opacus' optimiser with a patient as its sample and noise from our own key stream."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from opacus.optimizers import DPOptimizer

from medveil.study import GaussianNoise
from privacy.dp.noise import NoiseSource

MARGIN = 1 - 1e-3
"""Factors are computed in float32; this share less keeps rounding from lifting a patient over the norm."""
UNIT_SHIFT = 0.01
"""Stability term of unit-norm clipping, in units of the clipping norm."""
GRID_BITS = 20
"""Noisy sums are rounded to 2^-20 of the clipping norm (to the power of two below it)."""


def clip_factors(norms: torch.Tensor, policy: GaussianNoise) -> torch.Tensor:
    """What each patient's gradient is multiplied with; shape (P,), float32.

    ``flat``: min(1, C / norm). ``unit``: C / (norm + 0.01 C), "automatic" clipping (Bu, Wang, Zha, Karypis,
    NeurIPS 2023).
    Guarantees: factor times norm is at most C, also after rounding; a norm that is not finite gives 0.
    """
    limit = policy.clip_norm
    if policy.clipping == "unit":
        factors = limit * MARGIN / (norms + UNIT_SHIFT * limit)
    else:
        factors = (limit * MARGIN / norms).clamp(max=1.0)
    return torch.where(norms.isfinite(), factors, torch.zeros_like(factors))


class PatientOptimizer(DPOptimizer):  # type: ignore[misc]
    """Clip each patient's gradient, add up, add noise, divide by a public constant, step.

    Fill every parameter's ``grad_sample`` with a tensor (P, *shape): one row a *patient*. Any number of
    such chunks make one step (:meth:`signal_skip_step` on all but the last); a step without any patient is
    noise only.

    Args:
        policy: clipping and noise.
        expected_patients: sample rate times the declared number of patients; a public constant, never the
            number drawn.
        noise: where the noise comes from. torch's generators have no part in it.

    Source: Abadi et al., CCS 2016, algorithm 1, with patients as examples; McMahan et al., ICLR 2018.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        policy: GaussianNoise,
        expected_patients: float,
        noise: NoiseSource,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=policy.own_multiplier,
            max_grad_norm=policy.clip_norm,
            expected_batch_size=expected_patients,
            loss_reduction="mean",
        )
        self._policy = policy
        self._noise = noise
        self._grid = 2.0 ** (math.floor(math.log2(policy.clip_norm)) - GRID_BITS)

    def accumulate(self, gradients: Mapping[torch.nn.Parameter, torch.Tensor]) -> None:
        """Clip one chunk of patients and add it to the step in progress."""
        for parameter, gradient in gradients.items():
            parameter.grad_sample = gradient  # type: ignore[attr-defined]
        self.signal_skip_step(do_skip=True)
        self.step()
        self.zero_grad(set_to_none=True)

    def finish_step(self) -> None:
        """Add noise once, scale and step. Without a chunk before it, this is a step of noise only."""
        for parameter in self.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        self.signal_skip_step(do_skip=False)
        self.step()
        self.zero_grad(set_to_none=True)

    def clip_and_accumulate(self) -> None:
        """Add sum_p factor_p * g_p to ``summed_grad``, with float32 norms over all parameters."""
        samples = [self._get_flat_grad_sample(p) for p in self.params]
        squares = torch.stack([_wide(g).flatten(1).square().sum(1) for g in samples])
        norms = squares.sum(0).sqrt()
        factors = clip_factors(norms, self._policy)
        finite = bool(norms.isfinite().all())
        for parameter, sample in zip(self.params, samples, strict=True):
            gradient = _wide(sample)
            if not finite:  # 0 times an infinite entry is not 0
                gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
            total = torch.einsum("p,p...->...", factors.to(gradient.dtype), gradient)
            before = parameter.summed_grad
            parameter.summed_grad = total if before is None else before + total

    def add_noise(self) -> None:
        """Put the noisy sum, rounded to the grid, into ``grad``; the sum itself is forgotten."""
        scale = self._policy.own_multiplier * self._policy.clip_norm
        for parameter in self.params:
            exact = parameter.summed_grad.detach().cpu().double()
            noise = torch.from_numpy(self._noise.gaussian(parameter.numel(), scale)).view_as(exact)
            released = ((exact + noise) / self._grid).round_() * self._grid
            parameter.grad = released.to(parameter)
            parameter.summed_grad = None


def _wide(gradient: torch.Tensor) -> torch.Tensor:
    """At least float32, whatever the forward pass ran in."""
    return gradient if gradient.dtype == torch.float64 else gradient.float()
