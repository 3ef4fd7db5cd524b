"""How good a model is on patients one may see: figures, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from hospital_node.training import choose_device, contributions
from medveil.groups import figure_and_part
from medveil.metrics import empty, headline, summarise
from medveil.parts import ALL, part_of
from medveil.progress import tell
from medveil.readings import Reading, read
from medveil.study import Study
from medveil.tasks import TASKS, Sums
from medveil.tensors import Float32
from medveil_imaging.cache import temporary_cache
from medveil_imaging.fingerprints import check_profile
from medveil_imaging.patients import Patient
from medveil_imaging.sources.raw import Problem
from medveil_imaging.sources.site import SiteData, read_site

Split = Literal["train", "val", "test"]
RESAMPLES = 200
LEVEL = 0.95


@dataclass(frozen=True)
class SiteReport:
    """Figures of a model at one hospital. For that hospital's own eyes."""

    site: str
    split: str
    headline: str
    figures: dict[str, float]
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the headline figure; None with too few patients."""
    sums: Sums
    units: dict[str, str]
    """What each figure is counted in; empty for shares and counts."""
    rejected: int
    """Files or lines that could not be used."""
    problems: tuple[Problem, ...] = ()
    """Each of them, and what is used but should be looked at. For that hospital's own screen only."""

    def reading(self, figure: str) -> Reading | None:
        """A figure with its interval: the bootstrap's of the headline, else what the counts tell."""
        found = read(self.figures, figure)
        own = self.interval if figure == self.headline else None
        return found and found.over_patients(own)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "site": self.site,
            "split": self.split,
            "figures": self.figures,
            "interval": self.interval,
            "sums": {name: values.tolist() for name, values in self.sums.items()},
            "rejected": self.rejected,
        }


def patient_sums(
    study: Study, vector: Float32, patients: Sequence[Patient], *, device: torch.device | None = None
) -> list[Sums]:
    """One contribution for each patient with an image, in order; they add up to that of all of them."""
    found = []
    for one in contributions(study, vector, patients, device=device or choose_device()):
        found.append(one)
        tell("patients judged", len(found), len(patients))
    return found


def add(study: Study, parts: Sequence[Sums]) -> Sums:
    """The sums of several patients or hospitals together."""
    total = empty(study)
    for part in parts:
        for name, values in part.items():
            total[name] = total[name] + values
    return total


def bootstrap_interval(
    study: Study, each: Sequence[Sums], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of the headline figure over patients; equal arguments give equal intervals.

    Patients are drawn with replacement, with all their images, because a patient's images are alike. A draw
    in which the figure does not exist is left out.

    Returns: None with fewer than two patients, when fewer than half of the draws have the figure, or when all
        draws are alike: where nobody was misjudged, drawing the same patients again tells nothing of others.
    Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 1979.
    """
    if len(each) < 2:
        return None
    draws = np.random.default_rng(seed).multinomial(len(each), np.full(len(each), 1 / len(each)), resamples)
    own = [part_of(one, ALL) for one in each]
    drawn = {name: draws @ np.stack([one[name] for one in own]) for name in own[0]}
    values, task = [], TASKS[study.task]
    for row in range(resamples):
        figure = task.figures(study, {name: rows[row] for name, rows in drawn.items()}).get(task.headline)
        if figure is not None:
            values.append(figure)
    if len(values) < resamples / 2:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (float(low), float(high)) if low < high else None


def evaluate_site(
    folder: Path,
    study: Study,
    vector: Float32,
    split: Split = "test",
    *,
    change: Callable[[SiteData, Float32], Float32] = lambda _, vector: vector,
) -> SiteReport:
    """Read a hospital's folder and judge the model on one split of its patients.

    Args: change: what is made of the model at this hospital before it is judged.
    """
    check_profile(study.transforms)
    with temporary_cache() as cache:
        site = read_site(folder, study, cache=cache)
        each = patient_sums(study, change(site, vector), patients_of(site, split))
    sums = add(study, each)
    figures = summarise(study, sums)
    return SiteReport(
        site=site.name,
        split=split,
        headline=headline(study),
        figures=figures,
        interval=bootstrap_interval(study, each),
        sums=sums,
        units={name: TASKS[study.task].unit(study, figure_and_part(name)[0]) for name in figures},
        rejected=sum(problem.severity == "error" for problem in site.problems),
        problems=tuple(site.problems),
    )


def patients_of(site: SiteData, split: Split) -> tuple[Patient, ...]:
    """The patients of one split."""
    return {"train": site.train, "val": site.val, "test": site.test}[split]
