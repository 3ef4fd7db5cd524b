"""What to expect of a study before anybody trains: its price, and how much its noise leaves to learn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from medveil.errors import Error
from medveil.noise_policies import GaussianNoise, JointNoise
from medveil.shown import plain as printable
from medveil.study import Study
from medveil_imaging.frozen import BASE
from medveil_imaging.recipes import is_measured
from medveil_research.joint import joint_lines
from medveil_research.shared_figures import sharing_lines
from medveil_research.words import budget_words, filter_words, group_lines, matched_lines, mean_words, plain
from privacy.dp import accounting
from privacy.dp.matched import course_of, gain, multipliers
from privacy.dp.policy import Split, study_events

HOPELESS = 1.0
"""Noise over signal from which a study is refused."""


class HopelessPlan(Error):
    """The noise of the whole run exceeds its signal."""

    code = "hopeless-plan"

    def __init__(self, *, ratio: float) -> None:
        super().__init__(
            what=f"The noise would be {ratio:.2f} times what the model can learn.",
            meaning="Such a run spends the patients' budget and learns next to nothing, so it is refused.",
            remedy="Take a smaller model, more patients, a larger epsilon or joint noise; --anyway goes on "
            "regardless, and the study tells its hospitals so.",
        )


MOST_MEAN_NOISE = 0.5
"""Longest noise of a released mean, in units of the features' length, with which subtracting it helps."""


def mean_is_clear(
    *, width: int, noise_multiplier: float, steps: int, patients: int | None, hospitals: int
) -> bool:
    """Whether a private mean is worth its rounds: its noise must be short beside the features, of length 1.

    Args:
        width: features of an image. noise_multiplier, steps: of one hospital's rounds for the mean.
        patients: of a typical hospital; None: unknown, and so not clear.
    """
    if patients is None:
        return False
    own = accounting.noise_to_signal(
        parameters=width, noise_multiplier=noise_multiplier, steps=steps, patients=patients
    )
    return own / math.sqrt(hospitals) <= MOST_MEAN_NOISE


def check_hope(ratio: float | None, *, anyway: bool) -> None:
    """Refuse what cannot be learned; an unknown ratio is not judged.

    Raises:
        HopelessPlan: more noise than signal, and nobody insists.
    """
    if ratio is not None and ratio > HOPELESS and not anyway:
        raise HopelessPlan(ratio=ratio)


def noise_to_signal(study: Study, *, patients: int, hospitals: int) -> float | None:
    """Noise over signal of the averaged model, sqrt(d) / (mu N sqrt(hospitals)); None without privacy.

    Args:
        patients: N, training patients of one hospital: its own noise hides them, whatever the others add.
    """
    training = study.training
    if study.privacy.kind == "none" or training.local_steps is None:
        return None
    steps, whole = training.local_steps * (training.rounds - study.mean_rounds), study.train_steps or 0
    own = accounting.noise_to_signal(
        parameters=study.trained_weights,
        noise_multiplier=accounting.paid_multiplier(
            study.privacy.own_multiplier, whole, study.privacy.own_patient_mu
        ),
        steps=steps,
        patients=patients,
        sample_rate=study.privacy.sample_rate,
    )
    return own / math.sqrt(hospitals)


def _by_round(study: Study) -> list[str]:
    """The noise of rounds that have their own, and what a filter does."""
    if study.privacy.kind == "none":
        return []
    lines = [] if study.privacy.patient_mu is None else filter_words(study.privacy.patient_mu)
    if not study.privacy.matched:
        return lines
    course = course_of(study)
    found = multipliers(study.privacy, course)
    return [*matched_lines(found, mean_rounds=study.mean_rounds, gain=gain(course)), *lines]


def _counted(study: Study) -> list[str]:
    """What weights other than the usual ones do."""
    if study.secure_aggregation.weights != "squared":
        return []
    return [
        "         hospitals count by the square of their patients: less noise, but large ones count for",
        "         more than their patients; medveil privacy plan --patients-each says how much",
    ]


def _missing(least: int, hospitals: int) -> str:
    if least == hospitals:
        return f"each round needs all {hospitals}, so one that is missing stops the study meanwhile"
    return "with fewer a round makes no model"


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(printable(name, 40) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _shared(study: Study, noise: GaussianNoise, hospitals: int) -> Iterator[str]:
    """Where the noise of several hospitals is counted on: of how many, and what that costs."""
    least = study.cohort.min_hospitals
    if isinstance(noise, JointNoise):
        yield (
            f"counts on the noise of {noise.honest_hospitals} hospitals in every sum of {least} or more; "
            + _missing(least, hospitals)
        )
        own = study_events(study)[Split.TRAIN]
        yield from joint_lines(own, noise.delta, least=least, hospitals=hospitals)
    else:
        sharers = noise.evaluation_sharers
        yield from sharing_lines(noise.evaluation_multiplier, noise.delta, sharers=sharers, least=least)


def outlook(study: Study, *, patients: int | None, hospitals: int) -> list[str]:
    """What to expect of a study, in a few lines for its author."""
    lines = [f"model    {study.model.name}, {study.trained_weights:,} trained parameters"]
    if not is_measured(study.model.name) or BASE in study.model.options:
        lines.append("settings general ones to begin with, not measured with this model")
    if study.shared is not None:
        own = study.model.tensors.size - study.uploaded
        lines += [
            f"personal {own:,} of them ({_some(study.model.personal)}) stay in each hospital;",
            "         what is published has their initial values, and is of use where they are fitted",
        ]
    if study.compression is not None:
        lines.append(f"uploads  {study.uploaded:,} of these numbers in each round, the others in later ones")
    if study.privacy.kind == "none":
        return [
            *lines,
            "privacy  NONE: the masks hide each hospital's update, but nothing limits what the finished",
            "         model can reveal about one patient. Hospitals must allow this in their own policy.",
        ]
    lines.append(
        f"privacy  epsilon {study.privacy.epsilon:g} at delta {plain(study.privacy.delta)} per patient "
        f"for all {study.training.rounds} rounds; noise multiplier {study.privacy.noise_multiplier:g}"
    )
    lines += [f"         {line}" for line in _by_round(study)]
    if study.centred:
        lines.append(f"         {mean_words(study.mean_rounds, study.training.rounds)}")
    lines += [f"         {line}" for line in _shared(study, study.privacy, hospitals)]
    lines += _counted(study)
    groups = group_lines(len(study.evaluation.groups))
    lines += [f"{'groups   ' if not place else ' ' * 9}{line}" for place, line in enumerate(groups)]
    if patients is None:
        return [
            *lines,
            "noise    unknown: say --patients (of a typical hospital) to learn what the noise will cost",
        ]
    ratio = noise_to_signal(study, patients=patients, hospitals=hospitals)
    if ratio is None:
        return lines
    return [*lines, f"noise    {ratio:.2f} of the signal: {budget_words(ratio)}"]
