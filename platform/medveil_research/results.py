"""What one federated study produced, as one JSON document: the report is made from this and nothing else."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, model_validator

from medveil import blending, shown
from medveil.errors import Error
from medveil.handed import read_json
from medveil.metrics import figures_of, headline, noise_in_sum, noise_scales
from medveil.profiles import PROFILES
from medveil.readings import Reading, named, read, with_unit
from medveil.reports import Amount, AttemptReport, Count, Figures, Finite, Label, PlanStatus, Text
from medveil.rounds import RoundKind
from medveil.study import Study, Target, TaskName
from medveil.tasks import TASKS
from medveil.values import Frozen, Name, PrivacyKind, Sha256
from medveil_research.levels import Measured
from medveil_research.outlook import noise_to_signal
from privacy.dp.policy import cost

Interval = tuple[Finite, Finite]
Images = Literal["phantom", "real"]


class PrivacyFacts(Frozen):
    """The study's privacy policy and the price it bought; every field but ``kind`` is None for ``none``."""

    kind: PrivacyKind
    epsilon: Amount | None = None
    delta: Amount | None = None
    noise_multiplier: Amount | None = None
    patient_mu: Amount | None = None
    """The most that a filter lets through of a patient in training; None: there is none."""
    evaluation_multiplier: Amount | None = None
    """Noise on the final evaluation, in units of the most that one patient adds to it."""
    clip_norm: Amount | None = None
    sample_rate: Amount | None = None
    honest_hospitals: Count | None = None
    """Hospitals whose noise ``epsilon`` counts on, under local noise in the figures alone; None where each
    counts on its own only."""
    epsilon_alone: Amount | None = None
    """What the study costs a patient of its dearest split if no other hospital adds its noise; None where
    that is ``epsilon``, and in results of earlier versions."""
    steps: Count | None = None
    """Noisy steps of the whole study."""
    noise_to_signal: Amount | None = None
    """sqrt(d) / (mu N); see :func:`medveil_research.outlook.noise_to_signal`."""
    patients: Count | None = None
    """N, training patients of a typical hospital; None where it is not known."""


class RoundFacts(Frozen):
    """One round: what its last attempt reports, and how many attempts it took.

    In a train round ``figures`` belong to the model that the round started from. Each field but ``attempts``
    is one of :class:`medveil.reports.AttemptReport`.
    """

    round: Count
    kind: RoundKind
    attempts: Count
    outcome: Literal["done", "failed"]
    reason: Text | None = None
    seconds: Amount
    phases: dict[Label, Amount] = Field(default_factory=dict)
    advertised: tuple[Name, ...] = ()
    committed: tuple[Name, ...] = ()
    survivors: tuple[Name, ...] = ()
    bytes_up: dict[Name, Count] = Field(default_factory=dict)
    bytes_down: dict[Name, Count] = Field(default_factory=dict)
    figures: Figures = Field(default_factory=dict)
    metric: Finite | None = None
    epsilon: Amount | None = None
    model: Sha256 | None = None


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
    blended: bool = Field(default=False, exclude_if=lambda given: not given)
    """Whether the histograms in ``sums`` are blends of their cells, as they were sent."""
    deviations: dict[Label, Amount] = Field(default_factory=dict)
    """Standard deviation of the noise in each number of a sum; empty for exact sums."""
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


class Recipe(Frozen):
    """How the study reads images, trains and counts, for whoever writes about it."""

    description: Text = ""
    size: tuple[Count, ...] = ()
    spacing_mm: tuple[Amount, ...] = ()
    channels: Count = 1
    rounds: Count
    """As planned."""
    work: Text
    """What a hospital does in a round: "1 step", "5 epochs"."""
    optimizer: Text
    learning_rate: Amount
    schedule: Text = "constant"
    strategy: Text
    changes: tuple[Label, ...] = ()
    """Random changes of images before a step."""
    weights: Text
    """What a hospital counts in the mean."""
    least_hospitals: Count
    """In every sum."""
    colluders: Count
    """Hospitals that the masks resist, together with the aggregator."""
    initial_model: Sha256
    groups: dict[Label, tuple[Label, ...]] = Field(default_factory=dict)
    """Groups of test patients that have figures of their own, by column, where they are not too small."""
    smallest_group: Count = 0
    personal: Count = 0
    """Tensors of the model that each hospital has for itself; of what is published they are no part."""


class Result(Frozen):
    """Everything a report is made from."""

    medveil: Text
    study: Name
    task: TaskName
    profile: Text
    model: Text
    parameters: Count
    """Trained parameters, d."""
    classes: tuple[Label, ...] = ()
    target: Target | None = None
    """Of a regression."""
    hospitals: Annotated[tuple[Name, ...], Field(min_length=1)]
    privacy: PrivacyFacts
    plan: Sha256
    recipe: Recipe | None = None
    """Earlier versions wrote none."""
    ended: Text | None = None
    """When the newest model was made, UTC, ISO 8601."""
    rounds: tuple[RoundFacts, ...]
    federated: FederatedFacts
    local_only: tuple[AloneFacts, ...] = ()
    local_only_mean: Finite | None = None
    """Mean headline figure of the local-only models, pooled test patients."""
    epsilon: dict[Name, Spent] = Field(default_factory=dict)
    seconds: dict[Label, Amount] = Field(default_factory=dict)
    """Wall-clock seconds by part of the work."""
    data: Images
    measured: Measured | None = None
    """The figure over epsilon, as somebody who holds images has measured it (``research compare``)."""
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
        return f"{TASKS[self.task].aim(self)} in {images}"

    @property
    def higher_is_better(self) -> bool:
        """Of the headline figure."""
        return TASKS[self.task].higher_is_better

    @property
    def headline_label(self) -> str:
        """The headline figure's name with its unit, as it stands at an axis."""
        unit = TASKS[self.task].unit(self, self.headline)
        return f"{self.headline_name} in {unit}" if unit else self.headline_name

    @property
    def unit(self) -> str:
        """Of the headline figure; empty for a share."""
        return self.unit_of(self.headline)

    def unit_of(self, figure: str) -> str:
        """What a figure is counted in; empty for shares and counts."""
        return TASKS[self.task].unit(self, figure)

    def written(self, value: float, figure: str | None = None) -> str:
        """A figure, or without its name a headline figure, as people write it."""
        return with_unit(value, TASKS[self.task].unit(self, figure or self.headline))

    def digits(self, value: float | None) -> str:
        """A headline figure without its unit; empty when unknown."""
        return (
            "" if value is None else with_unit(value, TASKS[self.task].unit(self, self.headline)).split()[0]
        )

    @property
    def scored_classes(self) -> tuple[str, ...]:
        """Classes that have a score histogram in ``federated.sums``."""
        return tuple(c for c in self.classes if f"positives/{c}" in self.federated.sums)

    @property
    def metric(self) -> float | None:
        """The shared model's headline figure on the test patients of all hospitals."""
        found = self.federated.metric
        return self.federated.figures.get(self.headline) if found is None else found

    @property
    def noised(self) -> bool:
        """Whether the figures that leave the hospitals have noise."""
        drowned = named(self.headline, "undetermined")
        return "noise" in self.federated.figures or drowned in self.federated.figures

    def reading(self, figure: str | None = None) -> Reading | None:
        """A figure of the shared model with its intervals, or without its name the headline.

        None where it was not computed. Of a figure without noise the bootstrap over patients goes before.
        """
        name, exact = figure or self.headline, self.federated.exact
        metric = self.metric if name == self.headline else None
        found = self.reading_of(self.federated.figures, name, metric)
        if found and metric is not None and exact and not self.noised:
            return found.over_patients(exact.interval)
        return found

    def reading_of(
        self, figures: Figures, figure: str | None = None, metric: float | None = None
    ) -> Reading | None:
        """A figure, or without its name the headline, out of other figures of this study, such as a round's.

        Args:
            metric: the same figure where earlier versions have written it alone.
        """
        name = figure or self.headline
        known = figures if metric is None else {**figures, name: metric}
        limits = TASKS[self.task].limits(self, name)
        return read(known, name, limits=limits, headline=name == self.headline)

    @property
    def compared(self) -> Reading | None:
        """The headline to hold against others of the same patients.

        Where the released figure has noise: the exact one, if somebody who owns every site's images has
        computed it; else the released one.
        """
        exact = self.federated.exact
        if not self.noised or exact is None or self.headline not in exact.pooled:
            return self.reading()
        found = read(exact.pooled, self.headline)
        return found and found.over_patients(exact.interval)

    def histogram(self, name: str) -> NDArray[np.float64]:
        """One of the summed histograms, its cells."""
        values = np.asarray(self.federated.sums[name], np.float64)
        return blending.cells_of(values) if self.federated.blended else values


class OtherStudy(Error):
    """A status that belongs to another study than the one it is held against."""

    code = "other-study"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"This is not the status of the study '{name}': name or initial model differ.",
            meaning="A report of the two together would state what never happened, so none was made.",
            remedy="Take the study.toml that the plan was created from.",
        )


def from_status(
    study: Study, status: PlanStatus, *, patients: int | None = None, data: Images = "real"
) -> Result:
    """The result of a study as its aggregator tells it: all that anybody outside of a hospital can know.

    Args:
        status: as :meth:`medveil_research.client.Client.status` has it, of a plan of this study.
        patients: training patients of a typical hospital, to tell what the noise cost; None: unknown.
    Raises: OtherStudy.
    """
    first = status.versions[0] if status.versions else None
    begins = first is not None and (first.number > 0 or first.model == study.model.initial_model)
    if status.name != study.name or not begins:  # an amended plan begins with a later version
        raise OtherStudy(name=study.name)
    final = next((a for a in status.attempts if a.kind is RoundKind.EVALUATE and a.done), None)
    figures = figures_of(study, final) if final else {}
    drowned = named(headline(study), "undetermined") in figures
    return Result(
        medveil=importlib.metadata.version("medveil"),
        study=study.name,
        task=study.task,
        profile=study.transforms.profile,
        model=study.model.name,
        parameters=study.trained_weights,
        classes=study.classes,
        target=study.target,
        hospitals=status.hospitals,
        privacy=_privacy(study, patients, len(status.hospitals)),
        plan=status.plan,
        recipe=_recipe(study),
        ended=status.versions[-1].created,
        rounds=rounds_of(status),
        federated=FederatedFacts(
            model=status.versions[-1].model,
            figures=figures,
            sums=final.sums if final else {},
            blended=study.evaluation.blended,
            deviations=_deviations(study, final) if final else {},
            metric=final.metric if final and not drowned else None,
        ),
        data=data,
    )


def _deviations(study: Study, final: AttemptReport) -> dict[str, float]:
    multiplier = noise_in_sum(study, hospitals=len(final.survivors))
    if not multiplier:
        return {}
    return {name: multiplier * scale for name, scale in noise_scales(study).items() if name in final.sums}


def _recipe(study: Study) -> Recipe:
    training, transforms = study.training, study.transforms
    count, unit = training.local_steps, "step"
    if count is None:
        count, unit = training.local_epochs, "epoch"
    masks = study.secure_aggregation
    return Recipe(
        description=shown.plain(study.description, 1000),
        size=transforms.size,
        spacing_mm=transforms.spacing_mm,
        channels=transforms.channel_count,
        rounds=training.rounds,
        work=f"{count} {unit}{'s' * (count != 1)}",
        optimizer=training.optimizer,
        learning_rate=training.learning_rate,
        schedule=training.schedule,
        strategy=study.strategy.name,
        changes=(*(["shift"] if training.augment else []), *training.augmentations),
        weights=masks.weights,
        least_hospitals=study.cohort.min_hospitals,
        colluders=masks.colluders,
        initial_model=study.model.initial_model,
        groups={name: one.names for name, one in study.evaluation.groups.items()},
        smallest_group=study.evaluation.smallest_group,
        personal=len(study.model.personal),
    )


def _privacy(study: Study, patients: int | None, hospitals: int) -> PrivacyFacts:
    policy = study.privacy
    ratio = None if patients is None else noise_to_signal(study, patients=patients, hospitals=hospitals)
    return PrivacyFacts(
        **policy.model_dump(include=set(PrivacyFacts.model_fields)),
        steps=None if policy.kind == "none" else study.train_steps,
        noise_to_signal=ratio,
        patients=None if policy.kind == "none" else patients,
        epsilon_alone=cost(study).epsilon_local if policy.counts_on_others else None,
    )


def rounds_of(status: PlanStatus) -> tuple[RoundFacts, ...]:
    """The rounds of a plan, in order."""
    tries: dict[int, list[AttemptReport]] = {}
    for attempt in status.attempts:
        tries.setdefault(attempt.round, []).append(attempt)
    return tuple(_round(tries[number]) for number in sorted(tries))


def _round(tries: list[AttemptReport]) -> RoundFacts:
    kept = set(RoundFacts.model_fields)
    return RoundFacts(attempts=len(tries), **tries[-1].model_dump(include=kept))


def read_result(path: Path) -> Result:
    """Read a result that :func:`write_result` has written.

    Raises:
        BadFile: unreadable, not JSON, or not a result.
    """
    return read_json(path, Result)


def write_result(result: Result, path: Path) -> None:
    """Write what is known as JSON; :func:`read_result` reads it as it was."""
    path.write_text(result.model_dump_json(indent=1, exclude_unset=True) + "\n", encoding="utf-8")
