"""What the rehearsal stands on: made-up patients, a noise source that is known, and a round to go through."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hospital_node.ledger import Charge
from hospital_node.training.safety import NotSafe
from hospital_node.training.unbooked import unbooked_charge
from medveil.noise_policies import GaussianNoise
from medveil.study import Study
from medveil.tasks import TASKS
from medveil.tensors import Float32
from medveil_imaging.patients import PatientImages
from privacy.dp.ledger import State
from privacy.dp.noise import KEY_BYTES, NoiseSource
from privacy.dp.policy import Split

OTHERS = (1, 2)
"""Images of the patients who are there in both worlds."""
CANARY_IMAGES = 4
"""Equal images, so that their gradients point one way: whoever counts images counts to four."""
DECLARED = 10
SLACK = 1e-3
"""By so much may one patient pass the bound."""

BEGUN = (State.RUNNING.value,)
Float64 = NDArray[np.float64]


class Scripted(NoiseSource):
    """Gives the values of a script, and writes down what it was asked for."""

    def __init__(
        self,
        *,
        noise: Float64,
        coins: Sequence[NDArray[np.bool_]] = (),
        real: bool = False,
        step: float | None = None,
    ) -> None:
        super().__init__(secrets.token_bytes(KEY_BYTES))
        self.asked: list[tuple[Any, ...]] = []
        self.given: list[Float64] = []
        self._noise, self._coins, self._real, self._step = noise, list(coins), real, step

    def gaussian(self, size: int, scale: float) -> Float64:
        if self._step is not None:
            raise NotSafe(check="noise", problem="noise is not the discrete noise that the study promises")
        return self._next(size, scale)

    def discrete(self, size: int, deviation: int) -> NDArray[np.int64]:
        if self._step is None:
            raise NotSafe(check="noise", problem="noise is discrete, and the study promises another")
        steps = np.rint(self._next(size, deviation * self._step) / self._step)
        self.given[-1] = steps * self._step
        return steps.astype(np.int64)

    def _next(self, size: int, scale: float) -> Float64:
        self.asked.append(("noise", size, scale))
        values, self._noise = self._noise[:size], self._noise[size:]
        if len(values) < size:
            raise NotSafe(check="noise", problem="more noise was drawn than the steps need")
        self.given.append(values * scale if self._real else values)
        return self.given[-1].copy()

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        self.asked.append(("coins", count, rate))
        if not self._coins or len(self._coins[0]) != count:
            raise NotSafe(check="draw", problem="coins are not tossed once a step for every patient")
        return self._coins.pop(0)

    def choose(self, count: int, wanted: int) -> NDArray[np.intp]:
        return np.arange(min(count, wanted))


@dataclass(frozen=True)
class Stage:
    """One kind of round as it is rehearsed, and what it must do."""

    study: Study
    build: Callable[[Study], nn.Module]
    vector: Float32
    device: torch.device
    others: tuple[PatientImages, ...]
    canary: PatientImages
    round_number: int
    size: int
    """Values of a step's sum."""
    clip: float
    multiplier: float
    """Of one hospital's own noise, computed here from what the study says."""
    steps: int

    @property
    def constant(self) -> float:
        """What a sum is divided by."""
        return noise_of(self.study).sample_rate * DECLARED

    @property
    def entering(self) -> list[tuple[bool, bool]]:
        """Whether the others and whether the canary enter, by step; most steps are noise only."""
        script = [(False, False)] * self.steps
        script[-1] = script[0] = (True, True)
        if self.steps > 2:
            script[1] = (True, False)
        return script


def noise_of(study: Study) -> GaussianNoise:
    if not isinstance(study.privacy, GaussianNoise):
        raise TypeError("a noise policy is needed")
    return study.privacy


def made_up_patients(study: Study, size: tuple[int, ...]) -> tuple[PatientImages, list[PatientImages]]:
    """The canary, whose images are equal, and the others.

    Where patches are trained on, the canary's volumes are larger than one, and the others' are one patch:
    what they add to a sum must not change by chance.
    """
    generator = torch.Generator().manual_seed(1)

    def patient(name: str, count: int, longer: int = 0) -> PatientImages:
        whole = (size[0] + longer, *size[1:])
        images = torch.randn(count, study.transforms.channel_count, *whole, generator=generator)
        return PatientImages(name, images, TASKS[study.task].made_up_labels(study, count, whole, generator))

    one = patient("canary", 1, size[0] if study.transforms.patches else 0)
    images, labels = (
        part.expand(CANARY_IMAGES, *part.shape[1:]).clone() for part in (one.images, one.labels)
    )
    return (
        PatientImages("canary", images, labels),
        [patient(f"other-{i}", count) for i, count in enumerate(OTHERS)],
    )


def with_wild_canary(stage: Stage) -> Stage:
    """The same with a canary whose images no scanner made."""
    images = stage.canary.images.clone()
    for image, value in zip(images, (math.nan, math.inf, 1e38, 0.0), strict=True):
        image.fill_(value)
    return replace(stage, canary=replace(stage.canary, images=images))


def charge_for(stage: Stage, split: Split, number: int, source: Scripted) -> Charge:
    def tell(state: State) -> None:
        source.asked.append((state.value,))

    return unbooked_charge(stage.study, round_number=number, split=split, tell=tell)
