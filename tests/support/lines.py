"""A node's line to a coordinator in memory, over which the aggregator may lie to this one hospital."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.errors import NotFound
from hospital_node.agent import PlanAgent
from hospital_node.contribution import Contribution
from hospital_node.journal import Journal
from hospital_node.line import AggregatorProblem
from hospital_node.line import Line as AnyLine
from hospital_node.settings import Node, NodeSettings, Policy
from medveil.messages import Work
from medveil.rounds import AttemptKey, RoundKind
from medveil.tensors import Update
from privacy.secagg.messages import Certificates, Published
from world import Site, World, counts, make_sites, take_segment, unit

Lie = Callable[[Work], Work]
HONEST = ["advertise", "shares", "ready", "upload", "agree", "unmask"]
"""What a hospital sends in an attempt that an honest aggregator leads to its end."""


class Stuck(Exception):
    """Nobody has anything left to do: everybody waits for this hospital."""


class Line:
    """What ``Transport`` is to a node, without a network. Other hospitals move while this one polls."""

    def __init__(self, world: World, others: list[Site], name: str, lie: Lie = lambda work: work) -> None:
        self.world, self.others, self.name, self.lie = world, others, name, lie
        self.sent: list[tuple[int, int, str, bytes]] = []
        self.segments: list[bytes] = []
        self.left: list[str] = []
        self.file: Callable[[bytes], bytes] = lambda data: data
        self.proof_lie: Callable[[int, Published], Published] = lambda version, published: published
        self.sum_lie: Callable[[int, bytes], bytes] = lambda version, data: data
        self.fetched: list[str] = []
        self.away = False
        """What this hospital has told last of whether it joins attempts."""
        self.waits_for_nobody = False
        """Whether a hospital that has left an attempt is not waited for; a lying aggregator may ignore it."""

    async def work(
        self,
        plan: str,
        *,
        seen: str,
        wait_s: float,
        sitting_out: AttemptKey | None = None,
        away: bool = False,
    ) -> Work:
        await asyncio.sleep(0)
        self.left.append("" if sitting_out is None else f"{sitting_out.round}.{sitting_out.attempt}")
        if away != self.away:
            self.away = away
            self.world.coordinator.intake.is_away(plan, self.name, away)
        if sitting_out is not None and self.waits_for_nobody:
            self.world.coordinator.intake.sits_out(sitting_out, self.name)
        return self._news(plan, seen)

    def _news(self, plan: str, seen: str) -> Work:
        """Let the others move until there is something that this hospital has not seen."""
        while True:
            self.world.coordinator.runs.touch(self.name)
            work = self.lie(self.world.coordinator.instructions.work(plan, self.name))
            if work.mark != seen:
                return work
            moved = [site.act() for site in self.others]
            if not self.world.coordinator.tick() and not any(moved):
                raise Stuck

    async def message(self, key: AttemptKey, kind: str, body: bytes, *, wait_s: float) -> Work:
        self.sent.append((key.round, key.attempt, kind, body))
        return self._news(key.plan, self.world.coordinator.intake.receive(key, self.name, kind, body))

    async def segment(
        self, key: AttemptKey, segment: int, data: bytes | memoryview, *, digest: bytes
    ) -> None:
        self.segments.append(bytes(data))
        take_segment(self.world.coordinator, key, self.name, segment, self.segments[-1])

    async def model(self, plan: str, model: str, *, limit: int) -> bytes:
        self.fetched.append("model")
        with self.world.open_model(model) as file:
            return self.file(file.read())

    async def proof(self, plan: str, version: int) -> Published:
        self.fetched.append(f"proof {version}")
        try:
            published = self.world.proof(version)
        except NotFound as problem:
            raise AggregatorProblem(status=404, code=problem.code, title="", detail="") from problem
        return self.proof_lie(version, published)

    async def certificates(self, plan: str, number: int) -> Certificates:
        self.fetched.append(f"certificates {number}")
        return self.world.certificates(number)

    async def sum(self, plan: str, version: int, *, limit: int) -> bytes:
        self.fetched.append(f"sum {version}")
        return self.sum_lie(version, self.world.sum(version))


class ReadyComputation:
    """One that has always ended: this hospital's unit vector, or the given failure."""

    def __init__(self, world: World, index: int) -> None:
        self._world, self._index = world, index
        self.prepared: list[tuple[int, int, RoundKind]] = []
        self.reads = 0

    def read_ahead(self) -> None:
        self.reads += 1

    is_busy = False

    def prepare(
        self, key: AttemptKey, kind: RoundKind, model: bytes, vector: Any, course: Any = None
    ) -> asyncio.Future[Contribution]:
        self.prepared.append((key.round, key.attempt, kind))
        done: asyncio.Future[Contribution] = asyncio.get_running_loop().create_future()
        study, train = self._world.plan.study, kind is RoundKind.TRAIN
        update = unit(self._index) if train else np.empty(0, np.float32)
        sums = None if train and not study.evaluation.every_round else counts(study, self._index)
        done.set_result(Contribution(Update(update), sums, 10))
        return done


def make_node(world: World, index: int, *, allow_no_privacy: bool = True) -> Node:
    """The folder of hospital ``index``."""
    name = world.identities[index - 1].name
    folder = world.folder / "nodes" / name
    settings = NodeSettings(
        name=name,
        aggregator="https://127.0.0.1:1",
        data=Path("/nowhere"),
        dataset=name,
        policy=Policy(allow_no_privacy=allow_no_privacy),
    )
    node = Node(folder, settings)
    node.save()
    return node


def make_agent(world: World, line: AnyLine, *, index: int = 1) -> tuple[PlanAgent, Journal]:
    """The real agent of hospital ``index`` with the journal in its folder."""
    node = make_node(world, index)
    journal = Journal(node.journal)
    identity = world.identities[index - 1]
    return PlanAgent(world.plan, node, identity, journal, ReadyComputation(world, index), line), journal


def follow(agent: PlanAgent) -> bool:
    """Run the agent to the plan's end; False if everybody ended up waiting for it."""
    try:
        asyncio.run(agent.follow())
    except Stuck:
        return False
    return True


def scene(world: World, lie: Lie = lambda work: work) -> tuple[Any, Line, Journal]:
    """Hospital 1 is a real agent on a line over which the aggregator may lie; the others are honest."""
    line = Line(world, make_sites(world)[1:], "hospital-1", lie)
    agent, journal = make_agent(world, line)
    return agent, line, journal
