"""One study of a consortium at one moment: what was approved, how far it has come, what it has made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medveil.errors import Error
from medveil.metrics import figures_of, headline
from medveil.plan import Plan
from medveil.readings import Reading, read
from medveil.reports import Figures, PlanStatus
from medveil.rounds import ModelVersion, RoundKind
from medveil.shown import plain
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_research import curves
from medveil_research.client import Client
from medveil_research.extras import library
from medveil_research.fetching import Fetched, fetch
from medveil_research.results import Result, RoundFacts, from_status, rounds_of
from medveil_research.standing import standing_words

if TYPE_CHECKING:
    import pandas


class NoSuchVersion(Error):
    """A model version that a study does not have."""

    code = "no-such-version"

    def __init__(self, *, study: str, typed: str, newest: int) -> None:
        super().__init__(
            what=f"The study '{study}' has no version '{plain(typed, 80)}'; its newest is {newest}.",
            meaning="Version 0 is the initial model, each round that trains adds one. Nothing was written.",
            remedy=f"Name one from 0 to {newest}, or the beginning of a model's hash; the newest without it.",
        )


class NotEvaluated(Error):
    """A study without the figures of its finished model."""

    code = "not-evaluated"

    def __init__(self, *, study: str, standing: str) -> None:
        super().__init__(
            what=f"The finished model of '{study}' has no figures: {plain(standing)}.",
            meaning="The last round judges the model on all test patients; it has not ended with a sum.",
            remedy="Follow the study with 'medveil research watch'. Rounds and models so far can be had.",
        )


@dataclass(frozen=True)
class SharedStudy:
    """A study as its aggregator tells it; :meth:`again` asks anew."""

    plan: Plan
    status: PlanStatus
    _client: Client = field(repr=False, compare=False)

    @property
    def study(self) -> Study:
        """What the hospitals have approved."""
        return self.plan.study

    @property
    def name(self) -> str:
        """The study's."""
        return self.study.name

    @property
    def id(self) -> str:
        """The plan's hash, 64 hexadecimal digits."""
        return self.plan.id

    @property
    def finished(self) -> bool:
        """Whether no more rounds come."""
        return self.status.finished

    @property
    def headline(self) -> str:
        """The one figure the study is judged by."""
        return headline(self.study)

    @cached_property
    def rounds(self) -> tuple[RoundFacts, ...]:
        """Every round that has ended at least once, in order; its figures have their intervals."""
        last = {attempt.round: attempt for attempt in self.status.attempts}
        return tuple(
            one.model_copy(update={"figures": figures_of(self.study, last[one.round])})
            for one in rounds_of(self.status)
        )

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        """Every model, from the initial one on."""
        return self.status.versions

    @property
    def evaluated(self) -> bool:
        """Whether the finished model has figures."""
        return any(a.kind is RoundKind.EVALUATE and a.done for a in self.status.attempts)

    @property
    def figures(self) -> Figures:
        """Of the finished model on the test patients of all hospitals. Raises: NotEvaluated."""
        for attempt in self.status.attempts:
            if attempt.kind is RoundKind.EVALUATE and attempt.done:
                return figures_of(self.study, attempt)
        raise NotEvaluated(study=self.name, standing=self.standing)

    def reading(self, figures: Mapping[str, float] | None = None) -> Reading | None:
        """The headline figure with its intervals: of the finished model, or out of a round's figures.

        None where it lacks cases. Raises: NotEvaluated, of the finished model.
        """
        found = self.figures if figures is None else figures
        limits = TASKS[self.study.task].limits(self.study, self.headline)
        return read(found, self.headline, limits=limits, headline=True)

    @property
    def epsilon(self) -> float | None:
        """What a patient of a hospital that took part in every round has spent so far; None without noise."""
        return self.versions[-1].epsilon if self.versions else None

    @property
    def standing(self) -> str:
        """What it is doing or waiting for, in a sentence."""
        return standing_words(self.plan, self.status)

    def again(self) -> SharedStudy:
        """The same study as it is now. Raises: NoAnswer."""
        return replace(self, status=self._client.status(self.id))

    def version(self, which: int | str | None = None) -> ModelVersion:
        """A version by its number or the beginning of its model's hash; the newest if left out.

        Raises: NoSuchVersion.
        """
        text = "" if which is None else str(which).strip().lower()
        for version in reversed(self.versions):
            by_hash = re.fullmatch("[0-9a-f]{8,64}", text) and version.model.startswith(text)
            if not text or text == str(version.number) or by_hash:
                return version
        newest = self.versions[-1].number if self.versions else -1
        raise NoSuchVersion(study=self.name, typed=text, newest=newest)

    def fetch(self, which: int | str | None = None, folder: Path | str | None = None) -> Fetched:
        """Save a model, the study it belongs to, and where it comes from, in a new folder.

        Args:
            which: as :meth:`version` takes it.
            folder: ``<study>-version-<number>`` in the present folder if left out.
        Guarantees: the folder appears whole, with weights that have the hash of the version, or not at all.
            What has come over a line that breaks is kept beside it, and the next call goes on from there.
        Raises: NoSuchVersion, TargetExists, FetchBroken, BadModelFile, NoAnswer.
        """
        version = self.version(which)
        target = Path(folder or f"{self.name}-version-{version.number}")
        return fetch(self._client, self.study, version, target, figures=self.judged(version))

    def judged(self, version: ModelVersion) -> Figures:
        """A version's pooled figures: of test patients if it was evaluated, else of validation patients.

        Empty where there are none: with noise, most studies judge the finished model only.
        """
        following = [a for a in self.status.attempts if a.done and a.round > version.round]
        return figures_of(self.study, following[0]) if following else {}

    def result(self, *, patients: int | None = None) -> Result:
        """What a report is made from; see :func:`medveil_research.results.from_status`."""
        return from_status(self.study, self.status, patients=patients)

    def row(self) -> dict[str, str | int | float | bool | None]:
        """Its line in a table of studies."""
        found = self.reading() if self.evaluated else None
        low, high = (found.interval if found else None) or (None, None)
        return {
            "study": self.name,
            "plan": self.id,
            "finished": self.finished,
            "rounds": sum(r.outcome == "done" for r in self.rounds),
            "of": self.study.training.rounds + 1,
            "hospitals": len(self.plan.roster),
            "version": self.versions[-1].number if self.versions else None,
            "epsilon": self.epsilon,
            "headline": self.headline,
            "figure": found.value if found else None,
            "low": low,
            "high": high,
            "standing": self.standing,
        }

    def rounds_frame(self) -> pandas.DataFrame:
        """One row per round, as :func:`medveil_research.curves.rows` has them. Raises: MissingLibrary."""
        return library("pandas").DataFrame(curves.rows(self.rounds, self.versions))

    def curves_csv(self, path: Path | str, *, replace: bool = False) -> Path:
        """Write the same rows as CSV. Raises: TargetExists."""
        return curves.write_csv(curves.rows(self.rounds, self.versions), Path(path), replace=replace)

    def to_mlflow(self, uri: str, *, experiment: str = "medveil") -> str:
        """Log parameters, tags and every round's figures; the same study again adds what is new.

        Args:
            uri: e.g. ``sqlite:///curves.db``.
        Returns: the run's id. Raises: MissingLibrary.
        """
        return curves.log_to_mlflow(self.plan, self.rounds, self.versions, uri=uri, experiment=experiment)
