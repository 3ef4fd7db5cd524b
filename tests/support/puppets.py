"""An aggregator that opens what it can: it leads real agents through attempts, and hides from whom it likes.

Every agent is the real one, with its journal on disk, its lineage and its line; the liar holds what they send
and shows each of them what it wants. It keeps no rule of its own.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hospital_node.agent import PlanAgent
from hospital_node.journal import Journal
from hospital_node.line import AggregatorProblem
from lines import ReadyComputation, make_node
from medveil.errors import Error
from medveil.identity import Identity
from medveil.messages import AuditHead, Work
from medveil.plan import Plan
from medveil.rounds import AttemptKey, Phase, kind_of
from medveil.tensors import to_safetensors
from oracle import OpenedSum
from privacy.secagg import closing, server
from privacy.secagg.keys import setting_for
from privacy.secagg.messages import MESSAGES, Certificate, Certificates, Published, Quorum, transcript_of
from world import SPEC, START, World


@dataclass
class Line:
    """What ``Transport`` is to one agent: everything ends at the liar."""

    liar: Liar
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    async def work(
        self,
        plan: str,
        *,
        seen: str,
        wait_s: float,
        sitting_out: AttemptKey | None = None,
        away: bool = False,
    ) -> Work:
        raise AssertionError("the liar tells agents what to do; none of them polls")

    async def message(self, key: AttemptKey, kind: str, body: bytes, *, wait_s: float) -> Work:
        self.sent.append((kind, body))
        return Work(mark=secrets.token_hex(4), status="waiting", head=self.liar.head())

    async def segment(
        self, key: AttemptKey, segment: int, data: bytes | memoryview, *, digest: bytes
    ) -> None:
        pass

    async def model(self, plan: str, model: str, *, limit: int) -> bytes:
        return to_safetensors(START, SPEC)

    async def proof(self, plan: str, version: int) -> Published:
        raise AggregatorProblem(status=404, code="not-found", title="", detail="")

    async def sum(self, plan: str, version: int, *, limit: int) -> bytes:
        raise AssertionError("no proof leads to a sum")

    async def certificates(self, plan: str, number: int) -> Certificates:
        return Certificates(certificates=tuple(self.liar.certificates.get((plan, number), ())))


@dataclass
class Held:
    """An attempt as the liar has held it."""

    state: server.ServerState
    codes: dict[int, str] = field(default_factory=dict)
    """Hospital → why it refused."""
    opened: OpenedSum | None = None


class Liar:
    """Agents of every hospital of a world, and of further plans of the same hospitals.

    Args:
        plans: besides the world's own: each a plan whose roster is some of its hospitals.
    """

    def __init__(self, world: World, *plans: Plan) -> None:
        self.world, self._number = world, 0
        self.certificates: dict[tuple[str, int], list[Certificate]] = {}
        self.sums: list[OpenedSum] = []
        self.journals = {one.name: Journal(make_node(world, i).journal) for i, one in self._everybody()}
        self.agents: dict[tuple[str, int], tuple[PlanAgent, Line]] = {}
        self._runner = asyncio.Runner()
        for plan in (world.plan, *plans):
            of_plan = copy.copy(world)
            of_plan.plan = plan
            of_plan.identities = [self._identity(name) for name in plan.names]
            for index in range(1, len(plan.roster) + 1):
                self.agents[plan.id, index] = self._agent(of_plan, index)

    def _everybody(self) -> Iterable[tuple[int, Identity]]:
        return enumerate(self.world.identities, start=1)

    def _identity(self, name: str) -> Identity:
        return next(one for one in self.world.identities if one.name == name)

    def _agent(self, world: World, index: int) -> tuple[PlanAgent, Line]:
        line, one = Line(self), world.identities[index - 1]
        node, computation = make_node(world, index), ReadyComputation(world, index)
        return PlanAgent(world.plan, node, one, self.journals[one.name], computation, line), line

    def close(self) -> None:
        for journal in self.journals.values():
            journal.close()
        self._runner.close()

    def restart(self, plan: Plan, index: int) -> None:
        """A hospital's process ends and begins again: its keys are gone, its journal stays."""
        world = copy.copy(self.world)
        world.plan, world.identities = plan, [self._identity(name) for name in plan.names]
        self.agents[plan.id, index] = self._agent(world, index)

    def head(self) -> AuditHead:
        """An audit log that always goes on."""
        self._number += 1
        number, hash_ = self._number, secrets.token_bytes(32)
        signature = self.world.admin.sign("audit-entry", number.to_bytes(8, "big"), hash_)
        return AuditHead(number=number, hash=hash_, key=self.world.admin.public_key, signature=signature)

    def hold(
        self,
        number: int,
        attempt: int,
        members: Collection[int],
        *,
        plan: Plan | None = None,
        model: bytes | None = None,
        signers: Collection[int] | None = None,
        openers: Collection[int] | None = None,
    ) -> Held:
        """One attempt with these hospitals; U3 is shown to ``signers`` and the quorum to ``openers`` only."""
        plan = plan or self.world.plan
        model = model or bytes.fromhex(plan.study.model.initial_model)
        kind = kind_of(plan.study, number)
        setting = setting_for(plan, number=number, attempt=attempt, kind=kind, model=model)
        held = Held(server.ServerState(setting))
        signers = members if signers is None else signers
        openers = signers if openers is None else openers
        for phase, asked in (
            (Phase.ADVERTISE, members),
            (Phase.SHARE, members),
            (Phase.COMMIT, members),
            (Phase.UPLOAD, members),
            (Phase.AGREE, signers),
            (Phase.UNMASK, openers),
        ):
            held.state = replace(held.state, phase=phase)
            for index in asked:
                self._ask(plan, held, index)
            if phase is not Phase.UNMASK:
                held.state = _closed(held.state)
        state = held.state
        if len(state.unmasked) >= setting.threshold(len(state.advertised)):
            server.masks_to_remove(state)  # it can be opened indeed
            names = frozenset(plan.names[i - 1] for i in state.survivors)
            held.opened = OpenedSum((plan.id, number, attempt), model, names)
            self.sums.append(held.opened)
        return held

    def give_up(self, held: Held, asked: Sequence[int], *, plan: Plan | None = None) -> Certificate:
        """Ask for vows, and keep the certificate, whatever it is worth."""
        plan = plan or self.world.plan
        held.state = replace(held.state, phase=Phase.ABORT)
        for index in asked:
            self._ask(plan, held, index)
        context = held.state.setting.context
        found = closing.certificate(context, held.state.aborted)
        self.certificates.setdefault((plan.id, context.round), []).append(found)
        return found

    def _ask(self, plan: Plan, held: Held, index: int) -> None:
        agent, line = self.agents[plan.id, index]
        state, context = held.state, held.state.setting.context
        view = server.view(state, index)
        if state.phase is Phase.UNMASK:
            view = Quorum(signatures={i: a.signature for i, a in state.agreed.items()})
        work = Work(
            mark=secrets.token_hex(4),
            status="running",
            round=context.round,
            attempt=context.attempt,
            kind=context.kind.value,
            phase=state.phase.value,
            model=context.model,
            payload=b"" if view is None else view.to_bytes(),
        )
        line.sent.clear()
        try:
            self._runner.run(agent._answer(work))
        except Error as error:
            held.codes.setdefault(index, error.code)
            agent._leave(error)
        for kind, body in line.sent:
            with suppress(Error):
                held.state = server.receive(held.state, MESSAGES[kind].from_bytes(body))


def _closed(state: server.ServerState) -> server.ServerState:
    """The end of a phase, however few have answered."""
    if state.phase is Phase.ADVERTISE:
        return replace(state, transcript=transcript_of(tuple(state.advertised.values())))
    if state.phase is Phase.COMMIT:
        return replace(state, committed=tuple(sorted(state.ready)))
    if state.phase is Phase.UPLOAD:
        return replace(state, survivors=tuple(sorted(state.uploaded)))
    return state
