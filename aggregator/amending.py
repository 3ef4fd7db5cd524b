"""How the admin changes the roster of a plan that runs: an amended plan, signed, waiting for approvals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from aggregator.admin import NoHospitals, opened, plan_meant
from aggregator.settings import Settings
from aggregator.storage.store import Store
from medveil.errors import Error
from medveil.handed import problem_of
from medveil.plan import Epoch, Member, Plan
from medveil.rounds import RoundKind
from medveil.shown import plain


class BadAmendment(Error):
    """A change of a roster that cannot be made."""

    code = "bad-amendment"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The roster cannot be changed so: {problem}.",
            meaning="Nothing was signed; the plan stays as it is.",
            remedy="Change it in smaller steps, or create a plan of its own (docs/admin.md).",
        )


@dataclass(frozen=True)
class Price:
    """What a patient pays: against everybody, and if the other hospitals' noise counts."""

    alone: float
    jointly: float


@dataclass(frozen=True)
class Amended:
    """A plan with another roster, and what that means."""

    plan: Plan
    before: Plan
    joined: tuple[Member, ...]
    left: tuple[Member, ...]
    so_far: Price | None
    """What the rounds before cost a patient who was in all of them; None without noise."""
    whole: Price | None
    """What the study costs who stays: the same with both rosters."""
    rest: Price | None
    """What it costs who joins."""


def amend(settings: Settings, typed: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Amended:
    """A plan that follows another one with another roster; :func:`sign` makes it count.

    Args:
        typed: the plan, by its words, its hash or its study's name (the newest roster of it).
        add, remove: hospitals by name; those to be added must be enrolled.
    Raises: NotAFingerprint, NoPlan, NoHospitals, BadAmendment.
    """
    with opened(settings) as store:
        before = _meant(store, typed)
        word = next(iter(store.directives.of(before.id)), None)
        if word is not None and word.is_final:
            said = "stopped" if word.order == "stop" else "withdrawn"
            raise BadAmendment(problem=f"the study was {said} by the admin, for good")
        roster = _roster(store, before, add, remove)
        return changed(before, roster, first_round=_first_round(store, before))


def sign(settings: Settings, amended: Amended) -> None:
    """Offer it to its hospitals. The old roster works until enough have approved. Raises: AlreadyThere."""
    with opened(settings) as store:
        signature = store.transactions.signer.sign("create-plan", amended.plan.hash)
        store.plans.add_amended(amended.plan, signature, time.time())


def changed(before: Plan, roster: tuple[Member, ...], *, first_round: int) -> Amended:
    """A plan with another roster, checked as every node will check it.

    Raises: BadAmendment.
    """
    from privacy.encoding import params_for
    from privacy.joint_steps import adds_up
    from privacy.secagg.rosters import unsafe_change

    cohort = before.study.cohort
    last = Epoch(
        roster=before.roster,
        max_hospitals=cohort.max_hospitals,
        epoch=before.epoch,
        first_round=before.first_round,
    )
    wider = cohort.model_copy(update={"max_hospitals": max(cohort.max_hospitals, len(roster))})
    study = before.study.model_copy(update={"cohort": wider})
    try:
        study = type(study).model_validate(study.model_dump())
        plan = Plan(
            study=study,
            roster=roster,
            epoch=before.epoch + 1,
            first_round=first_round,
            earlier=(*before.earlier, last),
        )
        params_for(study, RoundKind.TRAIN, len(roster))
    except ValidationError as error:
        raise BadAmendment(problem=problem_of(error)) from error
    except Error as error:
        raise BadAmendment(problem=error.what) from error
    problem = unsafe_change(plan)
    if problem is None and not adds_up(study, hospitals=len(roster)):
        problem = "the encoding is too coarse for the noise of so many hospitals to add up"
    if problem is not None:
        raise BadAmendment(problem=problem)
    old, new = ({m.key: m for m in one.roster} for one in (before, plan))
    return Amended(
        plan,
        before,
        joined=tuple(m for key, m in new.items() if key not in old),
        left=tuple(m for key, m in old.items() if key not in new),
        so_far=_price(plan, rounds=first_round - 1),
        whole=_price(plan),
        rest=_price(plan, first=first_round),
    )


def _price(plan: Plan, *, rounds: int | None = None, first: int = 1) -> Price | None:
    from privacy.dp.policy import cost

    if plan.study.privacy.kind == "none":
        return None
    found = cost(plan.study, rounds=rounds, first=first)
    return Price(alone=found.epsilon_local, jointly=found.epsilon_joint)


def _meant(store: Store, typed: str) -> Plan:
    """Of several rosters of one study the one that works. Raises: NotAFingerprint, NoPlan."""
    chosen = plan_meant(store, typed)
    return next(plan for plan, _, _ in store.plans.all() if plan.id == chosen)


def _first_round(store: Store, before: Plan) -> int:
    """The first round that the next roster could work on, were it to take over now. Raises: BadAmendment."""
    from aggregator.rounds.runs import next_round

    if store.plans.newest_version(before.id) is None:
        raise BadAmendment(problem="it amends a plan that has not taken over itself")
    others = [
        plan for plan, _, _ in store.plans.all() if plan.before is not None and plan.before.id == before.id
    ]
    if any(store.plans.newest_version(plan.id) is not None for plan in others):
        raise BadAmendment(problem="another roster works in its place; amend that one")
    tried = store.plans.progress(before.id).recent
    number = max(before.first_round, next_round(before.study, tried))
    if number > before.study.training.rounds + 1:
        raise BadAmendment(problem="all of its rounds are over")
    return number


def _roster(store: Store, before: Plan, add: Sequence[str], remove: Sequence[str]) -> tuple[Member, ...]:
    """Those who stay keep the key that the plan names. Raises: NoHospitals, BadAmendment."""
    enrolled = {p.name: p for p in store.register.enrolled_keys() if p.role == "hospital" and not p.revoked}
    missing = sorted(set(add) - enrolled.keys())
    if missing:
        raise NoHospitals(names=", ".join(missing))
    keys = {m.name: m.public_key for m in before.roster}
    if not (add or remove):
        raise BadAmendment(problem="nobody joins and nobody leaves")
    for problem, names in (
        ("they are on the roster already", set(add) & keys.keys()),
        ("they are not on the roster", set(remove) - keys.keys()),
    ):
        if names:
            raise BadAmendment(problem=f"{problem} ({', '.join(plain(n, 48) for n in sorted(names))})")
    keys = {name: key for name, key in keys.items() if name not in remove}
    keys |= {name: enrolled[name].public_key.hex() for name in add}
    return tuple(Member(index=i, name=n, public_key=keys[n]) for i, n in enumerate(sorted(keys), 1))
