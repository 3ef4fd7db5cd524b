"""From finished trainings to what a page says: values, intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from medveil.metrics import headline
from medveil.readings import with_unit
from medveil.reports import Figures
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_imaging.sources.site import SiteData
from medveil_research.comparison import paired
from medveil_research.comparison.arms import TOGETHER, Arm, Training
from medveil_research.comparison.paired import Float64
from medveil_research.comparison.result import ArmFacts, Difference, Federation, Problem, RunFacts
from medveil_research.comparison.runs import Finished

PAIRS: tuple[tuple[Arm, Arm], ...] = (
    ("federated", "central"),
    ("federated", "alone"),
    ("local", "federated"),
    ("joint", "federated"),
    ("joint", "local"),
    ("local", "central"),
    ("joint", "central"),
    ("local", "alone"),
    ("joint", "alone"),
    ("central", "alone"),
)
"""Which are held against which, the first less the second."""
Made = Sequence[tuple[Training, Finished]]


class HeldTogether(TypedDict):
    """The two parts of a result that follow from all trainings."""

    arms: tuple[ArmFacts, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class _Group:
    """The trainings of one arm; of sites alone their mean counts, seed by seed."""

    arm: Arm
    site: str
    members: dict[int, list[tuple[Training, Finished]]] = field(repr=False)
    """By seed."""

    def values(self, figure: str) -> dict[int, float]:
        """The figure of each seed on all test patients; a seed in which it does not exist is left out."""
        found = {}
        for seed, members in self.members.items():
            known = [one.facts.pooled[figure] for _, one in members if figure in one.facts.pooled]
            if len(known) == len(members):
                found[seed] = float(np.mean(known))
        return found


def held_together(made: Made, figure: str, number: int) -> HeldTogether:
    """Every arm with its interval, and the paired differences of all pairs that were made.

    Args:
        number: of draws of test patients.
    """
    groups = _groups(made)
    patients = made[0][1].judged.table.shape[0]
    weights = paired.draws(patients, number=number)
    drawn = {id(one): paired.drawn(t.study, one.judged, weights, figure) for t, one in made}
    return HeldTogether(
        arms=tuple(_arm(group, figure, drawn) for group in groups),
        differences=tuple(_differences(groups, figure, drawn)),
    )


def without_figure(made: Made, figure: str, sites: Sequence[SiteData]) -> list[Problem]:
    """Where the compared figure does not exist, as with test patients of one class only."""
    if any(figure in one.facts.pooled for _, one in made):
        lacking = {
            site.name
            for site in sites
            if site.test and figure not in made[0][1].facts.sites.get(site.name, {})
        }
        meaning = "There the models are judged by the other figures; the figure of all sites counts them all."
    else:
        lacking, meaning = (
            {"the test set"},
            "The models cannot be compared by it; the other figures are told.",
        )
    return [
        Problem(
            what=f"No {figure} at {name}: it needs test patients of more than one kind.",
            meaning=meaning,
            remedy="Nothing, if its patients are so; else look at the labels and splits.",
            code="no-figure",
        )
        for name in sorted(lacking)
    ]


def in_words(study: Study, facts: RunFacts) -> str:
    """One training's headline figure and seconds, for a line of progress."""
    task, name = TASKS[study.task], headline(study)
    value = facts.pooled.get(name)
    shown = "not determined" if value is None else with_unit(value, task.unit(study, name))
    accuracy = facts.pooled.get("accuracy")
    more = "" if accuracy is None else f", accuracy {accuracy:.3f}"
    return f"{task.headline_name} {shown}{more}, {facts.seconds:.0f} s"


def _groups(made: Made) -> list[_Group]:
    found: dict[tuple[Arm, str], _Group] = {}
    learners = {t.site for t, _ in made if t.arm == "alone"}
    for training, one in made:
        places = [""] if training.arm != "alone" else ["", training.site]
        for site in places:
            group = found.setdefault((training.arm, site), _Group(training.arm, site, {}))
            group.members.setdefault(training.seed, []).append((training, one))
    for (arm, site), group in found.items():
        if arm == "alone" and not site:  # a mean over other sites in another seed would be another figure
            for seed in [s for s, members in group.members.items() if len(members) < len(learners)]:
                del group.members[seed]
    return [group for group in found.values() if group.members]


def _arm(group: _Group, figure: str, drawn: dict[int, Float64]) -> ArmFacts:
    every = [member for members in group.members.values() for member in members]
    training, values = every[0][0], group.values(figure)
    privacy = training.study.privacy
    names = dict.fromkeys(name for _, one in every for name in one.facts.pooled)
    sites = sorted({name for _, one in every for name in one.facts.sites})
    return ArmFacts(
        arm=group.arm,
        site=group.site,
        model=training.study.model.name,
        parameters=training.study.trained_weights,
        federation=Federation.of(training.study) if group.arm in TOGETHER else None,
        privacy=privacy.kind,
        epsilon=None if privacy.kind == "none" else privacy.epsilon,
        delta=None if privacy.kind == "none" else privacy.delta,
        rounds=training.study.training.rounds,
        steps=training.steps,
        passes=float(np.mean([t.passes for t, _ in every])),
        seeds=len(group.members),
        value=float(np.mean(list(values.values()))) if values else None,
        patients=paired.over_patients(_mean_draw(group, drawn, list(values))) if values else None,
        values=tuple(values[seed] for seed in sorted(values)),
        sites=_means((name, one.facts.sites.get(name, {}).get(figure)) for name in sites for _, one in every),
        figures=_means((name, one.facts.pooled.get(name)) for name in names for _, one in every),
        curve=_mean_curve([one.facts.curve for _, one in every], figure),
        seconds=float(np.mean([one.facts.seconds for _, one in every])),
    )


def _differences(groups: Sequence[_Group], figure: str, drawn: dict[int, Float64]) -> Iterable[Difference]:
    first_of = {group.arm: group for group in groups if not group.site}
    for first, second in PAIRS:
        if first not in first_of:
            continue
        for other in (group for group in groups if group.arm == second):
            mine, theirs = first_of[first].values(figure), other.values(figure)
            seeds = sorted(set(mine) & set(theirs))
            if not seeds:
                continue
            each = [mine[seed] - theirs[seed] for seed in seeds]
            draws = _mean_draw(first_of[first], drawn, seeds) - _mean_draw(other, drawn, seeds)
            yield Difference(
                first=first,
                second=second,
                site=other.site,
                value=float(np.mean(each)),
                patients=paired.over_patients(draws),
                seeds=paired.over_seeds(each),
                values=tuple(each),
            )


def _mean_draw(group: _Group, drawn: dict[int, Float64], seeds: Sequence[int]) -> Float64:
    """The group's figure in each draw, mean over seeds; NaN where one of its trainings has none."""
    means: Float64 = np.mean(
        [np.mean([drawn[id(one)] for _, one in group.members[seed]], axis=0) for seed in seeds], axis=0
    )
    return means


def _means(pairs: Iterable[tuple[str, float | None]]) -> Figures:
    """The mean of each name's values; a name that lacks one is left out."""
    found: dict[str, list[float | None]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: float(np.mean([v for v in values if v is not None])) for name, values in found.items()
            if None not in values}  # fmt: skip


def _mean_curve(curves: Sequence[Sequence[Figures]], figure: str) -> tuple[float | None, ...]:
    if not curves or len({len(curve) for curve in curves}) > 1:
        return ()
    found: list[float | None] = []
    for points in zip(*curves, strict=True):
        known = [point[figure] for point in points if figure in point]
        found.append(float(np.mean(known)) if len(known) == len(points) else None)
    return tuple(found)
