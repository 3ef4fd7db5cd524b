"""The compared figure over epsilon: the same patients, seeds and starts, with more and less noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medveil.tasks import TASKS
from medveil_research.comparison import paired
from medveil_research.comparison.arms import Training
from medveil_research.comparison.paired import Float64
from medveil_research.comparison.runs import Finished
from medveil_research.levels import Level, Measured
from medveil_research.outlook import noise_to_signal
from medveil_research.results import Images

Made = Sequence[tuple[Training, Finished]]
Of = dict[int, tuple[float, Float64]]
"""By seed: the figure on all test patients, and in each draw of them."""


def at_levels(made: Made, figure: str, data: Images, number: int) -> Measured | None:
    """What trainings with noise came to at their epsilons, each held against the one without noise.

    Args:
        made: of one data set; those of sites alone and of one place are not looked at.
        number: of draws of test patients, the same for all.
    Returns: None if no training with noise has the figure.
    """
    weights = paired.draws(made[0][1].judged.table.shape[0], number=number)
    by_kind: dict[tuple[str, float], list[tuple[Training, Finished]]] = {}
    for training, one in made:
        privacy = training.study.privacy
        if training.arm in ("federated", "local", "joint") and figure in one.facts.pooled:
            at = 0.0 if privacy.kind == "none" else privacy.epsilon
            by_kind.setdefault((training.arm, at), []).append((training, one))

    def of(members: Made) -> Of:
        return {
            t.seed: (one.facts.pooled[figure], paired.drawn(t.study, one.judged, weights, figure))
            for t, one in members
        }

    without = of(by_kind.pop(("federated", 0.0), []))
    levels = [_level(members[0][0], of(members), without) for members in by_kind.values()]
    first, task = made[0][0], TASKS[made[0][0].study.task]
    learners = max((t.learners for t, _ in made), key=len)
    if not levels:
        return None
    headline = figure == task.headline
    return Measured(
        figure=task.headline_name if headline else figure,
        unit=task.unit(first.study, figure),
        higher_is_better=task.higher_is_better if headline else figure not in ("loss", "ece"),
        without=float(np.mean([value for value, _ in without.values()])) if without else None,
        hospitals=len(learners),
        train_patients=sum(len(site.train) for site in learners),
        test_patients=made[0][1].judged.table.shape[0],
        seeds=max(len(one.values) for one in levels),
        made_up=data == "phantom",
        levels=tuple(levels),
    )


def _level(training: Training, found: Of, without: Of) -> Level:
    privacy, seeds = training.study.privacy, sorted(found)
    assert privacy.kind != "none"  # those without noise were taken out
    both = [seed for seed in seeds if seed in without]
    each = [found[seed][0] - without[seed][0] for seed in both]
    patients = sum(len(site.train) for site in training.learners) / len(training.learners)
    return Level(
        noise=privacy.kind,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        value=float(np.mean([found[seed][0] for seed in seeds])),
        patients=paired.over_patients(_mean(found[seed][1] for seed in seeds)),
        values=tuple(found[seed][0] for seed in seeds),
        less=float(np.mean(each)) if each else None,
        less_patients=paired.over_patients(_less(found, without, both)) if both else None,
        less_seeds=paired.over_seeds(each),
        noise_to_signal=noise_to_signal(
            training.study, patients=max(1, round(patients)), hospitals=len(training.learners)
        ),
    )


def _less(found: Of, without: Of, seeds: Sequence[int]) -> Float64:
    return _mean(found[seed][1] - without[seed][1] for seed in seeds)


def _mean(draws: Iterator[Float64]) -> Float64:
    """Draw by draw, over seeds."""
    return np.asarray(np.mean(list(draws), axis=0), np.float64)
