"""The plans that a hospital's operator has approved, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from hospital_node import held_back, live, personal
from hospital_node.agent import IDLE_S, PlanAgent
from hospital_node.attempt import POLL_S
from hospital_node.audit_witness import AuditWitness
from hospital_node.clearance import check_start
from hospital_node.cohort import CohortDamaged, CohortMissing
from hospital_node.computation import Computation
from hospital_node.frozen import SentAnchor
from hospital_node.governance import PlanRefused, binding, check_plan, read_offer, well_formed
from hospital_node.held_back import HeldBack
from hospital_node.journal import Journal
from hospital_node.ledger import LedgerSetBack
from hospital_node.line import QueueLine
from hospital_node.own_courses import LABEL as COURSES
from hospital_node.own_courses import OwnCourses, course_path
from hospital_node.personal import PersonalWeights
from hospital_node.records import Records
from hospital_node.relay import RelayLine, line_to_relay
from hospital_node.settings import Node
from hospital_node.transmissions.entries import BadTransmission, NotRecorded
from hospital_node.transmissions.record import About, SentRecord
from hospital_node.transport import Transport
from hospital_node.unsent import LABEL, Unsent
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity
from medveil.log import get_logger
from medveil.messages import BadMessage, PlanOffer
from medveil.plan import BadPlan, NotApproved, Plan, valid_approvals
from medveil_imaging.cache import clear_cache
from medveil_imaging.sources.site import SiteData
from privacy.dp.ledger import BudgetExceeded
from privacy.dp.policy import UnderstatedEpsilon

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
log = get_logger()


async def run(node: Node, read: Callable[[Plan], SiteData]) -> None:
    """Work on every approved plan, one after the other, until stopped.

    Args:
        read: reads the hospital's images for a plan.
    """
    identity = Identity.load(node.settings.name, node.key)
    journal = Journal(node.journal)
    board = live.Board(node)
    with closing(Records.open(node, identity, journal)) as records, live.told_to(board):
        writing = asyncio.ensure_future(board.keep())
        try:
            await _work(node, identity, journal, records, read)
        finally:
            writing.cancel()
            board.close()


async def _work(
    node: Node, identity: Identity, journal: Journal, records: Records, read: Callable[[Plan], SiteData]
) -> None:
    async with Transport(
        node.settings.aggregator, node.authority, identity, proxy=node.settings.proxy
    ) as transport:
        transport.ledger_end = records.end_text
        on_record(transport.sent, records, journal)
        async with line_to_relay(node, identity) as relay:
            if relay is not None:
                relay.sent.about = transport.sent.about
            with closing(PlanQueue(node, identity, journal, records, transport, read, relay)) as queue:
                await queue.work()


def on_record(sent: SentRecord, records: Records, journal: Journal) -> None:
    """Let the record of transmissions know what the ledger and the journal know. Raises: NotRecorded."""
    sent.about = lambda plan: About(records.charged(plan), journal.approver(plan))
    if not sent.tie(SentAnchor(journal)):
        log.error("sent.set-back", code=BadTransmission.code)


@dataclass(frozen=True)
class _Prepared:
    """A plan whose images are being read, or were read at ``at`` (the event loop's seconds)."""

    plan: Plan
    computation: Computation
    agent: PlanAgent
    reading: asyncio.Future[None]
    at: float


class PlanQueue:
    """The approved plans of one node. One has its images in memory: in hand, or next."""

    def __init__(
        self,
        node: Node,
        identity: Identity,
        journal: Journal,
        records: Records,
        line: QueueLine,
        read: Callable[[Plan], SiteData],
        relay: RelayLine | None = None,
    ) -> None:
        self._relay = relay
        self._node, self._identity, self._journal = node, identity, journal
        self._records, self._line, self._read = records, line, read
        self._finished: set[str] = set()
        self._prepared: _Prepared | None = None
        self._seen = ""
        """The mark of what was last told of a plan that waits."""

    async def work(self) -> None:
        """Go from plan to plan; never returns."""
        while True:
            try:
                plan, waiting = await self.next_plan()
                if plan is not None:
                    await self._work_on(plan)
                    self._finished.add(plan.id)
                    self._journal.finish(plan.id)
                    self.forget_images()
                    continue  # after a restart there may be years of finished plans to pass
                if waiting is not None:
                    await self._news_of(waiting)
                    continue
            except RemoteProtocolError as error:
                log.warning("aggregator.problem", code=error.code)
                live.note_problem(error)
            except NotRecorded as error:
                log.error("sent.not-recorded", code=error.code)
                live.note_problem(error)
            await asyncio.sleep(IDLE_S)

    def forget_images(self) -> None:
        """Nothing of the images stays on the node's disk when no plan wants them."""
        if all(self._journal.progress(plan.id) is None for plan, _ in self._journal.approved()):
            with suppress(OSError):
                clear_cache(self._node.cache)

    def close(self) -> None:
        """The node is to stop: end the reading of images for a plan that has not begun."""
        if self._prepared is not None:
            self._prepared.computation.close()

    async def next_plan(self) -> tuple[Plan | None, Plan | None]:
        """The first approved plan that is not finished, is binding, and is within policy and budget.

        Returns: that plan, and one that waits for other hospitals' approvals; each None if there is none.
        """
        self._drop_what_is_old()
        offers, waiting = await self._offers(), None
        self._note_plans(offers)
        for plan, signature in self._journal.approved():
            if plan.id in self._finished or plan.id not in offers:
                continue
            if self._node.settings.name not in offers[plan.id].approvals:
                live.note(plan.id, stand="preparing", waits_for="this hospital's images and the first model")
                await self._prepare(plan)
                await self._line.approve(plan.id, signature)
                waiting = plan
                continue
            try:
                self._admit(plan, offers[plan.id])
            except REFUSALS as refused:
                log.info("plan.waiting", plan=plan.id, code=refused.code)
                live.note_waiting(plan.id, refused)
                waiting = plan if isinstance(refused, NotApproved) else waiting
                continue
            return plan, waiting
        return None, waiting

    def _note_plans(self, offers: dict[str, PlanOffer]) -> None:
        """Tell which approved plans there are, and how many hospitals have signed each."""
        plans = {plan.id: plan for plan, _ in self._journal.approved()}
        going_on = {
            one for one in plans if one not in self._finished and self._journal.progress(one) is not None
        }
        live.note_only(going_on)
        for one in going_on:
            plan, offer = plans[one], offers.get(one)
            valid = 0 if offer is None else valid_approvals(plan, dict(offer.approvals))
            live.note(one, study=plan.study.name, rounds=plan.study.training.rounds + 1)
            live.note(one, approvals=valid, approvals_needed=plan.approvals_needed)

    async def _offers(self) -> dict[str, PlanOffer]:
        """Plan → what the aggregator offers of it. One bad offer stops no other."""
        answer, audit = await self._line.offers(), AuditWitness(self._journal)
        audit.take(answer.head)
        self._records.meet(answer.ledger)
        found, pinned = {}, audit.key
        for sent in answer.offers:
            try:
                offer = well_formed(sent)
                found[read_offer(offer, pinned).id] = offer
            except (BadMessage, BadPlan, PlanRefused) as error:
                log.warning("offer.refused", code=error.code)
        return found

    def _admit(self, plan: Plan, offer: PlanOffer) -> None:
        """Hold an approved plan against today's approvals, policy and budget. Raises: one of REFUSALS."""
        binding(plan, offer)
        check_start(plan, self._journal)
        part = self._records.plans.part(plan.id)
        declared = None if part is None else part.declared
        check_plan(plan, self._node.settings, self._identity, declared=declared)
        self._records.register(plan)

    async def _news_of(self, plan: Plan) -> None:
        """Wait a little, but no longer than until the first round of a plan is opened."""
        work = await self._line.work(plan.id, seen=self._seen, wait_s=POLL_S)
        AuditWitness(self._journal).take(work.head)
        self._seen = work.mark
        await asyncio.sleep(NEWS_PAUSE_S)

    async def _prepare(self, plan: Plan) -> None:
        """Do ahead what needs no other hospital, before the approval is handed in and the plan may begin."""
        if self._prepared is not None:
            return
        computation, agent = self._open(plan)
        try:
            await agent.prepare()
        except Error as error:  # it shows again when the round wants what is missing
            log.info("plan.unprepared", plan=plan.id, code=error.code)
        reading, now = asyncio.wrap_future(computation.read_ahead()), asyncio.get_running_loop().time
        self._prepared = _Prepared(plan, computation, agent, reading, now())
        await asyncio.wait({reading}, timeout=PREPARE_S)
        self._prepared = replace(self._prepared, at=now())

    def _drop_what_is_old(self) -> None:
        """Images change: a label is mended, a patient says no. A plan may begin weeks after its approval."""
        old = self._prepared
        if old is not None and old.reading.done() and asyncio.get_running_loop().time() > old.at + PREPARED_S:
            old.computation.close()
            self._prepared = None

    def _open(self, plan: Plan) -> tuple[Computation, PlanAgent]:
        """Computation and agent of a plan; what was made ready for another one is given up."""
        ready, self._prepared = self._prepared, None
        if ready is not None and ready.plan == plan:
            return ready.computation, ready.agent
        if ready is not None:
            ready.computation.close()
        unsent = Unsent(self._node.unsent, self._identity.secret_for(LABEL))
        held = None
        if plan.study.compression is not None:
            held = HeldBack(self._node.models, plan, self._identity.secret_for(held_back.LABEL))
        courses = OwnCourses(course_path(self._node.models, plan.id), self._identity.secret_for(COURSES))
        own = None
        if plan.study.model.personal:
            own = PersonalWeights(self._node.models, plan, self._identity.secret_for(personal.LABEL))
        computation = Computation(
            plan, self._read, self._records, unsent=unsent, held=held, courses=courses, personal=own
        )
        agent = PlanAgent(
            plan,
            self._node,
            self._identity,
            self._journal,
            computation,
            self._line,
            held,
            relay=self._relay,
        )
        return computation, agent

    async def _work_on(self, plan: Plan) -> None:
        computation, agent = self._open(plan)
        log.info("node.ready", plan=plan.id)
        try:
            await agent.follow()
            computation.finished()
        finally:
            computation.close()
