"""What a comparison came to, as one JSON document: its page is made from this and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from medveil.files import replace_durably
from medveil.handed import read_json
from medveil.readings import with_unit
from medveil.reports import Amount, Count, Figures, Finite, Label, Text
from medveil.study import Study, Target, TaskName
from medveil.tasks import TASKS
from medveil.values import Frozen, Name, PrivacyKind
from medveil_research.comparison.arms import Arm
from medveil_research.levels import Measured
from medveil_research.results import Images

Interval = tuple[Finite, Finite]


class SiteFacts(Frozen):
    """A site's patients by split."""

    name: Name
    train: Count
    val: Count
    test: Count
    images: Count
    """Training images."""
    rejected: Count = 0
    """Files or lines that could not be used."""


class RunFacts(Frozen):
    """One training."""

    arm: Arm
    site: Annotated[str, Field(max_length=48)] = ""
    """Of a site that trained alone; empty otherwise."""
    seed: Count
    pooled: Figures
    """Exact, on the test patients of all sites."""
    sites: dict[Name, Figures]
    """On each site's own."""
    curve: tuple[Figures, ...] = ()
    """After each round, on the validation patients of all sites."""
    released: Figures = Field(default_factory=dict)
    """As a real study would publish the final evaluation, noise included."""
    seconds: Amount


class Federation(Frozen):
    """How the hospitals of an arm train together."""

    strategy: Label
    options: dict[Label, Finite] = Field(default_factory=dict)
    """Of the strategy."""
    compression: Text = ""
    """As it is asked for, like sparse:0.125; empty where updates are sent whole."""
    uploaded: Count
    """Numbers that a hospital sends in a round."""
    personal: Count = 0
    """Tensors of the model that stay in each hospital."""

    @classmethod
    def of(cls, study: Study) -> Federation:
        """Of a study."""
        given = study.compression
        return cls(
            strategy=study.strategy.name,
            options=study.strategy.options,
            compression="" if given is None else f"{given.kind}:{given.rank or given.share:g}",
            uploaded=study.uploaded,
            personal=len(study.model.personal),
        )


class ArmFacts(Frozen):
    """One way to train, over all seeds."""

    arm: Arm
    site: Annotated[str, Field(max_length=48)] = ""
    """Of a site that trained alone; empty for the mean of all who did, and for the other arms."""
    model: Text
    parameters: Count
    federation: Federation | None = None
    """None of whoever trains in one place; earlier versions wrote none."""
    privacy: PrivacyKind
    epsilon: Amount | None = None
    delta: Amount | None = None
    rounds: Count
    steps: Count
    """Optimiser steps of all who trained, together."""
    passes: Amount
    """Over the training images, mean over them."""
    seeds: Count
    """That came to an end."""
    value: Finite | None = None
    """Mean over seeds of the compared figure, on the test patients of all sites."""
    patients: Interval | None = None
    """95 % over patients, of that mean."""
    values: tuple[Finite, ...] = ()
    """Seed by seed."""
    sites: dict[Name, Finite] = Field(default_factory=dict)
    """The same figure on each site's own test patients, mean over seeds."""
    figures: Figures = Field(default_factory=dict)
    """All figures, mean over seeds."""
    curve: tuple[Finite | None, ...] = ()
    """The compared figure after each round on validation patients, mean over seeds."""
    seconds: Amount = 0.0
    """Of one training, mean over seeds."""


class Difference(Frozen):
    """One arm's figure less another's, on the same patients and seeds."""

    first: Arm
    second: Arm
    site: Annotated[str, Field(max_length=48)] = ""
    """Of a site that trained alone, where ``second`` is that."""
    value: Finite
    patients: Interval | None = None
    """95 % over patients (paired bootstrap)."""
    seeds: Interval | None = None
    """95 % over seeds (Student's t of the paired differences)."""
    values: tuple[Finite, ...]
    """Seed by seed."""


class Problem(Frozen):
    """What is missing or doubtful, and what can be done."""

    what: Text
    meaning: Text = ""
    remedy: Text = ""
    code: Text = ""


class ComparisonResult(Frozen):
    """Everything that its page is made from."""

    medveil: Text
    name: Name
    task: TaskName
    profile: Text
    classes: tuple[Label, ...] = ()
    target: Target | None = None
    figure: Label
    """Which is compared."""
    data: Images
    draws: Count
    """Of test patients, for the intervals over patients."""
    seeds: Count
    sites: tuple[SiteFacts, ...]
    arms: tuple[ArmFacts, ...]
    differences: tuple[Difference, ...]
    runs: tuple[RunFacts, ...]
    measured: Measured | None = Field(default=None, exclude_if=lambda given: given is None)
    """The figure over epsilon, where trainings with noise were made at several."""
    problems: tuple[Problem, ...] = ()
    seconds: Amount
    """Of all trainings, also of those that an earlier call made."""

    @property
    def figure_name(self) -> str:
        """As people write it."""
        task = TASKS[self.task]
        return task.headline_name if self.figure == task.headline else self.figure

    @property
    def higher_is_better(self) -> bool:
        """Of the compared figure; a loss and an error are better small."""
        task = TASKS[self.task]
        return task.higher_is_better if self.figure == task.headline else self.figure not in ("loss", "ece")

    @property
    def unit(self) -> str:
        """Of the compared figure; empty for a share."""
        return TASKS[self.task].unit(self, self.figure)

    def written(self, value: float) -> str:
        """The compared figure as people write it."""
        return with_unit(value, self.unit)

    def arm(self, arm: Arm, site: str = "") -> ArmFacts | None:
        """One arm; None if it was not made."""
        return next((one for one in self.arms if (one.arm, one.site) == (arm, site)), None)


def read_comparison(path: Path) -> ComparisonResult:
    """Read what :func:`write_comparison` has written. Raises: BadFile."""
    return read_json(path, ComparisonResult)


def write_comparison(result: ComparisonResult, path: Path) -> None:
    """Write it as JSON, whole or not at all."""
    replace_durably(path, (result.model_dump_json(indent=1) + "\n").encode())
