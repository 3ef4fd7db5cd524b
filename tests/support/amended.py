"""A world whose plan is amended: the same aggregator, another roster."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Sequence

from aggregator.amending import changed
from medveil.identity import Identity
from medveil.plan import Member, Plan, sign_approval
from world import World


def newcomer(world: World, name: str) -> Identity:
    """A hospital that has enrolled."""
    one, token = Identity.generate(name), secrets.token_urlsafe(24)
    register = world.store.register
    register.add_token(token, name=name, role="hospital", expires=2.0)
    register.enrol(token, name=name, public_key=one.public_key, now=1.0)
    return one


def roster_of(identities: Sequence[Identity]) -> tuple[Member, ...]:
    return tuple(
        Member(index=i, name=one.name, public_key=one.public_key.hex()) for i, one in enumerate(identities, 1)
    )


def next_plan(before: Plan, identities: Sequence[Identity], *, first_round: int = 1) -> Plan:
    """What the admin's command makes, for these hospitals."""
    return changed(before, roster_of(identities), first_round=first_round).plan


def amended(
    world: World,
    identities: Sequence[Identity],
    *,
    first_round: int = 1,
    approvals: Sequence[Identity] | None = None,
    plan: Plan | None = None,
) -> World:
    """The same aggregator, seen from an amended plan that is on offer there and approved by some (all)."""
    after = copy.copy(world)
    after.plan = plan or next_plan(world.plan, identities, first_round=first_round)
    after.identities = list(identities)
    world.store.plans.add_amended(after.plan, world.admin.sign("create-plan", after.plan.hash), 2.0)
    world.coordinator.runs.reload()
    for one in identities if approvals is None else approvals:
        world.coordinator.approve(after.plan.id, one.name, sign_approval(after.plan, one))
    return after


def restart(*worlds: World) -> None:
    """A new process for all that is seen of one aggregator."""
    first, *others = worlds
    first.restart()
    for other in others:
        other.store, other.blobs = first.store, first.blobs
        other.reader, other.coordinator = first.reader, first.coordinator
