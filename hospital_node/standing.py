"""Where this hospital's node stands, in one value: what ``medveil node status`` and the page show."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import IntEnum

from hospital_node import live
from hospital_node.admins_word import AdminsWord, AdminsWords
from hospital_node.live import Live, PlanLive
from hospital_node.operator import opened
from hospital_node.orders import Orders
from hospital_node.settings import Node
from hospital_node.spending import spending
from medveil.errors import Error

SHOWN_S = 30 * 86_400.0
"""How long the admin's word on a study that is over is shown."""
MOST_SHOWN = 20


class Health(IntEnum):
    """How the node is; the exit code of ``medveil node status``."""

    FINE = 0
    NEEDS_SOMEBODY = 1
    """It runs, and is not connected, or something must be put right."""
    NOT_RUNNING = 3


@dataclass(frozen=True)
class Left:
    """What the patient who has promised most may still spend."""

    promised: float
    cap: float
    delta: float

    @property
    def epsilon(self) -> float:
        """Never below 0."""
        return max(0.0, self.cap - self.promised)


@dataclass(frozen=True)
class NodeStatus:
    """Where the node stands."""

    live: Live | None
    """What its process has told last; None if none has ever run."""
    running: bool
    plans: tuple[PlanLive, ...]
    """Those that are approved and not over; of a node that does not run as far as its journal tells."""
    budget: Left | None
    """None if the ledger cannot be read."""
    problem: Error | None = None
    """Why the ledger cannot be read."""
    halted: tuple[tuple[str, AdminsWord], ...] = ()
    """Studies that were approved here and that the admin has paused, stopped or withdrawn: name and word."""

    @property
    def health(self) -> Health:
        """Whether somebody is needed."""
        if self.live is None or not self.running:
            return Health.NOT_RUNNING
        needs = any(one.code for one in self.plans) or self.budget is None
        there = self.live.connected or self.live.asks_nobody
        fine = there and not self.live.silent and not needs
        return Health.FINE if fine else Health.NEEDS_SOMEBODY


def status_of(node: Node) -> NodeStatus:
    """Where the node stands now. Reads files only; asks nobody."""
    told = live.read(node)
    running = told is not None and told.running
    plans = told.plans if told is not None and running else _approved(node)
    try:
        found = spending(node)
    except Error as error:
        return NodeStatus(told, running, plans, None, error, _halted(node))
    left = Left(found.most.promised, found.cap, found.delta)
    return NodeStatus(told, running, plans, left, halted=_halted(node))


def _halted(node: Node) -> tuple[tuple[str, AdminsWord], ...]:
    """The newest words that halt a study; of those that are over only for a month."""
    with opened(node) as journal:
        names = {plan.id: plan.study.name for plan, _ in journal.approved()}
        words = AdminsWords(journal).all()
    recent = time.time() - SHOWN_S
    return tuple(
        (names[word.plan], word)
        for word in words[:MOST_SHOWN]
        if word.plan in names and word.halts and (not word.is_final or word.heard > recent)
    )


def _approved(node: Node) -> tuple[PlanLive, ...]:
    with opened(node) as journal:
        left = Orders(journal).words()
        return tuple(
            PlanLive(
                plan=plan.id,
                study=plan.study.name,
                rounds=plan.study.training.rounds + 1,
                round=progress,
                approvals_needed=plan.approvals_needed,
                waits_for="this node to run: medveil node run",
            )
            for plan, _ in journal.approved()
            if plan.id not in left and (progress := journal.progress(plan.id)) is not None
        )


def since(moment: float) -> str:
    """How long it is since a moment (Unix seconds), in words."""
    passed = max(0.0, time.time() - moment)
    if passed < 120:
        return f"{passed:.0f} s"
    return f"{passed / 60:.0f} min" if passed < 7200 else f"{passed / 3600:.0f} h"


def ago(moment: float) -> str:
    """When a moment was, in words."""
    return f"{since(moment)} ago"
