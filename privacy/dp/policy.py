"""What a study's privacy policy means in steps, and whether the epsilon it names is the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from medveil.errors import Error
from medveil.noise_policies import GaussianNoise
from medveil.study import Study
from privacy.dp import accounting
from privacy.dp.accounting import Event
from privacy.dp.matched import round_multiplier


class Split(StrEnum):
    """Patients by what a study does with them. None is in two, so each pays for the own split only."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class UnderstatedEpsilon(Error):
    """A plan names a smaller epsilon than its schedule costs."""

    code = "understated-epsilon"

    def __init__(self, *, stated: float, computed: float) -> None:
        super().__init__(
            what=f"The study states epsilon {stated:g}, but its whole schedule costs "
            f"{rounded_up(computed):g}.",
            meaning="Patients would lose more privacy than the plan says; this hospital does not take part.",
            remedy="Raise the noise, shorten the schedule, or state the epsilon that it costs.",
        )


def rounded_up(epsilon: float) -> float:
    """An epsilon with four decimals that a study of this price may state."""
    return math.ceil(epsilon * 1e4) / 1e4


class NotPrivate(Error):
    """Something that needs a differential-privacy policy met a study without one."""

    code = "not-private"

    def __init__(self) -> None:
        super().__init__(
            what="This study has no differential-privacy policy.",
            meaning="There is no noise, no schedule and no epsilon to compute.",
            remedy="Use it without a ledger, or give the study a policy of kind 'local' or 'joint'.",
        )


@dataclass(frozen=True)
class Cost:
    """What a whole study, evaluation included, costs each patient at ``delta``: that of the dearest split.

    ``epsilon_local`` holds against everybody, even if all other hospitals and the aggregator pool what they
    know. ``epsilon_joint`` is what the study states: it counts the noise of the honest hospitals in the sums
    whose noise they share (:func:`sharers_of`): all sums under ``JointNoise``, none or those of evaluations
    under ``LocalNoise``. Its training counts the own noise only, for with several steps a round a hospital's
    intermediate models carry nothing else, and there is no proof that the noise of the others, added after
    the last step, protects the earlier ones.
    """

    epsilon_local: float
    epsilon_joint: float
    delta: float


def policy_of(study: Study) -> GaussianNoise:
    """The study's noise policy.

    Raises:
        NotPrivate: it has none.
    """
    if study.privacy.kind == "none":
        raise NotPrivate()
    return study.privacy


def mean_policy(study: Study) -> GaussianNoise:
    """Clipping and noise of the private-mean round, for the price of any other round (:func:`round_event`).

    Without sampling, a round's s steps of noise sigma cost what one release with sigma / sqrt(s) costs: mu is
    sqrt(s) / sigma for both (Dong, Roth, Su, "Gaussian differential privacy", 2022). Patients' mean features
    have at most unit length, so they are clipped to 1. With a filter for each patient a round has the same
    share of the filter's budget, so its noise is larger than that of steps which cost less than the norm.

    Raises:
        NotPrivate: the study has no noise.
    """
    policy, steps = policy_of(study), study.training.local_steps or 1
    noise = accounting.paid_multiplier(
        policy.noise_multiplier, steps * study.training.rounds, policy.patient_mu
    )
    changed = {
        "clip_norm": 1.0,
        "clipping": "flat",
        "noise_multiplier": noise / math.sqrt(steps),
    }
    return policy.model_copy(update=changed)


def round_policy(study: Study, number: int) -> GaussianNoise:
    """Clipping and noise of a training round's steps: the study's, with the noise of this round.

    Raises:
        NotPrivate: the study has no noise. UnmatchedNoise.
    """
    policy = policy_of(study)
    return policy.model_copy(update={"noise_multiplier": round_multiplier(study, policy, number)})


def round_event(study: Study, split: Split, number: int) -> Event:
    """What a round of one hospital releases about the patients of a split, by its own noise.

    Args:
        number: of the round, from 1; the final evaluation (``Split.TEST``) is the same after any.

    A validation round has sqrt(rounds) times the noise of the final evaluation: all of them together are the
    same Gaussian.

    Raises:
        NotPrivate: the study has no noise. UnmatchedNoise: that of its rounds cannot be matched.
    """
    if split is Split.TRAIN:
        policy = round_policy(study, number)
        return Event(policy.own_multiplier, policy.sample_rate, study.training.local_steps or 0)
    policy = policy_of(study)
    rounds = study.training.rounds if split is Split.VAL else 1
    return Event(policy.own_evaluation_multiplier * math.sqrt(rounds), 1.0, 1)


def study_events(
    study: Study, rounds: int | None = None, *, first: int = 1
) -> dict[Split, tuple[Event, ...]]:
    """What a study releases about the patients of each split it touches (NotPrivate without noise).

    Rounds of equal noise are one event.

    Args:
        rounds: what the first that many training rounds release; all of the study without it.
        first: the round from which on a hospital is in it, if it joined later.
    """
    last = study.training.rounds if rounds is None else rounds
    numbers = {Split.TRAIN: range(first, last + 1)}
    if study.evaluation.every_round:
        numbers[Split.VAL] = numbers[Split.TRAIN]
    if rounds is None:
        numbers[Split.TEST] = range(last, last + 1)
    return {
        split: accounting.combined(round_event(study, split, number) for number in of)
        for split, of in numbers.items()
        if of
    }


def sharers_of(study: Study, split: Split) -> int:
    """Hospitals on whose noise the study counts in the sums about these patients; 1: the own noise only.

    Raises:
        NotPrivate: the study has no noise.
    """
    policy = policy_of(study)
    return policy.sharers if split is Split.TRAIN else policy.evaluation_sharers


def paid_events(study: Study, rounds: int | None = None, *, first: int = 1) -> dict[Split, tuple[Event, ...]]:
    """What a patient of each split pays for :func:`study_events`: no more than the filter lets through.

    Source: docs/decisions/0065-a-filter-for-each-patient.md.
    """
    found = study_events(study, rounds, first=first)
    return {split: accounting.at_most(events, filter_of(study, split)) for split, events in found.items()}


def filter_of(study: Study, split: Split) -> float | None:
    """The most that a filter lets through of a patient, as mu by the own noise; None: there is no filter."""
    return policy_of(study).own_patient_mu if split is Split.TRAIN else None


def jointly(event: Event, sharers: int) -> Event:
    """The same event behind the equal noise of ``sharers`` hospitals."""
    return Event(event.noise_multiplier * math.sqrt(sharers), event.sample_rate, event.steps)


def cost(
    study: Study,
    *,
    rounds: int | None = None,
    delta: float | None = None,
    sharers: int | None = None,
    first: int = 1,
) -> Cost:
    """Both epsilons of the whole study, or after ``rounds`` training rounds (NotPrivate without noise).

    Args:
        delta: to count at instead of the study's own.
        sharers: hospitals whose noise is counted on where it is shared, instead of as many as the study says.
        first: the round from which on the patients' hospital is in it, if it joined later.

    Source: parallel composition, McSherry, SIGMOD 2009: the splits hold different patients, so the cost is
        the largest of theirs. It holds for releases that depend on earlier ones, as an evaluation does on the
        model: for a patient who was not trained on, the model is what anybody could have made.
    """
    policy, own = policy_of(study), paid_events(study, rounds, first=first)
    at = policy.delta if delta is None else delta

    def counted(split: Split) -> int:
        stated = sharers_of(study, split)
        return stated if sharers is None or stated == 1 else sharers

    return Cost(
        epsilon_local=max((accounting.epsilon(events, at) for events in own.values()), default=0.0),
        epsilon_joint=max(
            (
                accounting.epsilon([jointly(e, counted(split)) for e in events], at)
                for split, events in own.items()
            ),
            default=0.0,
        ),
        delta=at,
    )


def check_policy(study: Study) -> Cost | None:
    """Compute the whole schedule's epsilon again; None for a study without privacy.

    Raises:
        UnderstatedEpsilon: training or evaluation costs more than the study states. UnmatchedNoise.
    """
    if study.privacy.kind == "none":
        return None
    computed = cost(study)
    if computed.epsilon_joint > study.privacy.epsilon:
        raise UnderstatedEpsilon(stated=study.privacy.epsilon, computed=computed.epsilon_joint)
    return computed
