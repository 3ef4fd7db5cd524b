"""The published model that a study starts from: which one it is, and what it has cost its patients."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medveil.values import Frozen, Name, PositiveFloat, Sha256

WEIGHTS, STUDY, CARD = "model.safetensors", "study.toml", "version.json"
"""What the folder of a published model holds; the card says which version it is."""


class Parent(Frozen):
    """A model version of an earlier study. Its author says so; who was in that study can look it up."""

    study: Name
    plan: Sha256
    number: Annotated[int, Field(ge=0)]
    """Of the version; 0 is the initial model."""
    model: Sha256
    epsilon: PositiveFloat | None = None
    """What a patient who was in every round up to this version has spent; None: it was made without noise."""
    delta: Annotated[float | None, Field(gt=0, lt=1)] = None

    @property
    def words(self) -> str:
        """For people who are asked to go on from it."""
        which = f"version {self.number} of study '{self.study}', plan {self.plan[:16]}"
        if self.epsilon is None:
            return f"{which}, made without noise: nothing bounds what it says about its patients"
        delta = "" if self.delta is None else f" at delta {self.delta:g}"
        cost = f"epsilon {self.epsilon:.3g}{delta} in that study"
        return f"{which}: a model that has already cost its patients {cost}"
