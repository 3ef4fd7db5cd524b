"""What one federated study produced, as one JSON document: the report is made from this and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, ValidationError, model_validator

from medveil.errors import BadFile
from medveil.handed import problem_of, read_json
from medveil.profiles import PROFILES
from medveil.reports import Amount, Count, Figures, Finite, Label, Text
from medveil.study import PrivacyKind, TaskName
from medveil.tasks import TASKS
from medveil.values import Frozen, Name, Sha256

Interval = tuple[Finite, Finite]


class PrivacyFacts(Frozen):
    """The study's privacy policy and the price it bought; every field but ``kind`` is None for ``none``."""

    kind: PrivacyKind
    epsilon: Amount | None = None
    delta: Amount | None = None
    noise_multiplier: Amount | None = None
    evaluation_multiplier: Amount | None = None
    """Noise on the final evaluation, in units of the most that one patient adds to it."""
    clip_norm: Amount | None = None
    sample_rate: Amount | None = None
    honest_hospitals: Count | None = None
    """Hospitals whose noise ``epsilon`` counts on; None where each counts on its own only."""
    steps: Count | None = None
    """Noisy steps of the whole study."""
    noise_to_signal: Amount | None = None
    """sqrt(d) / (mu N); see :func:`privacy.dp.accounting.noise_to_signal`."""


class RoundFacts(Frozen):
    """One round. In a train round ``figures`` belong to the model the round started from."""

    round: Count
    kind: Literal["train", "evaluate"]
    attempts: Count
    outcome: Literal["done", "failed"]
    reason: Text | None = None
    seconds: Amount
    phases: dict[Label, Amount] = Field(default_factory=dict)
    """Seconds by phase."""
    advertised: tuple[Name, ...] = ()
    committed: tuple[Name, ...] = ()
    survivors: tuple[Name, ...] = ()
    """Hospitals whose contribution is in the sum."""
    bytes_up: dict[Name, Count] = Field(default_factory=dict)
    bytes_down: dict[Name, Count] = Field(default_factory=dict)
    figures: Figures = Field(default_factory=dict)
    """Of validation patients (train) or test patients (evaluate), pooled over all hospitals."""
    metric: Finite | None = None
    """The headline figure out of ``figures``."""
    epsilon: Amount | None = None
    """Spent by a patient of a hospital that took part in every round so far."""
    model: Sha256 | None = None
    """Hash of the model this round made; None when it made none."""


class ExactFacts(Frozen):
    """Without noise, for each site: what only somebody who owns every site's images can compute.

    A real consortium never has this.
    """

    pooled: Figures
    interval: Interval | None = None
    """95 % bootstrap interval over patients of the headline figure, pooled."""
    sites: dict[Name, Figures] = Field(default_factory=dict)
    intervals: dict[Name, Interval] = Field(default_factory=dict)
    """The same interval per site."""
    groups: dict[Label, Figures] = Field(default_factory=dict)
    """Pooled over the sites of one source, e.g. all those called guangzhou-…"""


class FederatedFacts(Frozen):
    """The finished model and its figures on the test patients of all hospitals, from the secure sum."""

    model: Sha256
    figures: Figures
    sums: dict[Label, tuple[Finite, ...]] = Field(default_factory=dict)
    """The summed histograms and counts behind ``figures``; see :func:`medveil.metrics.layout`."""
    metric: Finite | None = None
    exact: ExactFacts | None = Field(default=None, validation_alias=AliasChoices("exact", "desk"))
    """Earlier versions wrote ``desk``."""


class AloneFacts(Frozen):
    """A model trained at one hospital with the same recipe, rounds and privacy budget."""

    hospital: Name
    pooled: Figures
    """On the test patients of all hospitals."""
    own: Figures
    """On that hospital's own test patients."""
    metric: Finite | None = None
    """The headline figure out of ``pooled``."""


class Spent(Frozen):
    """Privacy spent by a hospital's patients; None where there is no such guarantee."""

    local: Amount | None = None
    """Whatever the aggregator and all other hospitals do."""
    joint: Amount | None = None
    """Only if the other hospitals add their noise honestly."""


class Result(Frozen):
    """Everything a report is made from."""

    medveil: Text
    study: Name
    task: TaskName
    profile: Text
    model: Text
    parameters: Count
    """Trained parameters, d."""
    classes: Annotated[tuple[Label, ...], Field(min_length=2)]
    hospitals: Annotated[tuple[Name, ...], Field(min_length=1)]
    privacy: PrivacyFacts
    plan: Sha256
    rounds: tuple[RoundFacts, ...]
    federated: FederatedFacts
    local_only: tuple[AloneFacts, ...] = ()
    local_only_mean: Finite | None = None
    """Mean headline figure of the local-only models, pooled test patients."""
    epsilon: dict[Name, Spent] = Field(default_factory=dict)
    seconds: dict[Label, Amount] = Field(default_factory=dict)
    """Wall-clock seconds by part of the work."""
    data: Literal["phantom", "real"]
    killed: tuple[Name, ...] = ()
    """Hospitals stopped on purpose, to show that the study goes on."""
    report: Text | None = None

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        sides = ("positives/", "negatives/")
        if len({len(values) for name, values in self.federated.sums.items() if name.startswith(sides)}) > 1:
            raise ValueError("the histograms in federated.sums differ in length")
        local = (self.privacy.epsilon, self.privacy.delta)
        if self.privacy.kind != "none" and None in local:
            raise ValueError("a privacy policy needs epsilon and delta")
        return self

    @property
    def headline(self) -> str:
        """The one figure the study is judged by."""
        return TASKS[self.task].headline

    @property
    def headline_name(self) -> str:
        """The same, as people write it."""
        return TASKS[self.task].headline_name

    @property
    def headline_meaning(self) -> str:
        """A sentence about it."""
        return TASKS[self.task].headline_meaning

    @property
    def aim(self) -> str:
        """What the model learned to do, after "to"."""
        images = PROFILES[self.profile].images if self.profile in PROFILES else "images"
        return f"{TASKS[self.task].aim(self.classes)} in {images}"

    @property
    def scored_classes(self) -> tuple[str, ...]:
        """Classes that have a score histogram in ``federated.sums``."""
        classes = self.classes[1:] if len(self.classes) == 2 else self.classes
        return tuple(c for c in classes if f"positives/{c}" in self.federated.sums)

    @property
    def metric(self) -> float | None:
        """The shared model's headline figure on the test patients of all hospitals."""
        found = self.federated.metric
        return self.federated.figures.get(self.headline) if found is None else found

    @property
    def margin(self) -> float | None:
        """How far the noise on the final evaluation moves the headline figure, 95 %; None without noise."""
        deviation = self.federated.figures.get("noise")
        return None if deviation is None else 1.96 * deviation

    @property
    def compared(self) -> tuple[float | None, Interval | None]:
        """The figure to hold against others of the same patients, and its own 95 % interval.

        Where the released figure has noise: the exact one with the bootstrap over patients, if somebody who
        owns every site's images has computed it; else the released one with what the noise may have done.
        """
        exact = self.federated.exact
        if self.metric is None or self.margin is None:
            return self.metric, exact.interval if exact else None
        if exact and self.headline in exact.pooled:
            return exact.pooled[self.headline], exact.interval
        return self.metric, (self.metric - self.margin, min(1.0, self.metric + self.margin))

    def histogram(self, name: str) -> NDArray[np.float64]:
        """One of the summed histograms."""
        return np.asarray(self.federated.sums[name], np.float64)


def parse_result(value: Mapping[str, Any]) -> Result:
    """Check a result dictionary.

    Raises:
        BadFile: a field is missing, unknown, not finite or out of range.
    """
    try:
        return Result.model_validate(value)
    except ValidationError as error:
        raise BadFile(name="The result", problem=problem_of(error)) from error


def read_result(path: Path) -> Result:
    """Read a result written by ``medveil demo --json``.

    Raises:
        BadFile: unreadable, not JSON, or not a result.
    """
    return read_json(path, Result)
