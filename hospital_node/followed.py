"""Plans in the hands of a node: one that is made ready, and those that are worked on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from hospital_node.agent import PlanAgent
from hospital_node.computation import Computation
from medveil.plan import Plan


@dataclass(frozen=True)
class Prepared:
    """A plan whose images are being read, or were read at ``at`` (the event loop's seconds)."""

    plan: Plan
    computation: Computation
    agent: PlanAgent
    reading: asyncio.Future[None]
    at: float


@dataclass(frozen=True)
class Followed:
    """A plan that is being worked on."""

    plan: Plan
    agent: PlanAgent
    task: asyncio.Task[None]
    since: float
    """When it got its place (the event loop's seconds)."""


def is_busy(prepared: Prepared | None, followed: Mapping[str, Followed]) -> bool:
    """Whether an attempt is open here, or something is read or computed."""
    reading = prepared is not None and not prepared.reading.done()
    return reading or any(one.agent.is_busy for one in followed.values())
