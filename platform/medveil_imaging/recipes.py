"""Shipped training settings per model and privacy, so that nobody tunes on private data.

Trying settings on patients and keeping the best is itself a release. These were chosen once, on public data,
and stay fixed; a study that wants others states them, and its hospitals approve them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from medveil.augmentations import filled
from medveil.errors import Error
from medveil.profiles import PROFILES
from medveil.study import Strategy, Training
from medveil.tasks import TASKS
from medveil.values import PrivacyKind

Clipping = Literal["flat", "unit"]
Variant = Literal["", "patches", "residual"]


class NoRecipe(Error):
    """There is no shipped setting for this combination."""

    code = "no-recipe"

    def __init__(self, *, model: str, task: str, privacy: str) -> None:
        super().__init__(
            what=f"There is no shipped recipe for model '{model}', task '{task}', privacy '{privacy}'.",
            meaning="No study was written.",
            remedy="Choose another model, or write the study's training and privacy sections by hand.",
        )


@dataclass(frozen=True)
class Recipe:
    """Everything of a study that says how to train; the noise follows from the epsilon that is asked for.

    ``update_clip`` is in model units. ``clip_norm``, ``clipping`` and ``images_per_patient`` matter under
    ``LocalNoise`` only.
    """

    training: Training
    strategy: Strategy
    update_clip: float
    lane_bits: Literal[16, 21, 32] = 21
    clip_norm: float = 1.0
    clipping: Clipping = "flat"
    images_per_patient: int = 4
    mean_rounds: int = 0
    """First rounds that release the mean of the features, which the model then subtracts; a study does so
    where the mean can be released well enough (:func:`medveil_research.studies.new_study`)."""
    matched: bool = False
    """Whether each round has noise of its own, matched to what it counts in the final model."""
    equalised_below: float = 0.0
    """Below this epsilon the model's option ``equalised`` is on; 0: it never is."""
    full_rate_epsilon: float | None = None
    """From this epsilon on the learning rate is the whole one; None: whatever the epsilon."""

    def for_epsilon(self, epsilon: float) -> Recipe:
        """The same recipe at this epsilon: below ``full_rate_epsilon`` its rate falls in proportion.

        Less signal is left under the noise then, and a long stride along it does harm.
        """
        if self.full_rate_epsilon is None or epsilon >= self.full_rate_epsilon:
            return self
        rate = self.training.learning_rate * epsilon / self.full_rate_epsilon
        return replace(self, training=self.training.model_copy(update={"learning_rate": rate}))


MEAN_FROM_ROUNDS = 10
"""Rounds from which a private mean, one of them, leaves enough to train with: nine tenths of mu squared."""


def _wavelet_local(rounds: int) -> Recipe:
    # Films share one strong direction, their mean. A longer stride or more momentum swings along it; many
    # short steps do not, and with every patient in every step they cost computing time, not privacy.
    return Recipe(
        training=Training(rounds=rounds, local_steps=20, learning_rate=60.0, schedule="linear"),
        strategy=Strategy(name="fedavgm", options={"momentum": 0.5}),
        clip_norm=0.3,
        update_clip=64.0,
        mean_rounds=int(rounds >= MEAN_FROM_ROUNDS),
        matched=True,
        full_rate_epsilon=6.0,
    )


def _wavelet_joint(rounds: int) -> Recipe:
    # One step a round, so that only sums carry a hospital's step; momentum is the aggregator's,
    # and long, so that sixty steps come as far as the two hundred of local noise.
    return Recipe(
        training=Training(rounds=rounds, local_steps=1, learning_rate=100.0, schedule="linear"),
        strategy=Strategy(name="fedavgm", options={"momentum": 0.9}),
        clip_norm=0.3,
        update_clip=128.0,
        mean_rounds=int(rounds >= MEAN_FROM_ROUNDS),
        matched=True,
        full_rate_epsilon=8.0,
    )


def _wavelet_none(rounds: int) -> Recipe:
    # Batches far larger than a hospital: every step sees all of its films.
    return Recipe(
        training=Training(
            rounds=rounds, local_steps=10, batch_images=4096, learning_rate=100.0, schedule="linear"
        ),
        strategy=Strategy(),
        update_clip=64.0,
    )


def _network_none(rounds: int, *, rate: float, batch: int, update_clip: float) -> Recipe:
    training = Training(
        rounds=rounds,
        local_epochs=1,
        batch_images=batch,
        optimizer="adam",
        learning_rate=rate,
        schedule="linear",
    )
    return Recipe(training=training, strategy=Strategy(), update_clip=update_clip)


def _digits_none(rounds: int) -> Recipe:
    # As federated averaging was introduced: a short constant rate, and five passes before each average.
    training = Training(rounds=rounds, local_epochs=5, batch_images=32, learning_rate=0.01, momentum=0.9)
    return Recipe(training=training, strategy=Strategy(), update_clip=0.5)


def _residual_none(rounds: int, *, epochs: int, changes: Mapping[str, Mapping[str, float]]) -> Recipe:
    # The optimiser is made anew in each round; a cosine leaves it long strides while it is young.
    training = Training(
        rounds=rounds,
        local_epochs=epochs,
        batch_images=2,
        optimizer="adamw",
        weight_decay=1e-4,
        gradient_norm=5.0,
        learning_rate=4e-3,
        schedule="cosine",
        augment=bool(changes),
        augmentations=filled(changes),
    )
    return Recipe(training=training, strategy=Strategy(), update_clip=1.0)


def _network_local(rounds: int, *, rate: float, clip_norm: float, update_clip: float) -> Recipe:
    # Unit-norm clipping: rate times clip_norm is the length of a step whose patients all agree.
    training = Training(rounds=rounds, local_steps=5, learning_rate=rate, momentum=0.9, schedule="linear")
    return Recipe(
        training=training,
        strategy=Strategy(),
        clip_norm=clip_norm,
        clipping="unit",
        update_clip=update_clip,
    )


def _position_local(rounds: int) -> Recipe:
    # The server's momentum reaches over all steps of all hospitals, so no step has a momentum of its own.
    return Recipe(
        training=Training(rounds=rounds, local_steps=3, learning_rate=4.0, schedule="linear"),
        strategy=Strategy(name="fedavgm", options={"momentum": 0.9}),
        clip_norm=1.0,
        clipping="unit",
        update_clip=32.0,
    )


def _position_joint(rounds: int) -> Recipe:
    alone = _position_local(rounds)
    training = alone.training.model_copy(update={"local_steps": 1})
    return replace(alone, training=training, full_rate_epsilon=8.0)


def _hippocampus_local(rounds: int) -> Recipe:
    return Recipe(
        training=Training(rounds=rounds, local_steps=6, learning_rate=0.06, schedule="linear"),
        strategy=Strategy(name="fedavgm", options={"momentum": 0.9}),
        clip_norm=1.0,
        clipping="unit",
        update_clip=8.0,
        full_rate_epsilon=8.0,
    )


def _hippocampus_joint(rounds: int) -> Recipe:
    alone = _hippocampus_local(rounds)
    training = alone.training.model_copy(update={"local_steps": 1, "learning_rate": 0.3})
    return replace(alone, training=training)


def _film_local(rounds: int) -> Recipe:
    # Equalised features gain at epsilon 1 and at 3.
    return replace(_wavelet_local(rounds), equalised_below=4.0)


def _film_joint(rounds: int) -> Recipe:
    # They gain at epsilon 1; at 3 no gain could be shown.
    return replace(_wavelet_joint(rounds), equalised_below=3.0)


def _number_head_none(rounds: int) -> Recipe:
    # Adam, for features that share a strong direction; steps and no passes, so that features are made once.
    training = Training(
        rounds=rounds,
        local_steps=10,
        batch_images=4096,
        optimizer="adam",
        learning_rate=0.1,
        schedule="linear",
    )
    return Recipe(training=training, strategy=Strategy(), update_clip=16.0)


def _number_head_local(rounds: int) -> Recipe:
    # A number's loss has a fixed curvature, four times that of two classes at most: a far shorter stride.
    # On made-up films: mean error 14 mm, with four times the rate 16 (guessing 28; without noise 8).
    alone = _wavelet_local(rounds)
    return replace(alone, clip_norm=0.1, training=alone.training.model_copy(update={"learning_rate": 2.0}))


def _number_head_joint(rounds: int) -> Recipe:
    alone = _wavelet_joint(rounds)
    return replace(alone, clip_norm=0.1, training=alone.training.model_copy(update={"learning_rate": 8.0}))


def _depth_none(rounds: int) -> Recipe:
    # With the mean taken away, long full-batch strides reach what the narrow directions say.
    return Recipe(
        training=Training(
            rounds=rounds, local_steps=100, batch_images=4096, learning_rate=40.0, schedule="linear"
        ),
        strategy=Strategy(name="fedavgm", options={"momentum": 0.5}),
        update_clip=64.0,
        mean_rounds=int(rounds >= MEAN_FROM_ROUNDS),
    )


def _depth_local(rounds: int) -> Recipe:
    # The features of brains differ by a tenth of their length: a good mean is worth a quarter of the budget.
    return Recipe(
        training=Training(rounds=rounds, local_steps=5, learning_rate=60.0, schedule="linear"),
        strategy=Strategy(name="fedavgm", options={"momentum": 0.5}, average=0.9),
        clip_norm=0.015,
        update_clip=16.0,
        mean_rounds=rounds // 4,
        matched=True,
        full_rate_epsilon=8.0,
    )


def _depth_joint(rounds: int) -> Recipe:
    return Recipe(
        training=Training(rounds=rounds, local_steps=1, learning_rate=30.0, schedule="linear"),
        strategy=Strategy(name="fedavgm", options={"momentum": 0.9}, average=0.9),
        clip_norm=0.03,
        update_clip=16.0,
        mean_rounds=rounds // 5,
        matched=True,
        full_rate_epsilon=8.0,
    )


def _findings_head_local(rounds: int) -> Recipe:
    # A gradient is shared among the findings, so it is cut earlier; on made-up films with four of them .93,
    # with 2.5 and 10 times the rate .91 and .86 (without noise .997).
    return _gentle(_wavelet_local(rounds))


def _findings_head_joint(rounds: int) -> Recipe:
    return _gentle(_wavelet_joint(rounds))


def _gentle(given: Recipe) -> Recipe:
    """The same with a shorter stride of shorter gradients."""
    rate = 0.4 * given.training.learning_rate
    return replace(given, clip_norm=0.1, training=given.training.model_copy(update={"learning_rate": rate}))


Make = Callable[[int], Recipe]
"""The recipe for a number of rounds."""
FILMS, IMAGES, VOLUMES = ("xray", "classification"), ("any", "classification"), ("mri", "segmentation")
"""Kind of image and task that a recipe is for."""
RECIPES: dict[tuple[str, PrivacyKind], tuple[tuple[str, str], int, Make]] = {
    ("wavelet_head", "none"): (FILMS, 20, _wavelet_none),
    ("wavelet_head", "local"): (FILMS, 10, _film_local),
    ("wavelet_head", "joint"): (FILMS, 60, _film_joint),
    # A head on unit-length features, as the wavelet head is; its settings, not measured for every encoder.
    ("frozen_encoder", "none"): (IMAGES, 20, _wavelet_none),
    ("frozen_encoder", "local"): (IMAGES, 10, _wavelet_local),
    ("frozen_encoder", "joint"): (IMAGES, 60, _wavelet_joint),
    ("small_cnn", "none"): (IMAGES, 20, partial(_network_none, rate=3e-3, batch=32, update_clip=0.5)),
    ("small_cnn", "local"): (IMAGES, 12, partial(_network_local, rate=6.0, clip_norm=0.5, update_clip=16.0)),
    ("lenet", "none"): (FILMS, 10, _digits_none),
    ("lenet", "local"): (FILMS, 20, partial(_network_local, rate=2.0, clip_norm=0.5, update_clip=8.0)),
    ("densenet121", "none"): (IMAGES, 20, partial(_network_none, rate=1e-3, batch=16, update_clip=0.5)),
    ("densenet121", "local"): (IMAGES, 20, partial(_network_local, rate=2.0, clip_norm=0.5, update_clip=8.0)),
    ("unet3d", "none"): (VOLUMES, 10, partial(_network_none, rate=6e-3, batch=2, update_clip=1.0)),
    ("unet3d", "local"): (VOLUMES, 10, partial(_network_local, rate=1.0, clip_norm=1.0, update_clip=8.0)),
    ("position_head", "none"): (VOLUMES, 10, partial(_network_none, rate=0.3, batch=4, update_clip=32.0)),
    ("position_head", "local"): (VOLUMES, 10, _position_local),
    ("position_head", "joint"): (VOLUMES, 30, _position_joint),
    # First an outline that drawings have taught, so strides are short; shorter where less signal is left.
    ("hippocampus_head", "none"): (VOLUMES, 10, partial(_network_none, rate=0.05, batch=4, update_clip=32.0)),
    ("hippocampus_head", "local"): (VOLUMES, 10, _hippocampus_local),
    ("hippocampus_head", "joint"): (VOLUMES, 60, _hippocampus_joint),
    # A network of one hospital's own on a shared model; the rate is the U-Net's.
    ("on_top", "none"): (VOLUMES, 10, partial(_network_none, rate=6e-3, batch=2, update_clip=32.0)),
    ("on_top", "local"): (VOLUMES, 10, partial(_network_local, rate=1.0, clip_norm=1.0, update_clip=8.0)),
    ("segresnet3d", "none"): (VOLUMES, 15, partial(_network_none, rate=2e-3, batch=2, update_clip=1.0)),
    ("segresnet3d", "local"): (
        VOLUMES,
        10,
        partial(_network_local, rate=1.0, clip_norm=1.0, update_clip=8.0),
    ),
}
"""What it is for, its usual number of rounds, and the settings."""
GREY: dict[str, dict[str, float]] = {"noise": {}, "contrast": {}, "brightness": {}}
"""Changes of grey values that leave anatomy where it is."""
VARIANTS: dict[tuple[str, Variant, PrivacyKind], tuple[tuple[str, str], int, Make]] = {
    ("unet3d", "patches", "none"): (VOLUMES, 10, partial(_residual_none, epochs=3, changes={})),
    ("unet3d", "residual", "none"): (VOLUMES, 16, partial(_residual_none, epochs=1, changes=GREY)),
}
"""The same where a model is trained by patches, or has residual units; else its usual recipe."""
NUMBERS, FILM_NUMBERS = ("any", "regression"), ("xray", "regression")
REGRESSION: dict[tuple[str, PrivacyKind], tuple[tuple[str, str], int, Make]] = {
    ("depth_head", "none"): (("brain", "regression"), 20, _depth_none),
    ("depth_head", "local"): (("brain", "regression"), 40, _depth_local),
    ("depth_head", "joint"): (("brain", "regression"), 60, _depth_joint),
    ("wavelet_head", "none"): (FILM_NUMBERS, 20, _number_head_none),
    ("wavelet_head", "local"): (FILM_NUMBERS, 10, _number_head_local),
    ("wavelet_head", "joint"): (FILM_NUMBERS, 60, _number_head_joint),
    ("frozen_encoder", "none"): (NUMBERS, 20, _number_head_none),
    ("frozen_encoder", "local"): (NUMBERS, 10, _number_head_local),
    ("frozen_encoder", "joint"): (NUMBERS, 60, _number_head_joint),
    ("small_cnn", "none"): (NUMBERS, 20, partial(_network_none, rate=3e-3, batch=8, update_clip=0.5)),
    ("small_cnn", "local"): (NUMBERS, 12, partial(_network_local, rate=6.0, clip_norm=0.5, update_clip=16.0)),
    ("densenet121", "none"): (NUMBERS, 20, partial(_network_none, rate=1e-3, batch=8, update_clip=0.5)),
    ("densenet121", "local"): (
        NUMBERS,
        20,
        partial(_network_local, rate=2.0, clip_norm=0.5, update_clip=8.0),
    ),
}
"""The same where a number is learned; private networks as for classes, which nobody has measured."""
FINDINGS = {
    key: (("any" if kind == "any" else kind, "findings"), rounds, make)
    for key, ((kind, what), rounds, make) in RECIPES.items()
    if what == "classification"
} | {
    ("wavelet_head", "none"): (("xray", "findings"), 20, _wavelet_none),
    ("wavelet_head", "local"): (("xray", "findings"), 10, _findings_head_local),
    ("wavelet_head", "joint"): (("xray", "findings"), 60, _findings_head_joint),
    ("frozen_encoder", "none"): (("any", "findings"), 20, _wavelet_none),
    ("frozen_encoder", "local"): (("any", "findings"), 10, _findings_head_local),
    ("frozen_encoder", "joint"): (("any", "findings"), 60, _findings_head_joint),
}
"""The same where several findings are learned; networks as for classes, which nobody has measured."""
SHELVES = {"regression": REGRESSION, "findings": FINDINGS}
"""By task, where it is not :data:`RECIPES`."""
GENERAL: dict[tuple[str, PrivacyKind], tuple[int, Make]] = {
    ("classification", "none"): (20, partial(_network_none, rate=1e-3, batch=16, update_clip=0.5)),
    ("classification", "local"): (20, partial(_network_local, rate=2.0, clip_norm=0.5, update_clip=8.0)),
    ("findings", "none"): (20, partial(_network_none, rate=1e-3, batch=16, update_clip=0.5)),
    ("findings", "local"): (20, partial(_network_local, rate=2.0, clip_norm=0.5, update_clip=8.0)),
    ("regression", "none"): (20, partial(_network_none, rate=1e-3, batch=8, update_clip=0.5)),
    ("regression", "local"): (20, partial(_network_local, rate=2.0, clip_norm=0.5, update_clip=8.0)),
    ("segmentation", "none"): (15, partial(_network_none, rate=2e-3, batch=2, update_clip=1.0)),
    ("segmentation", "local"): (10, partial(_network_local, rate=1.0, clip_norm=1.0, update_clip=8.0)),
}
"""For networks without a recipe of their own: those of the large shipped ones. Not measured."""


def is_measured(model: str) -> bool:
    """Whether the settings of a new study were chosen for this model, or are general ones to begin with."""
    return any(name == model for name, _ in RECIPES | REGRESSION)


def recipe(
    *,
    model: str,
    task: str,
    profile: str,
    privacy: PrivacyKind,
    hospitals: int,
    rounds: int | None = None,
    variant: Variant = "",
) -> Recipe:
    """The shipped settings; for a model that has none, general ones (:func:`is_measured` tells).

    Args:
        model, task, profile: as in the study.
        hospitals: how many share a lane. With 21 bits each has (2^21 - 1) / (2 hospitals) steps for
            ``update_clip`` on either side of zero; from 64 hospitals on the lanes become 32 bits wide.
        rounds: instead of the recipe's own number. The learning rate falls to zero over that many.
        variant: in which a model is used otherwise than usual.

    Raises:
        NoRecipe: nothing is shipped for the combination. UnknownName: there is no such task or profile.
    """
    if hospitals < 1:
        raise ValueError("at least one hospital is needed")
    kind, what = PROFILES[profile], TASKS[task].recipes_of
    own = SHELVES.get(what, RECIPES).get((model, privacy))
    own = VARIANTS.get((model, variant, privacy), own)
    general = GENERAL.get((what, privacy))
    if own is not None and own[0] in ((profile, what), (kind.recipes_of, what), ("any", what)):
        usual, make = own[1:]
    elif general is not None and not is_measured(model):
        usual, make = general
    else:
        raise NoRecipe(model=model, task=task, privacy=privacy)
    chosen = make(rounds or usual)
    if kind.shifts and chosen.training.local_epochs:  # films bear a small shift; volumes are aligned
        chosen = replace(chosen, training=chosen.training.model_copy(update={"augment": True}))
    return replace(chosen, lane_bits=32) if hospitals >= 64 else chosen
