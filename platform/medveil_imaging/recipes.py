"""Shipped training settings per model and privacy, so that nobody tunes on private data.

Trying settings on patients and keeping the best is itself a release. These were chosen once, on public data,
and stay fixed; a study that wants others states them, and its hospitals approve them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from medveil.errors import Error
from medveil.study import Strategy, Training

PrivacyKind = Literal["none", "local"]
Clipping = Literal["flat", "unit"]


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

    def for_epsilon(self, epsilon: float) -> Recipe:
        """The same recipe at this epsilon: at 1 and below a linear head takes a third of its rate.

        Less signal is left under the noise then, and a long stride along it does harm.
        """
        if self.clipping == "unit" or epsilon > 1:
            return self
        slower = self.training.model_copy(update={"learning_rate": self.training.learning_rate / 3})
        return replace(self, training=slower)


def _wavelet_local(rounds: int) -> Recipe:
    # Films share one strong direction, their mean. A longer stride or more momentum swings along it; many
    # short steps do not, and with every patient in every step they cost computing time, not privacy.
    return Recipe(
        training=Training(rounds=rounds, local_steps=20, learning_rate=30.0, schedule="linear"),
        strategy=Strategy(name="fedavgm", options={"momentum": 0.5}),
        clip_norm=0.3,
        update_clip=32.0,
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


def _network_none(
    rounds: int, *, rate: float, batch: int, update_clip: float, augment: bool = False
) -> Recipe:
    training = Training(
        rounds=rounds,
        local_epochs=1,
        batch_images=batch,
        optimizer="adam",
        learning_rate=rate,
        schedule="linear",
        augment=augment,
    )
    return Recipe(training=training, strategy=Strategy(), update_clip=update_clip)


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


def recipe(
    *,
    model: str,
    task: str,
    profile: str,
    privacy: PrivacyKind,
    hospitals: int,
    rounds: int | None = None,
) -> Recipe:
    """The shipped settings.

    Args:
        model, task, profile: as in the study; ``profile`` is "xray" or "mri".
        hospitals: how many share a lane. With 21 bits each has (2^21 - 1) / (2 hospitals) steps for
            ``update_clip`` on either side of zero; from 64 hospitals on the lanes become 32 bits wide.
        rounds: instead of the recipe's own number. The learning rate falls to zero over that many.

    Raises:
        NoRecipe: nothing is shipped for the combination.
    """
    if hospitals < 1:
        raise ValueError("at least one hospital is needed")
    films, volumes = profile == "xray" and task == "classification", profile == "mri"
    volumes_segmented = volumes and task == "segmentation"
    found: Recipe | None = None
    if model == "wavelet_head" and films:
        found = _wavelet_local(rounds or 10) if privacy == "local" else _wavelet_none(rounds or 20)
    elif model == "small_cnn" and task == "classification":
        if privacy == "local":
            found = _network_local(rounds or 12, rate=6.0, clip_norm=0.5, update_clip=16.0)
        else:
            found = _network_none(rounds or 20, rate=3e-3, batch=32, update_clip=0.5, augment=films)
    elif model == "densenet121" and task == "classification":
        if privacy == "local":
            found = _network_local(rounds or 20, rate=2.0, clip_norm=0.5, update_clip=8.0)
        else:
            found = _network_none(rounds or 20, rate=1e-3, batch=16, update_clip=0.5, augment=films)
    elif model == "unet3d" and volumes_segmented:
        if privacy == "local":
            found = _network_local(rounds or 10, rate=1.0, clip_norm=1.0, update_clip=8.0)
        else:
            found = _network_none(rounds or 10, rate=6e-3, batch=2, update_clip=1.0)
    elif model == "segresnet3d" and volumes_segmented:
        if privacy == "local":
            found = _network_local(rounds or 10, rate=1.0, clip_norm=1.0, update_clip=8.0)
        else:
            found = _network_none(rounds or 15, rate=2e-3, batch=2, update_clip=1.0)
    if found is None:
        raise NoRecipe(model=model, task=task, privacy=privacy)
    return replace(found, lane_bits=32) if hospitals >= 64 else found
