"""Whose patients a mean is made of, by what hospitals count in it, and how much local noise it carries.

Under ``LocalNoise`` a hospital with n patients has an update whose noise is proportional to 1 / n. With
weights w_k the mean has noise sqrt(sum (w_k / n_k)^2) / sum w_k. It is least with w_k = n_k^2, inversely as
the variances (Cauchy and Schwarz); with w_k = n_k, the mixture of all patients, it is sqrt(K) / sum n_k.
Declared numbers are public, so any weights made of them cost no privacy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from medveil.errors import BadOption
from medveil.study import SecureAggregation
from medveil.values import Weights


@dataclass(frozen=True)
class Mixture:
    """What each hospital's patients come to in the mean."""

    patients: tuple[int, ...]
    """Of each hospital."""

    def shares(self, weights: Weights) -> tuple[float, ...]:
        """Of each hospital in the mean; they add up to 1."""
        masked = SecureAggregation(update_clip=1.0, max_weight=max(self.patients), weights=weights)
        counts = [masked.weight_of(n) for n in self.patients]
        return tuple(count / sum(counts) for count in counts)

    def noise(self, weights: Weights) -> float:
        """Of the mean under local noise, beside that of the mixture of all patients (weights by patients)."""
        own = math.hypot(*(share / n for share, n in zip(self.shares(weights), self.patients, strict=True)))
        return own * sum(self.patients) / math.sqrt(len(self.patients))

    def shift(self, weights: Weights) -> float:
        """Share of the mean that is other hospitals' than in the mixture of all patients, from 0 to 1."""
        pairs = zip(self.shares(weights), self.shares("declared"), strict=True)
        return sum(abs(one - other) for one, other in pairs) / 2

    def lines(self) -> list[str]:
        """A table for a study's author: each hospital's share with its patients and with their square."""
        lines = [f"{'patients':>8}{'declared':>10}{'squared':>9}"]
        rows = zip(self.patients, self.shares("declared"), self.shares("squared"), strict=True)
        lines += [f"{n:>8}{plain:>10.1%}{squared:>9.1%}" for n, plain, squared in rows]
        noise, shift = self.noise("squared"), self.shift("squared")
        words = (
            f"squared: {noise:.3f} of the local noise; {shift:.1%} of the model comes from other hospitals"
        )
        return [*lines, words]


def mixture_of(text: str, hospitals: int) -> Mixture:
    """From numbers of patients like ``300,120,60``. Raises: BadOption."""
    try:
        patients = tuple(int(part) for part in text.split(","))
    except ValueError:
        patients = ()
    if len(patients) != hospitals or not all(1 <= n <= 46_340 for n in patients):
        problem = f"--patients-each: {hospitals} numbers of patients are wanted, like 300,120,60"
        raise BadOption(problem=problem)
    return Mixture(patients)
