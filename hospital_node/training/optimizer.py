"""Opacus' optimiser with a patient as its sample and noise from our own key stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hospital_node.training.whole import whole_sums
from medveil.lean import import_alone
from medveil.noise_policies import GaussianNoise
from privacy.dp.grid import Grid
from privacy.dp.individual import PatientFilter
from privacy.dp.noise import NoiseSource

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer
else:  # the whole of Opacus brings accountants of its own, and with them SciPy's statistics: a second or two
    DPOptimizer = import_alone(
        "opacus.optimizers.optimizer",
        named_only={"torch.distributed.tensor": "DTensor"},  # which brings SymPy: a second and 40 MiB
    ).DPOptimizer

MARGIN = 1 - 1e-3
"""Factors are computed in float32; this share less keeps rounding from lifting a patient over the norm."""
UNIT_SHIFT = 0.01
"""Stability term of unit-norm clipping, in units of the clipping norm."""
NORM_BLOCK, NOISE_BLOCK = 1024, 2**16
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
        noise: where the noise comes from. torch's generators have no part in it. None where sums are made and
            never released: such an optimiser cannot step.
        grid: of discrete noise; every patient's share is rounded to its whole steps then.
        filter: what each patient may still add; with it :meth:`enter` begins every step.

    Source: Abadi et al., CCS 2016, algorithm 1, with patients as examples; McMahan et al., ICLR 2018.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        policy: GaussianNoise,
        expected_patients: float,
        noise: NoiseSource | None,
        grid: Grid | None = None,
        filter: PatientFilter | None = None,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=policy.own_multiplier,
            max_grad_norm=policy.clip_norm,
            expected_batch_size=expected_patients,
            loss_reduction="mean",
        )
        self._policy = policy
        self._noise, self._filter = noise, filter
        self._whole = grid
        self.released: dict[torch.nn.Parameter, torch.Tensor] = {}
        """What the last step stepped with, by parameter: noisy sums over the public constant."""
        self._waiting: list[str] = []
        """Who is in the step in progress and not yet in its sum."""
        self._grid = 2.0 ** (math.floor(math.log2(policy.clip_norm)) - GRID_BITS)

    def enter(self, patients: Sequence[str]) -> None:
        """Begin a step with these patients; their gradients come in this order, in any number of chunks."""
        self._waiting = list(patients)

    def accumulate(self, gradients: Mapping[torch.nn.Parameter, torch.Tensor]) -> None:
        """Clip one chunk of patients and add it to the step in progress."""
        for parameter, gradient in gradients.items():
            parameter.grad_sample = gradient  # type: ignore[attr-defined]
        self.signal_skip_step(do_skip=True)
        self.step()
        self.zero_grad(set_to_none=True)

    def add(self, sums: Mapping[torch.nn.Parameter, torch.Tensor]) -> None:
        """Add a sum of clipped patients that was made elsewhere to the step in progress."""
        for parameter, value in sums.items():
            known = parameter.summed_grad  # type: ignore[attr-defined]
            parameter.summed_grad = value if known is None else known + value  # type: ignore[attr-defined]

    def taken_sum(self) -> list[torch.Tensor]:
        """The sum of the step in progress by parameter, for whoever adds the noise; it is begun anew."""
        found = [p.new_zeros(p.shape) if p.summed_grad is None else p.summed_grad for p in self.params]
        for parameter in self.params:
            parameter.summed_grad = None
        return found

    def finish_step(self) -> None:
        """Add noise once, scale and step. Without a chunk before it, this is a step of noise only."""
        if self._filter is not None and self._waiting:
            raise TypeError("a patient who entered a step is not in its sum")
        for parameter in self.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        self.signal_skip_step(do_skip=False)
        self.step()
        self.released = {parameter: parameter.grad for parameter in self.params}
        self.zero_grad(set_to_none=True)

    def clip_and_accumulate(self) -> None:
        """Add sum_p factor_p * g_p to ``summed_grad``, with norms over all parameters in float32 or more."""
        samples = [_wide(self._get_flat_grad_sample(p)).flatten(1).contiguous() for p in self.params]
        norms = torch.stack([row_norms(sample) for sample in samples]).norm(dim=0)
        factors = self._allowed(norms, clip_factors(norms, self._policy))
        # On a GPU, asking whether all are finite would make the host wait for it.
        broken = ~norms.isfinite()[:, None]
        if norms.is_cuda or bool(broken.any()):  # 0 times an infinite entry is not 0
            samples = [sample.masked_fill_(broken, 0.0) for sample in samples]
        if self._whole is not None:
            found = whole_sums(
                samples,
                factors,
                step=self._whole.step,
                clip_norm=self._policy.clip_norm,
                shorten=self._filter is not None,
            )
            shaped = zip(self.params, found, strict=True)
            self.add({parameter: one.view(parameter.shape) for parameter, one in shaped})
            return
        for parameter, sample in zip(self.params, samples, strict=True):
            if parameter.summed_grad is None:
                parameter.summed_grad = sample.new_zeros(parameter.shape)
            if len(sample):
                parameter.summed_grad.view(-1).addmv_(sample.T, factors.to(sample.dtype))

    def _allowed(self, norms: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """The factors as far as the filter lets patients through; it books what they add.

        Everybody's gradient is computed, whoever may add nothing more: time shows nobody who that is.
        """
        if self._filter is None:
            return factors
        count, clip, multiplier = len(norms), self._policy.clip_norm, self._policy.own_multiplier
        patients, self._waiting = self._waiting[:count], self._waiting[count:]
        most = torch.from_numpy(self._filter.shares(patients, multiplier)).to(norms.device)
        lengths = (factors * norms).double().nan_to_num(0.0)
        cut = torch.where(lengths > 0, (most * clip * MARGIN / lengths).clamp(max=1.0), torch.ones_like(most))
        self._filter.book(patients, (lengths * cut / clip).cpu().numpy(), multiplier)
        return (factors * cut).to(factors.dtype)

    def add_noise(self) -> None:
        """Put the noisy sum, rounded to the grid, into ``grad``; the sum itself is forgotten.

        It happens in float64 on the CPU, whatever the network runs in, in pieces that fit the cache.
        """
        if self._noise is None:
            raise TypeError("a sum is released with noise only")
        scale = self._policy.own_multiplier * self._policy.clip_norm
        released = torch.cat([p.summed_grad.detach().flatten() for p in self.params]).cpu()
        for piece in torch.split(released, NOISE_BLOCK):
            if self._whole is not None:  # whole steps of a power of two: every sum of them is exact
                drawn = self._noise.discrete(len(piece), self._whole.deviation).astype(np.float64)
                drawn *= self._whole.step
                piece.clamp_(-self._whole.room, self._whole.room).add_(torch.from_numpy(drawn))
                continue
            noisy = piece.double().add_(torch.from_numpy(self._noise.gaussian(len(piece), scale)))
            piece.copy_(noisy.div_(self._grid).round_().mul_(self._grid))
        parts = torch.split(released.to(self.params[0]), [p.numel() for p in self.params])
        for parameter, part in zip(self.params, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
            parameter.summed_grad = None

    def scale_grad(self) -> None:
        """Divide by the public constant, once (Opacus counts its samples anew for every parameter)."""
        torch._foreach_div_([parameter.grad for parameter in self.params], self.expected_batch_size)


def row_norms(rows: torch.Tensor) -> torch.Tensor:
    """Euclidean norms (P,) of rows (P, d).

    Guarantees: relative error below 1e-4 in float32 also for a hundred million entries. A plain norm adds
    one by one on a CPU and is wrong by a percent at ten million, more than the margin allows for.
    """
    count = rows.shape[1] // NORM_BLOCK
    whole = count * NORM_BLOCK
    blocks = torch.linalg.vector_norm(rows[:, :whole].reshape(len(rows), count, NORM_BLOCK), dim=2)
    rest = torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True)
    norms: torch.Tensor = torch.linalg.vector_norm(torch.cat([blocks, rest], 1), dim=1)
    return norms


def _wide(gradient: torch.Tensor) -> torch.Tensor:
    """At least float32, whatever the forward pass ran in."""
    return gradient if gradient.dtype == torch.float64 else gradient.float()
