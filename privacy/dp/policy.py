"""What a study's privacy policy means in steps, and whether the epsilon it names is the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medveil.errors import Error
from medveil.study import GaussianNoise, Study
from privacy.dp import accounting
from privacy.dp.accounting import Event

TOLERANCE = 0.01
"""A plan may round its epsilon down by at most this share."""


class UnderstatedEpsilon(Error):
    """A plan names a smaller epsilon than its schedule costs."""

    code = "understated-epsilon"

    def __init__(self, *, stated: float, computed: float) -> None:
        super().__init__(
            what=f"The study states epsilon {stated:g}, but its whole schedule costs {computed:.4g}.",
            meaning="Patients would lose more privacy than the plan says; this hospital does not take part.",
            remedy="Raise the noise, shorten the schedule, or state the epsilon that it costs.",
        )


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
    """What a whole study costs each patient, at ``delta``.

    ``epsilon_local`` holds against everybody, even if all other hospitals and the aggregator pool what they
    know. ``epsilon_joint`` is what the study states: under ``JointNoise`` it counts the noise of the honest
    hospitals in the sum. Under ``LocalNoise`` the two are equal: with several steps a round a hospital's
    intermediate models carry only its own noise, and there is no proof that the noise of the others, added
    after the last step, protects the earlier ones.
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


def round_event(study: Study) -> Event:
    """What one training round of one hospital releases, by its own noise (NotPrivate without a policy)."""
    policy = policy_of(study)
    return Event(policy.own_multiplier, policy.sample_rate, study.training.local_steps or 0)


def study_event(study: Study, rounds: int | None = None) -> Event:
    """What ``rounds`` rounds release, by default all of the study (NotPrivate without a policy)."""
    once = round_event(study)
    count = study.training.rounds if rounds is None else rounds
    return Event(once.noise_multiplier, once.sample_rate, once.steps * count)


def jointly(event: Event, sharers: int) -> Event:
    """The same event behind the equal noise of ``sharers`` hospitals."""
    return Event(event.noise_multiplier * math.sqrt(sharers), event.sample_rate, event.steps)


def cost(study: Study, *, rounds: int | None = None) -> Cost:
    """Both epsilons after ``rounds`` rounds (NotPrivate without a policy)."""
    policy, own = policy_of(study), study_event(study, rounds)
    return Cost(
        epsilon_local=accounting.epsilon([own], policy.delta),
        epsilon_joint=accounting.epsilon([jointly(own, policy.sharers)], policy.delta),
        delta=policy.delta,
    )


def check_policy(study: Study) -> Cost | None:
    """Compute the whole schedule's epsilon again; None for a study without privacy.

    Raises:
        UnderstatedEpsilon: the schedule costs over 1 % more than the study states.
    """
    if study.privacy.kind == "none":
        return None
    computed = cost(study)
    if computed.epsilon_joint > study.privacy.epsilon * (1 + TOLERANCE):
        raise UnderstatedEpsilon(stated=study.privacy.epsilon, computed=computed.epsilon_joint)
    return computed
