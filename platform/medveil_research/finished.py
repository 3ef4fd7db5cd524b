"""A finished model: a version's weights, where they come from and what they have cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medveil.study import Study
from medveil.tensors import Float32, model_hash


@dataclass(frozen=True)
class Finished:
    """A model version, where it comes from and what it has cost.

    Raises: ValueError, if the weights are not finite or not as many as the study's model has.
    """

    study: Study
    plan: str
    """Hash of the plan, hexadecimal."""
    weights: Float32 = field(repr=False)
    """float32, shape (d,), in the order of ``study.model.tensors``."""
    epsilon: float | None
    """Spent by a patient who was in every round so far, at the study's delta; None without noise."""
    rounds: int | None = None
    """Train rounds behind it, where that is known."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Pooled figures of the study's test patients; empty where it was not evaluated."""

    def __post_init__(self) -> None:
        if self.weights.shape != (self.study.model.tensors.size,) or not np.isfinite(self.weights).all():
            raise ValueError("the weights are not those of a model of this study")
        if (self.epsilon is None) != (self.study.privacy.kind == "none"):
            raise ValueError("an epsilon belongs to a study with noise, and every such study has one")

    @property
    def version(self) -> str:
        """Hash of the weights with their names and shapes, hexadecimal: as aggregator and nodes call it."""
        return model_hash(self.weights, self.study.model.tensors).hex()

    @property
    def stem(self) -> str:
        """What its files are called: equal versions have equal names, and others differ."""
        return f"{self.study.name}-{self.version[:12]}"
