"""The node at work: follow each approved plan, answer every phase, keep the journal and the ledger.

Trust ends here: whatever the aggregator says goes through ``governance`` and ``privacy.secagg.node``, and a
refusal is final for the attempt.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from hospital_node.audit_witness import Heads
from hospital_node.clearance import Clearance, check_start
from hospital_node.cohort import CohortDamaged, CohortMissing
from hospital_node.computation import Contribution, Desk
from hospital_node.governance import PlanRefused, binding, check_plan, read_offer
from hospital_node.journal import Journal
from hospital_node.ledger import LedgerSetBack
from hospital_node.lineage import Lineage, Witness, WrongModel
from hospital_node.records import Records
from hospital_node.settings import Node
from hospital_node.steps import AlreadyDone
from hospital_node.transport import AggregatorProblem, Transport
from hospital_node.unsent import LABEL, Kept
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity
from medveil.log import get_logger
from medveil.messages import BadMessage, Work
from medveil.plan import BadPlan, NotApproved, Plan
from medveil.rounds import Phase, RoundKind, kind_of, most_attempts
from medveil_imaging.sources.manifest import SiteData
from privacy.dp.ledger import BudgetExceeded
from privacy.dp.policy import UnderstatedEpsilon
from privacy.encoding import encode_metrics, params_for
from privacy.secagg import node as secagg
from privacy.secagg.closing import vow
from privacy.secagg.keys import setting_for
from privacy.secagg.messages import Advertised, Committed, Quorum, Signed, Survivors
from privacy.secagg.vector import MaskedUpdate, masked_update

POLL_S = 5.0
IDLE_S = 2.0
PREPARE_S = 60.0
"""Longest that an approval waits for the images to be read."""
PREPARED_S = 900.0
"""Images that were read ahead are used for a plan that begins within this time, and read again after it."""
NEWS_PAUSE_S = 0.2
"""Shortest time between two looks at a plan that waits, whatever the aggregator calls news."""
REFUSALS = (
    NotApproved,
    PlanRefused,
    UnderstatedEpsilon,
    BudgetExceeded,
    CohortMissing,
    CohortDamaged,
    LedgerSetBack,
)
"""What keeps one plan waiting and no other."""
STEPS: tuple[Phase, ...] = tuple(p for p in Phase if not p.ended and p is not Phase.ABORT)
Word = TypeVar("Word", bound=StrEnum)
log = get_logger()


class OutOfOrder(RemoteProtocolError):
    """A round, attempt or phase that does not follow from what this node has seen and approved."""

    code = "out-of-order"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The aggregator asks for something out of order: {reason}.",
            meaning="This node missed a step, or it is asked to repeat one; it leaves the attempt.",
            remedy="If it recurs while this node is well connected, tell the consortium's admin.",
        )


@dataclass
class Attempt:
    """This node's part in one attempt, in memory only: a crash forgets the keys on purpose."""

    number: int
    attempt: int
    state: Any
    contribution: asyncio.Future[Contribution]
    phase: Phase
    """Where the aggregator is."""
    answered: Phase
    """The last phase that this node has answered."""

    @property
    def key(self) -> tuple[int, int]:
        """Round and attempt."""
        return self.number, self.attempt

    @property
    def computing(self) -> bool:
        """Whether the attempt waits for this hospital's own computation."""
        return (self.answered, self.phase) == (Phase.SHARE, Phase.COMMIT)


class PlanAgent:
    """Follows one plan from its approval to its end."""

    def __init__(
        self, plan: Plan, node: Node, identity: Identity, journal: Journal, desk: Desk, transport: Transport
    ) -> None:
        member = plan.member(node.settings.name)
        assert member is not None  # check_plan has seen it
        self._plan, self._index, self._identity = plan, member.index, identity
        self._journal, self._desk, self._transport = journal, desk, transport
        self._attempt: Attempt | None = None
        self._sat_out: tuple[int, int] | None = None
        self._seen = ""
        self._lineage = Lineage(plan, node.models, journal, transport)
        self._clearance = Clearance(plan, journal, transport)
        self._given_up: tuple[int, int] | None = None
        """The last attempt that this node has told the aggregator to give up."""
        self._heads = Heads(journal)

    async def follow(self) -> None:
        """Answer phase after phase until the plan is finished.

        A problem on either side ends this node's part in the attempt and is logged with its code; the others
        go on without it, and the next round is a new chance.
        """
        work: Work | None = None
        begun = False
        while True:
            try:
                if work is None:
                    work = await self._poll()
                if work.status == "finished":
                    self._heads.settle()
                    log.info("plan.finished", plan=self._plan.id)
                    return
                if not begun:
                    begun = True
                    self._desk.read_ahead()
                work = await self._answer(work)
            except Error as error:
                work = None
                self._leave(error)

    async def prepare(self) -> None:
        """Fetch the first model, or load one's own. Raises: what :meth:`Lineage.begin` raises."""
        await self._lineage.begin()

    async def _poll(self) -> Work:
        """Ask for work; waits at the aggregator for news, unless this hospital itself is waited for."""
        attempt, left = self._attempt, ""
        if attempt is None and self._sat_out is not None:
            left = "{}.{}".format(*self._sat_out)
        wait_s = 0.0 if attempt is not None and attempt.computing else POLL_S
        try:
            return self._taken(
                await self._transport.work(self._plan.id, seen=self._seen, wait_s=wait_s, sitting_out=left)
            )
        except RemoteProtocolError:
            await asyncio.sleep(IDLE_S)  # a refusal of every poll must not become a flood of them
            raise

    def _taken(self, work: Work) -> Work:
        """Work that came with an answer of any kind, its audit head held against those before."""
        attempt = (work.round, work.attempt) if work.status == "running" else None
        self._heads.take(work.head, plan=self._plan.id, attempt=attempt)
        self._seen = work.token
        return work

    async def _answer(self, work: Work) -> Work | None:
        """Do what is asked; the work that came with the answer to it, None if nothing was to be sent."""
        key = (work.round, work.attempt)
        if self._attempt is not None and (work.status != "running" or self._attempt.key != key):
            self._attempt = None
        if work.status != "running":
            return None
        if work.phase == Phase.ABORT:
            return await self._give_up(key)
        if key == self._sat_out:
            return None
        phase = _parsed(Phase, work.phase)
        if self._attempt is None:
            if phase is Phase.ADVERTISE:
                return await self._join(work)
            # Its keys went with the process that joined; without a word the others would wait for it.
            self._sat_out = key
            log.info("attempt.sat-out", plan=self._plan.id, round=work.round, attempt=work.attempt)
        elif phase is not self._attempt.answered:
            if (self._attempt.answered, phase) not in pairwise(STEPS):
                raise OutOfOrder(reason="a phase that does not follow the last one")
            self._attempt.phase = phase
            return await self._step(self._attempt, phase, work.payload)
        return None

    async def _give_up(self, key: tuple[int, int]) -> Work | None:
        """The attempt has failed: promise, on disk first, that this node never unmasks in it.

        Its keys are forgotten, so that it cannot. Once it has unmasked it does not promise; the others' word,
        or the sum, ends the attempt then.
        """
        self._attempt, self._sat_out = None, key
        if self._given_up == key:
            return None
        number, attempt = key
        try:
            model = self._journal.give_up(self._plan.id, number, attempt)
        except AlreadyDone as error:
            log.info("attempt.kept", plan=self._plan.id, round=number, attempt=attempt, code=error.code)
            self._given_up = key
            return None
        kind = kind_of(self._plan.study, number)
        setting = setting_for(self._plan, number=number, attempt=attempt, kind=kind, model=model)
        message = vow(secagg.Party(setting, self._index, self._identity))
        body = message.to_bytes()
        work = await self._transport.message(self._plan.id, number, attempt, "abort", body, wait_s=POLL_S)
        self._given_up = key
        log.warning("attempt.aborted", plan=self._plan.id, round=number, attempt=attempt)
        return self._taken(work)

    def _check_round(self, work: Work, kind: RoundKind) -> None:
        """Hold the invitation against the approved study: which rounds there are, and where it starts."""
        study = self._plan.study
        if not 1 <= work.round <= study.training.rounds + 1 or kind is not kind_of(study, work.round):
            raise OutOfOrder(reason="a round that the approved study does not have")
        tries = self._journal.uploads(self._plan.id, work.round)
        if not 1 <= work.attempt <= most_attempts(study) or tries >= study.attempts:
            raise OutOfOrder(reason="more attempts at a round than the approved study allows")
        if work.round == 1 and work.model.hex() != study.model.initial_model:
            raise WrongModel()

    async def _join(self, work: Work) -> Work:
        self._sat_out = (work.round, work.attempt)  # until the keys are out: a failed start is not repeated
        kind = _parsed(RoundKind, work.kind)
        self._check_round(work, kind)
        self._heads.check_alarm()
        self._lineage.check_alarm()
        vector = await self._lineage.reach(work.model, number=work.round, attempt=work.attempt)
        came_from = self._lineage.came_from
        await self._clearance.check(work.model, number=work.round, came_from=came_from)
        self._journal.join(self._plan.id, work.round, work.attempt, model=work.model, came_from=came_from)
        setting = setting_for(
            self._plan, number=work.round, attempt=work.attempt, kind=kind, model=work.model
        )
        party = secagg.Party(setting, self._index, self._identity)
        state, message = secagg.advertise(party, secrets.token_bytes)
        contribution = self._desk.prepare(work.round, work.attempt, kind, work.model, vector)
        self._attempt = Attempt(
            work.round, work.attempt, state, contribution, Phase.ADVERTISE, Phase.ADVERTISE
        )
        self._sat_out = None
        return await self._send(self._attempt, "advertise", message)

    async def _step(self, attempt: Attempt, phase: Phase, payload: bytes) -> Work | None:
        if phase is Phase.SHARE:
            attempt.state, message = secagg.share(
                attempt.state, Advertised.from_bytes(payload), secrets.token_bytes
            )
            work = await self._send(attempt, "shares", message)
        elif phase is Phase.COMMIT:
            await asyncio.wait({attempt.contribution}, timeout=POLL_S)
            if not attempt.contribution.done():
                return None
            attempt.contribution.result()  # a local failure surfaces here, before anything is promised
            work = await self._send(attempt, "ready", secagg.ready(attempt.state))
        elif phase is Phase.UPLOAD:
            work = await self._upload(attempt, Committed.from_bytes(payload))
        elif phase is Phase.AGREE:
            attempt.state, agreement = secagg.agree(attempt.state, Survivors.from_bytes(payload))
            told = agreement.to_bytes().hex()
            self._journal.note(self._plan.id, attempt.number, attempt.attempt, "agree", told)
            work = await self._send(attempt, "agree", agreement)
        else:
            shares = secagg.unmask(attempt.state, Quorum.from_bytes(payload))
            self._journal.note(self._plan.id, attempt.number, attempt.attempt, "unmask")
            work = await self._send(attempt, "unmask", shares)
        attempt.answered = phase
        return work

    async def _upload(self, attempt: Attempt, committed: Committed) -> Work:
        attempt.state = secagg.commit(attempt.state, committed)
        contribution = attempt.contribution.result()
        loop = asyncio.get_running_loop()
        kind = attempt.state.party.setting.context.kind
        masked = await loop.run_in_executor(None, self._masked, attempt.state, contribution)
        if kind is RoundKind.TRAIN:
            self._lineage.witness(
                Witness(
                    attempt.state.party.setting.context, attempt.state.committed_hash, attempt.state.check_key
                )
            )
        peers = tuple(attempt.state.peers)
        self._journal.upload(self._plan.id, attempt.number, attempt.attempt, advertised=peers)
        hashes = await self._send_segments(attempt, masked)
        work = await self._send(attempt, "upload", secagg.upload(attempt.state, hashes))
        log.info("update.sent", plan=self._plan.id, round=attempt.number, attempt=attempt.attempt)
        return work

    def _masked(self, state: secagg.CommittedState, contribution: Contribution) -> MaskedUpdate:
        study = self._plan.study
        none = np.zeros(0, np.uint64)
        return masked_update(
            contribution.update,
            params_for(study, state.party.setting.context.kind, len(self._plan.roster)),
            weight=contribution.weight,
            metrics=none if contribution.sums is None else encode_metrics(study, contribution.sums),
            check_key=state.check_key,
            index=self._index,
            masks=state.masks,
            random_bytes=secrets.token_bytes,
        )

    async def _send_segments(self, attempt: Attempt, masked: MaskedUpdate) -> list[bytes]:
        hashes = []
        for number, segment in enumerate(masked.segments()):
            data = bytes(segment)
            hashes.append(hashlib.sha256(data).digest())
            await self._transport.segment(
                self._plan.id, attempt.number, attempt.attempt, number, data, digest=hashes[-1]
            )
        return hashes

    async def _send(self, attempt: Attempt, kind: str, message: Signed) -> Work:
        """Hand in a message; its answer waits for news as a poll does, and tells what is next."""
        return self._taken(
            await self._transport.message(
                self._plan.id, attempt.number, attempt.attempt, kind, message.to_bytes(), wait_s=POLL_S
            )
        )

    def _leave(self, error: Error) -> None:
        """End this node's part in the attempt; it is never tried again with other input."""
        number, attempt = self._attempt.key if self._attempt else self._sat_out or (0, 0)
        self._attempt, self._sat_out = None, (number, attempt)
        late = isinstance(error, AggregatorProblem) and error.status == 409
        refused = isinstance(error, RemoteProtocolError) and not late
        event = "attempt.refused" if refused else "attempt.missed"
        log.warning(event, plan=self._plan.id, round=number, attempt=attempt, code=error.code)


def _parsed(words: type[Word], text: str) -> Word:
    try:
        return words(text)
    except ValueError as error:
        raise BadMessage() from error


async def run(node: Node, read: Callable[[Plan], SiteData]) -> None:
    """Work on every approved plan, one after the other, until stopped.

    Args:
        read: reads the hospital's images for a plan.
    """
    identity = Identity.load(node.settings.name, node.key)
    journal = Journal(node.journal)
    with closing(Records.open(node, identity, journal)) as records:
        async with Transport(node.settings.aggregator, node.authority, identity) as transport:
            transport.ledger_end = records.end_text
            await Office(node, identity, journal, records, transport, read).work()


@dataclass(frozen=True)
class _Prepared:
    """A plan whose images are being read, or were read at ``at`` (the event loop's seconds)."""

    plan: Plan
    desk: Desk
    agent: PlanAgent
    reading: asyncio.Future[None]
    at: float


class Office:
    """The plans that a hospital's operator has approved. One has its images in memory: in hand, or next."""

    def __init__(
        self,
        node: Node,
        identity: Identity,
        journal: Journal,
        records: Records,
        transport: Transport,
        read: Callable[[Plan], SiteData],
    ) -> None:
        self._node, self._identity, self._journal = node, identity, journal
        self._records, self._transport, self._read = records, transport, read
        self._finished: set[str] = set()
        self._prepared: _Prepared | None = None
        self._seen = ""

    async def work(self) -> None:
        """Go from plan to plan; never returns."""
        while True:
            try:
                plan, waiting = await self.next_plan()
                if plan is not None:
                    await self._work_on(plan)
                    self._finished.add(plan.id)
                    self._journal.finish(plan.id)
                    continue  # after a restart there may be years of finished plans to pass
                if waiting is not None:
                    await self._news_of(waiting)
                    continue
            except RemoteProtocolError as error:
                log.warning("aggregator.problem", code=error.code)
            await asyncio.sleep(IDLE_S)

    async def next_plan(self) -> tuple[Plan | None, Plan | None]:
        """The first approved plan that is not finished, is binding, and is within policy and budget.

        Returns: that plan, and one that waits for other hospitals' approvals; each None if there is none.
        """
        self._drop_what_is_old()
        offers, answer, heads = {}, await self._transport.offers(), Heads(self._journal)
        heads.take(answer.head)
        self._records.meet(answer.ledger)
        pinned, waiting = heads.key, None
        for offer in answer.offers:
            try:
                offers[read_offer(offer, pinned).id] = offer
            except (BadPlan, PlanRefused) as error:  # another plan's fault must not stop this hospital's
                log.warning("offer.refused", code=error.code)
        for plan, signature in self._journal.approved():
            if plan.id in self._finished or plan.id not in offers:
                continue
            offer = offers[plan.id]
            if self._node.settings.name not in offer.approvals:
                await self._prepare(plan)
                await self._transport.approve(plan.id, signature)
                waiting = plan
                continue
            try:
                binding(plan, offer)
                check_start(plan, self._journal)
                part = self._records.plans.part(plan.id)
                declared = None if part is None else part.declared
                check_plan(plan, self._node.settings, self._identity, declared=declared)
                self._records.register(plan)
            except REFUSALS as refused:
                log.info("plan.waiting", plan=plan.id, code=refused.code)
                waiting = plan if isinstance(refused, NotApproved) else waiting
                continue
            return plan, waiting
        return None, waiting

    async def _news_of(self, plan: Plan) -> None:
        """Wait a little, but no longer than until the first round of a plan is opened."""
        work = await self._transport.work(plan.id, seen=self._seen, wait_s=POLL_S)
        Heads(self._journal).take(work.head)
        self._seen = work.token
        await asyncio.sleep(NEWS_PAUSE_S)

    async def _prepare(self, plan: Plan) -> None:
        """Do ahead what needs no other hospital, before the approval is handed in and the plan may begin."""
        if self._prepared is not None:
            return
        desk, agent = self._open(plan)
        try:
            await agent.prepare()
        except Error as error:  # it shows again when the round wants what is missing
            log.info("plan.unprepared", plan=plan.id, code=error.code)
        reading = asyncio.wrap_future(desk.read_ahead())
        await asyncio.wait({reading}, timeout=PREPARE_S)
        self._prepared = _Prepared(plan, desk, agent, reading, asyncio.get_running_loop().time())

    def _drop_what_is_old(self) -> None:
        """Images change: a label is mended, a patient says no. A plan may begin weeks after its approval."""
        old = self._prepared
        if old is not None and old.reading.done() and asyncio.get_running_loop().time() > old.at + PREPARED_S:
            old.desk.close()
            self._prepared = None

    def _open(self, plan: Plan) -> tuple[Desk, PlanAgent]:
        """The desk and the agent for a plan; what was made ready for another one is given up."""
        ready, self._prepared = self._prepared, None
        if ready is not None and ready.plan == plan:
            return ready.desk, ready.agent
        if ready is not None:
            ready.desk.close()
        desk = Desk(
            plan,
            self._read,
            self._records,
            kept=Kept(self._node.kept, self._identity.secret_for(LABEL)),
        )
        return desk, PlanAgent(plan, self._node, self._identity, self._journal, desk, self._transport)

    async def _work_on(self, plan: Plan) -> None:
        desk, agent = self._open(plan)
        log.info("node.ready", plan=plan.id)
        try:
            await agent.follow()
            desk.finished()
        finally:
            desk.close()
