"""Noise matched to the learning rate: the less in a round, the more its steps count in the final model.

As far as noise goes the final model is a weighted sum of what the steps released: learning rate, momentum,
the strategy at the aggregator and the running average say with which weight w_t step t is in it. With sigma_t
on step t the final model's noise has variance sum w_t^2 sigma_t^2, and without sampling all steps together
cost what sum 1/sigma_t^2 says, whatever its terms are. Of all schedules of one price sigma_t ~ w_t^(-1/2) has
the smallest variance, (sum w_t)^2 / sum 1/sigma_t^2 (Lagrange, or Cauchy-Schwarz twice); equal noise has
T sum w_t^2 over the same. The steps of one round share their noise: a round is one event of the ledger, and
what is given away by that is below .3 % (docs/decisions/0064-noise-matched-to-the-rate.md).

Weights are those of the plain sum: that later gradients answer to earlier noise is left out. Noise is fixed
before the first step, so accounting is that of any schedule; a wrong weight would cost use, never privacy.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medveil.errors import Error
from medveil.noise_policies import GaussianNoise
from medveil.strategies import Summing, make_strategy
from medveil.study import Strategy, Study, Training

DIGITS = 1000
"""Steps per unit of a noise multiplier. Upwards, so that a schedule costs at most what it says."""


class UnmatchedNoise(Error):
    """A study asks for matched noise, and nobody can say what its rounds count for."""

    code = "unmatched-noise"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The study's noise cannot be matched to its rounds: {problem}.",
            meaning="Nobody knows which round wants how much noise, so nothing was started.",
            remedy="Set matched = false in [privacy], or train by SGD with strategy fedavg or fedavgm.",
        )


@dataclass(frozen=True)
class Course:
    """All of a study that decides what its steps count for; the first rounds may release a mean instead."""

    optimizer: str
    schedule: Literal["constant", "linear", "cosine"]
    momentum: float
    rounds: int
    steps: int
    strategy: str
    options: tuple[tuple[str, float], ...]
    average: float
    mean_rounds: int

    @classmethod
    def of(cls, training: Training, strategy: Strategy, *, mean_rounds: int) -> Course:
        """From the parts of a study."""
        return cls(
            optimizer=training.optimizer,
            schedule=training.schedule,
            momentum=training.momentum,
            rounds=training.rounds,
            steps=training.local_steps or 0,
            strategy=strategy.name,
            options=tuple(sorted(strategy.options.items())),
            average=strategy.average,
            mean_rounds=mean_rounds,
        )


@functools.lru_cache(maxsize=64)
def round_weights(course: Course) -> tuple[float, ...]:
    """What the steps of each training round count for in the final model, for a learning rate of 1.

    Returns: one number for each round that trains, in order: the root of the mean square of the weights with
        which the noise of its steps is in the final model.
    Raises:
        UnmatchedNoise: steps are not added up, or a round has no part in the final model.
    """
    if course.optimizer != "sgd" or course.steps < 1:
        raise UnmatchedNoise(problem=f"the steps of '{course.optimizer}' are no sum of gradients")
    server = make_strategy(Strategy(name=course.strategy, options=dict(course.options)))
    if not isinstance(server, Summing):
        raise UnmatchedNoise(problem=f"strategy {course.strategy} does not add up its updates")
    training = Training(
        rounds=course.rounds, local_steps=course.steps, learning_rate=1.0, schedule=course.schedule
    )
    numbers = range(course.mean_rounds + 1, course.rounds + 1)
    counted = _in_final_model(server.response(len(numbers)), course.average)
    weights = tuple(
        math.sqrt(sum(w * w for w in _in_update(training, course.momentum, number)) / course.steps) * share
        for number, share in zip(numbers, counted, strict=True)
    )
    if not weights or not all(math.isfinite(w) and w > 0 for w in weights):
        raise UnmatchedNoise(problem="there is a round whose steps have no part in the final model")
    return weights


def _in_update(training: Training, momentum: float, number: int) -> list[float]:
    """With which weight each step's gradient is in the update of round ``number``."""
    steps, found, still = training.local_steps or 1, [], 0.0
    for step in reversed(range(steps)):
        rate = training.rate_in(number, step / steps)
        still = rate + momentum * still
        found.append(still)
    return found[::-1]


def _in_final_model(response: tuple[float, ...], average: float) -> list[float]:
    """With which weight the mean update of each training round is in the published model.

    Args:
        response: what of an update is in the model 0, 1, 2 … rounds later. average: share of the past in the
            running average of the models, which begins with the first of them.
    """
    if not average:
        return list(reversed(response))
    rounds = len(response)
    shares = [(1 - average) * average ** (rounds - 1 - place) for place in range(rounds)]
    shares[0] = average ** (rounds - 1)
    return [float(np.dot(shares[place:], response[: rounds - place])) for place in range(rounds)]


def multipliers(policy: GaussianNoise, course: Course) -> tuple[float, ...]:
    """The noise multiplier of each round that trains, in order, as the policy counts it (all sharers').

    Guarantees: sum over rounds of 1 / multiplier^2 is at most rounds / policy.noise_multiplier^2.
    Raises: UnmatchedNoise.
    """
    if not policy.matched:
        return (policy.noise_multiplier,) * (course.rounds - course.mean_rounds)
    if policy.sample_rate < 1:
        raise UnmatchedNoise(problem="it wants every patient in each step (sample_rate = 1)")
    return matched_multipliers(policy.noise_multiplier, course)


@functools.lru_cache(maxsize=64)
def matched_multipliers(even: float, course: Course) -> tuple[float, ...]:
    """Those of rounds that together cost at most what a noise of ``even`` in all of them does.

    Raises: UnmatchedNoise.
    """
    weights = round_weights(course)
    mean = math.fsum(weights) / len(weights)
    return tuple(math.ceil(even * math.sqrt(mean / weight) * DIGITS) / DIGITS for weight in weights)


def course_of(study: Study) -> Course:
    """The course of a study's rounds."""
    return Course.of(study.training, study.strategy, mean_rounds=study.mean_rounds)


def check_course(course: Course, *, compressed: bool) -> None:
    """Whether it is known what each round counts. Raises: UnmatchedNoise."""
    if compressed:
        raise UnmatchedNoise(problem="its compression sends parts of an update in later rounds")
    round_weights(course)


def check_matched(study: Study) -> None:
    """Whether a study's noise can be what it says. Raises: UnmatchedNoise."""
    if study.privacy.kind == "none" or not study.privacy.matched:
        return
    check_course(course_of(study), compressed=study.compression is not None)
    multipliers(study.privacy, course_of(study))


def round_multiplier(study: Study, policy: GaussianNoise, number: int) -> float:
    """The noise multiplier of a training round; a mean is released with the even one.

    Raises: UnmatchedNoise.
    """
    if not policy.matched or number <= study.mean_rounds:
        return policy.noise_multiplier
    check_matched(study)
    return multipliers(policy, course_of(study))[number - study.mean_rounds - 1]


def gain(course: Course) -> float:
    """By how much matching divides the final model's noise: its deviation with equal noise over that without.

    Source: docs/decisions/0064-noise-matched-to-the-rate.md. Raises: UnmatchedNoise.
    """
    weights = round_weights(course)
    return math.sqrt(len(weights) * math.fsum(w * w for w in weights)) / math.fsum(weights)
