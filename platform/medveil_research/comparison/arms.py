"""What is held against what: the trainings of a comparison, and how their work is made equal.

Every training has the shipped recipe of its model, the same number of rounds of it, and the same patients in
the same splits. Another strategy, shorter uploads and personal weights are for hospitals that train together
only: what they are held against stays the recipe, whatever the federation tries.

Whoever trains in one place (a site alone, or one place with everybody's patients) makes in each round as many
optimiser steps as all hospitals of the federation make together by the recipe, with the same batches and the
same learning rates. So a federation is not flattered by others that stop early; how many passes over their
own images that gives is told beside it. Where a recipe counts passes, those of the centralised training are
the federation's, but for the last batch of each hospital.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hospital_node.training import steps_in_round
from medveil.errors import Error
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors
from medveil.values import PrivacyKind
from medveil_imaging.sources.site import SiteData
from medveil_research.comparison.engine import images_of, steps_of
from medveil_research.studies import StudyOptions, new_study

Arm = Literal["alone", "federated", "local", "joint", "central"]
ARMS: tuple[Arm, ...] = ("alone", "federated", "local", "joint", "central")
KINDS: dict[Arm, PrivacyKind] = {
    "alone": "none",
    "federated": "none",
    "local": "local",
    "joint": "joint",
    "central": "none",
}
"""Noise of each."""
TOGETHER: tuple[Arm, ...] = ("federated", "local", "joint")
"""Those in which hospitals train together."""
LEAST = 3
"""Hospitals whose masks hide each of them; of two, each would know the other's update from the sum."""
UNCUT = 1e6
"""Clip of an update that is never encoded, in model units."""
EVERYBODY = "everybody"
"""Name of the one place with all sites' patients."""


class TooFewHospitals(Error):
    """A federation of fewer hospitals than masks can hide."""

    code = "too-few-hospitals"

    def __init__(self, *, training: int) -> None:
        super().__init__(
            what=f"{training} of the sites have training patients; a federation needs {LEAST}.",
            meaning="With two, each would know the other's update from the sum, so the product refuses it "
            "and no federated training was made; what one place can do was.",
            remedy="Add a site with training patients.",
        )


@dataclass(frozen=True)
class Training:
    """One training to be made."""

    arm: Arm
    site: str
    """Of a site that trains alone; empty otherwise."""
    seed: int
    study: Study
    initial: Float32 = field(repr=False)
    learners: tuple[SiteData, ...] = field(repr=False)
    one_of_several: bool = False
    """Whether the same is trained at other epsilons, too."""

    @property
    def label(self) -> str:
        """For a line of progress."""
        privacy = self.study.privacy
        at = f" at ε {privacy.epsilon:g}" if self.one_of_several and privacy.kind != "none" else ""
        return f"{self.arm} {self.site}".rstrip() + f"{at}, seed {self.seed}"

    @property
    def steps(self) -> int:
        """Optimiser steps of all learners together."""
        return steps_of(self.study, self.learners)

    @property
    def passes(self) -> float:
        """Passes over the training images, mean over them."""
        images = sum(images_of(site) for site in self.learners)
        seen = sum(
            steps_of(self.study, [site]) * self._images_a_step(images_of(site)) for site in self.learners
        )
        return seen / max(1, images)

    def _images_a_step(self, images: int) -> float:
        privacy = self.study.privacy
        if privacy.kind != "none":
            return privacy.sample_rate * images
        # As the hospitals do it: a pass is cut into parts of about the same size.
        return images / max(1, math.ceil(images / self.study.training.batch_images))


@dataclass(frozen=True)
class Missing:
    """What cannot be made, and why."""

    arm: Arm
    error: Error


def studies(
    base: StudyOptions, arms: Sequence[Arm], seed: int
) -> tuple[dict[Arm, tuple[Study, Float32]], list[Missing]]:
    """The study of each arm and where it starts; arms of one model and seed start from the same weights.

    Raises: what the studies raise, where ``base`` chooses something for hospitals that train together and
        none of these trainings can be made with it.
    """
    found: dict[Arm, tuple[Study, Float32]] = {}
    missing: list[Missing] = []
    for arm in arms:
        try:
            own = base if arm in TOGETHER else by_recipe(base)
            study, start = new_study(replace(own, privacy=KINDS[arm], seed=seed, anyway=True))
        except Error as error:
            missing.append(Missing(arm, error))
        else:
            found[arm] = study, from_safetensors(start, study.model.tensors)
    refused = [one.error for one in missing if one.arm in TOGETHER]
    if refused and base != by_recipe(base) and not set(found) & set(TOGETHER):
        raise refused[0]
    return found, missing


def by_recipe(base: StudyOptions) -> StudyOptions:
    """The same without what is chosen for hospitals that train together."""
    return replace(base, strategy=None, strategy_options={}, compression=None, personal=())


def trainings(
    made: Mapping[Arm, tuple[Study, Float32]], sites: Sequence[SiteData], seed: int
) -> tuple[list[Training], list[Missing]]:
    """What is trained for one seed, by the sites that have training patients."""
    learners = tuple(site for site in sites if site.train)
    found: list[Training] = []
    missing: list[Missing] = []
    for arm, (study, initial) in made.items():
        if arm == "alone":
            place = in_one_place(study, learners)
            found += [Training(arm, site.name, seed, place, initial, (site,)) for site in learners]
        elif arm == "central":
            place = in_one_place(study, learners)
            found.append(Training(arm, "", seed, place, initial, (everybody(learners),)))
        elif len(learners) < LEAST:
            missing.append(Missing(arm, TooFewHospitals(training=len(learners))))
        else:
            found.append(Training(arm, "", seed, study, initial, learners))
    return found, missing


def in_one_place(study: Study, hospitals: Sequence[SiteData]) -> Study:
    """The study of one place that makes, round by round, the steps of all these hospitals together.

    Its updates are neither cut nor compressed, and no weights are personal: nothing is sent where nobody else
    takes part.
    """
    steps = sum(steps_in_round(study, images_of(site)) for site in hospitals)
    training = study.training.model_copy(update={"local_steps": max(1, steps), "local_epochs": None})
    masked = study.secure_aggregation.model_copy(update={"update_clip": UNCUT})
    model = study.model.model_copy(update={"personal": ()})
    changes = {"training": training, "secure_aggregation": masked, "compression": None, "model": model}
    return study.model_copy(update=changes)


def everybody(sites: Sequence[SiteData]) -> SiteData:
    """All sites' patients as those of one place."""
    return SiteData(
        EVERYBODY,
        tuple(patient for site in sites for patient in site.train),
        tuple(patient for site in sites for patient in site.val),
        tuple(patient for site in sites for patient in site.test),
        (),
    )
