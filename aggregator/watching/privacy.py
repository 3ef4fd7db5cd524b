"""What studies cost patients: epsilon spent and to come, by which noise and which accountant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from aggregator.rounds.status import PlanReader
from aggregator.storage.store import Store
from aggregator.watching.cost import Account, Epsilons
from aggregator.watching.past import lines_of
from aggregator.watching.studies import is_evaluated
from medveil.noise_policies import GaussianNoise
from medveil.plan import Plan
from medveil.reports import Amount, Count
from medveil.values import Frozen, Name, PrivacyKind, Sha256

MOST_STUDIES = 20
"""On one page, the newest first."""
Mechanism = Literal["none", "gaussian", "sampled-gaussian"]
Accountant = Literal["none", "gaussian", "loss-distribution"]
"""``gaussian``: all steps together are one Gaussian, whose epsilon is exact. ``loss-distribution``: privacy
loss distributions are composed on a pessimistic grid. See :func:`privacy.dp.accounting.epsilon`."""


class Noise(Frozen):
    """How a study with noise protects a patient."""

    delta: Amount
    stated: Amount
    """Epsilon that the whole study states: no hospital takes part in one that costs more."""
    joint: Amount | None
    """Spent so far by a patient of a hospital that took part in every round, counting on the noise of the
    honest hospitals. None if it is not known here."""
    joint_at_end: Amount
    """The same after all planned rounds and the last evaluation; so far, if it ended before them."""
    local: Amount | None
    """Spent so far even if everybody else pools what they know. None while it is being reckoned."""
    local_at_end: Amount | None
    rounds: Count
    """Of training, as planned."""
    trained: Count
    """Of them that have a sum."""
    evaluated: bool
    mechanism: Mechanism
    accountant: Accountant
    clip_norm: Amount
    noise_multiplier: Amount
    """That ``stated`` rests on, in units of ``clip_norm``."""
    own_multiplier: Amount
    """That one hospital adds by itself."""
    sample_rate: Amount
    images_per_patient: Count
    honest_hospitals: Count
    """Whose noise is counted on, in all sums or in those of evaluations; 1 where each hospital's own is
    enough."""
    despite_noise: bool
    """Whether the author insisted on more noise than leaves anything to learn."""


class StudyPrivacy(Frozen):
    """One study."""

    plan: Sha256
    study: Name
    kind: PrivacyKind
    unit: Literal["patient"] = "patient"
    """Whose presence is hidden: a patient with all images."""
    hospitals: Count
    least_in_sum: Count
    """Fewest hospitals in a sum."""
    smallest_group: Count
    """A group of fewer patients is not shown in figures."""
    finished: bool
    ended_early: bool = False
    """Whether it ended, or was stopped or withdrawn, before its last evaluation had a sum."""
    noise: Noise | None
    """None in a study without noise: masks hide each hospital's update, nothing bounds what a model tells."""


class Privacy(Frozen):
    """Studies, the newest first."""

    studies: tuple[StudyPrivacy, ...]
    left_out: Count
    """Older ones that are not shown."""
    reckoning: bool = False
    """Whether some epsilon is still being reckoned."""
    as_of: Amount


Reckon = Callable[[Plan, int | None], Epsilons | None]
"""Epsilons after so many training rounds, or of the whole study; None while they are being reckoned."""


def by(account: Account) -> Reckon:
    """By an accountant that is waited for."""
    return lambda plan, rounds: account(plan.study, rounds)


def privacy(
    store: Store,
    reader: PlanReader,
    reckon: Reckon | None,
    plans: frozenset[str] | None,
    *,
    now: float,
    study: str = "",
) -> Privacy:
    """The newest studies of those that may be read.

    Args:
        reckon: None where no accountant may run; then what the store tells is shown.
        plans: None for all. study: only plans of this name.
    """
    lines = lines_of(store, reader, plans)
    lines = [line for line in lines if not study or line.name == study]
    some = lines[:MOST_STUDIES]
    told = tuple(_study(store, reader.plan(line.plan), reckon, finished=line.finished) for line in some)
    return Privacy(
        studies=told,
        left_out=len(lines) - len(some),
        reckoning=any(_is_missing(one.noise) for one in told) and reckon is not None,
        as_of=now,
    )


def _is_missing(noise: Noise | None) -> bool:
    return noise is not None and (noise.local is None or noise.local_at_end is None)


def _study(store: Store, plan: Plan, reckon: Reckon | None, *, finished: bool) -> StudyPrivacy:
    study = plan.study
    policy = study.privacy
    evaluated = is_evaluated(store.past.attempts(plan.id, (), most=1))
    noise = _noise(store, plan, policy, evaluated, reckon) if isinstance(policy, GaussianNoise) else None
    early = finished and not evaluated
    if early and noise is not None and noise.joint is not None:
        noise = noise.model_copy(update={"joint_at_end": noise.joint, "local_at_end": noise.local})
    return StudyPrivacy(
        plan=plan.id,
        study=study.name,
        kind=policy.kind,
        hospitals=len(plan.roster),
        least_in_sum=study.cohort.min_hospitals,
        smallest_group=study.evaluation.smallest_group,
        finished=finished,
        ended_early=early,
        noise=noise,
    )


def _noise(store: Store, plan: Plan, policy: GaussianNoise, evaluated: bool, reckon: Reckon | None) -> Noise:
    newest = next(filter(None, (store.plans.newest_version(one.id) for one in plan.epochs)), None)
    trained = 0 if newest is None else newest.number
    sampled = policy.sample_rate < 1
    told, end = _epsilons(plan, policy, trained, 0.0 if newest is None else newest.epsilon, evaluated, reckon)
    return Noise(
        delta=policy.delta,
        stated=policy.epsilon,
        joint=told[0],
        local=told[1],
        joint_at_end=end[0],
        local_at_end=end[1],
        rounds=plan.study.training.rounds,
        trained=trained,
        evaluated=evaluated,
        mechanism="sampled-gaussian" if sampled else "gaussian",
        accountant="loss-distribution" if sampled else "gaussian",
        clip_norm=policy.clip_norm,
        noise_multiplier=policy.noise_multiplier,
        own_multiplier=policy.own_multiplier,
        sample_rate=policy.sample_rate,
        images_per_patient=policy.images_per_patient,
        honest_hospitals=policy.evaluation_sharers,
        despite_noise=policy.despite_noise,
    )


def _epsilons(
    plan: Plan,
    policy: GaussianNoise,
    trained: int,
    written: float | None,
    evaluated: bool,
    reckon: Reckon | None,
) -> tuple[tuple[float | None, float | None], tuple[float, float | None]]:
    """Joint and local: so far, and at the end.

    Args:
        written: joint epsilon after the newest version, as the store has it.
    """
    whole = None if reckon is None else reckon(plan, None)
    now = whole if evaluated else Epsilons(0.0, 0.0) if not trained else None
    if now is None and reckon is not None and not evaluated:
        now = reckon(plan, trained)
    spent = policy.epsilon if evaluated else written if trained else 0.0
    alone = not policy.counts_on_others
    so_far: tuple[float | None, float | None] = (spent, spent if alone else None)
    end: tuple[float, float | None] = (policy.epsilon, policy.epsilon if alone else None)
    if now is not None:
        so_far = (now.joint, now.local)
    if whole is not None:
        end = (whole.joint, whole.local)
    return so_far, end
