"""A hospital that computes nothing, as a process of its own: what is left of a round is the protocol.

Run: python tests/support/instant_hospital.py FOLDER PLAN

The folder is a node's that is enrolled and has approved the plan. Neither torch nor MONAI is loaded.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hospital_node.agent import PlanAgent
from hospital_node.contribution import Contribution
from hospital_node.journal import Journal
from hospital_node.settings import Node
from hospital_node.transport import Transport
from medveil.freed import BETWEEN_ROUNDS, keep_freed
from medveil.identity import Identity
from medveil.log import set_up
from medveil.metrics import empty
from medveil.rounds import AttemptKey, RoundKind
from medveil.study import Study
from medveil.tensors import Update


class InstantComputation:
    """Contributions without work: a random update, drawn once."""

    def __init__(self, study: Study, index: int) -> None:
        size = study.model.tensors.size
        values = np.random.default_rng(index).uniform(-0.01, 0.01, size).astype(np.float32)
        self._study, self._update = study, Update(values)

    def read_ahead(self) -> None:
        """There are no images."""

    is_busy = False

    def prepare(
        self, key: AttemptKey, kind: RoundKind, model: bytes, vector: Any, course: Any = None
    ) -> asyncio.Future[Contribution]:
        """See :class:`hospital_node.contribution.ContributionSource`."""
        done: asyncio.Future[Contribution] = asyncio.get_running_loop().create_future()
        update = self._update if kind is RoundKind.TRAIN else Update(np.empty(0, np.float32))
        done.set_result(Contribution(update, empty(self._study), 10))
        return done


async def take_part(node: Node, plan_id: str) -> None:
    """One hospital's agent from the first round to the last."""
    identity = Identity.load(node.settings.name, node.key)
    journal = Journal(node.journal)
    plan = journal.plan(plan_id)
    assert plan is not None, "it has not approved the plan"
    member = plan.member(node.settings.name)
    assert member is not None
    async with Transport(node.settings.aggregator, node.authority, identity) as transport:
        for one, signature in journal.approved():
            await transport.approve(one.id, signature)
        computation = InstantComputation(plan.study, member.index)
        await PlanAgent(plan, node, identity, journal, computation, transport).follow()
    journal.close()


if __name__ == "__main__":
    keep_freed(BETWEEN_ROUNDS)
    set_up("error")
    asyncio.run(take_part(Node.load(Path(sys.argv[1])), sys.argv[2]))
