"""What the summed figures of an evaluation can be, whatever a hospital has sent as its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from medveil.metrics import CENTRE, MAX_LOSS, layout, noise_scales, scored_classes
from medveil.study import GaussianNoise, Study

Values = NDArray[np.float64]
STEP = 2.0**-20
"""Each hospital's figures are rounded to whole steps, by half a step at most."""
LARGEST_DRAW = 9.2
"""No value of :class:`privacy.dp.noise.NoiseSource` is as many standard deviations long."""
LARGEST_NOISED = 2.0**18
"""A hospital sends no figure with noise beyond it (see ``privacy.encoding.encode_metrics``)."""


def can_add_up(study: Study, sums: Mapping[str, Values], *, hospitals: int) -> bool:
    """Whether that many honest hospitals can have added up to these figures.

    Every patient's contribution has limits, they are linear, and so they hold for any number of patients: a
    class's two histograms hold each image once, no more hits than images, no Dice above its cases, no loss
    above its bound, no count below zero. Noise may carry a figure past its limit by at most
    ``LARGEST_DRAW`` standard deviations for each hospital.

    Args:
        sums: as :func:`medveil.metrics.released` lists them; empty where a round carries none.
    """
    if not sums:
        return True
    if isinstance(study.privacy, GaussianNoise):
        return _noised(study, study.privacy, sums, hospitals)
    slack = hospitals * STEP
    if any((sums[name] < 0).any() for name in layout(study)):
        return False
    if study.task == "segmentation":
        return _segmentation(study, sums, slack)
    return _classification(study, sums, slack)


def _classification(study: Study, sums: Mapping[str, Values], slack: float) -> bool:
    images, patients = float(sums["images"][0]), float(sums["patients"][0])
    counted = [values for name, values in sums.items() if name != "loss"]
    positives = [float(sums[f"positives/{name}"].sum()) for name in scored_classes(study)]
    negatives = [float(sums[f"negatives/{name}"].sum()) for name in scored_classes(study)]
    return (
        all((values == np.rint(values)).all() for values in counted)
        and all(p + n == images for p, n in zip(positives, negatives, strict=True))
        and (len(positives) == 1 or sum(positives) == images)
        and float(sums["correct"][0]) <= images
        and patients <= images <= patients * study.evaluation.images_per_patient
        and _at_most(sums["loss"], MAX_LOSS * images, slack)
    )


def _segmentation(study: Study, sums: Mapping[str, Values], slack: float) -> bool:
    patients = sums["patients"]
    cases = [sums[f"cases/{name}"] for name in study.classes[1:]]
    return (
        all((values == np.rint(values)).all() for values in (patients, *cases))
        and all((values <= patients).all() for values in cases)
        and all(_at_most(sums[f"dice/{c}"], sums[f"cases/{c}"], slack) for c in study.classes[1:])
        and _at_most(sums["loss"], MAX_LOSS * patients, slack)
    )


def _noised(study: Study, privacy: GaussianNoise, sums: Mapping[str, Values], hospitals: int) -> bool:
    rounds = study.training.rounds if study.evaluation.every_round else 1
    most = hospitals * LARGEST_DRAW * privacy.own_evaluation_multiplier * float(np.sqrt(rounds))
    noise = {name: most * scale + hospitals * STEP for name, scale in noise_scales(study).items()}
    if any((np.abs(values) > hospitals * LARGEST_NOISED).any() for values in sums.values()):
        return False
    if study.task == "classification":
        return all((values >= -noise[name]).all() for name, values in sums.items())
    for name in study.classes[1:]:
        dice, cases = sums[f"dice/{name}"], sums[f"cases/{name}"] + noise[f"cases/{name}"]
        if (cases < 0).any() or (np.abs(dice) > CENTRE * cases + noise[f"dice/{name}"]).any():
            return False
    return True


def _at_most(values: Values, limit: float | Values, slack: float) -> bool:
    return bool((values <= limit * (1 + 1e-9) + slack).all())
