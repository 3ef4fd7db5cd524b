"""Whether the noise of rounds is matched to what they count, seen by moving one weight in each step."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hospital_node.training.safety import NotSafe
from hospital_node.training.stage import noise_of
from medveil.strategies import State, advance
from medveil.study import Study, Training
from privacy.dp.policy import round_policy

NEAR = 0.01
"""By so much may a round's noise lie beside what is found here, in float32 and not rounded up."""


def check_matched_noise(study: Study) -> None:
    """The noise of every round, against its price and against what the round does to the final model.

    A wrong share costs use and no privacy; a sum beyond the even noise's costs privacy, and is not borne.

    Raises: NotSafe: ``noise``.
    """
    even, numbers = noise_of(study).noise_multiplier, range(study.mean_rounds + 1, study.training.rounds + 1)
    found = np.array([round_policy(study, number).noise_multiplier for number in numbers])
    if math.fsum(1 / found**2) > (1 + 1e-12) * len(found) / even**2:
        raise NotSafe(check="noise", problem="the rounds' noise together costs more than the study's")
    counts = np.sqrt(np.mean(_in_updates(study.training, numbers) ** 2, axis=1)) * _in_model(study, numbers)
    wanted = even * np.sqrt(counts.mean() / counts)
    if not np.all(np.abs(found - wanted) <= NEAR * wanted):
        raise NotSafe(check="noise", problem="a round's noise is not what it counts in the final model")


def _in_updates(training: Training, numbers: range) -> NDArray[np.float64]:
    """What each step does to its round's update, (rounds, steps): weight k gets a gradient in step k."""
    steps = training.local_steps or 1
    weights, held = np.zeros((len(numbers), steps)), np.zeros((len(numbers), steps))
    for step in range(steps):
        rates = [training.rate_at((number - 1 + step / steps) / training.rounds) for number in numbers]
        held *= training.momentum
        held[:, step] += 1
        weights += np.array(rates)[:, None] * held
    return weights


def _in_model(study: Study, numbers: range) -> NDArray[np.float64]:
    """What each round's mean update does to the published model: weight k is moved by round k alone."""
    plain = study.model_copy(update={"model": study.model.model_copy(update={"personal": ()})})
    model, state = np.zeros(len(numbers), np.float32), State()
    for place, number in enumerate(numbers):
        update = np.zeros(len(numbers), np.float32)
        update[place] = 1
        model, state = advance(plain, model, update, state, number=number)
    return model.astype(np.float64)
