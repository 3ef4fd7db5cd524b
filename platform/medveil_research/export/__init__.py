"""A finished model in a form that others can use: one file a format, found through :data:`EXPORTS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medveil.registry import Registry
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


Writer = Callable[[Finished, Path], list[Path]]
"""Writes a model into a folder that exists, and returns the files; equal models give equal files."""
EXPORTS: Registry[Writer] = Registry("export format", __name__)


def export(form: str, finished: Finished, folder: Path) -> list[Path]:
    """Write a model in the format ``form``; files of the same names are replaced.

    Returns: what was written.
    Raises:
        UnknownName: there is no such format.
    """
    write = EXPORTS[form]
    folder.mkdir(parents=True, exist_ok=True)
    return write(finished, folder)
