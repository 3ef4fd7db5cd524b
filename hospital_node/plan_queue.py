"""The plans that a hospital's operator has approved: followed side by side, computed in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from hospital_node import held_back, live, personal
from hospital_node.admins_word import AdminsWords, hear
from hospital_node.agent import IDLE_S, PlanAgent
from hospital_node.amendments import check_amendment
from hospital_node.attempt import POLL_S
from hospital_node.audit_witness import AuditWitness
from hospital_node.clearance import check_start
from hospital_node.cohort import CohortDamaged, CohortMissing
from hospital_node.computation import Computation
from hospital_node.demand import demand_of, memory_limit
from hospital_node.followed import Followed, Prepared, is_busy
from hospital_node.governance import PlanRefused, binding, check_plan, read_offer, well_formed
from hospital_node.held_back import HeldBack
from hospital_node.journal import Journal
from hospital_node.ledger import LedgerSetBack
from hospital_node.limits import confine_gpu_memory, opener_of
from hospital_node.line import STANDING, Patience, QueueLine
from hospital_node.on_record import recorded, tie, traced
from hospital_node.orders import EVERY_PLAN, Hold, Orders, TakesNoPart
from hospital_node.own_courses import LABEL as COURSES
from hospital_node.own_courses import OwnCourses, course_path
from hospital_node.personal import PersonalWeights
from hospital_node.records import Records
from hospital_node.relay import RelayLine, line_to_relay
from hospital_node.resting import Quiet
from hospital_node.room import with_room
from hospital_node.sentences import to_board
from hospital_node.settings import Node
from hospital_node.transport import Transport
from hospital_node.turns import Turns
from hospital_node.unsent import LABEL, Unsent
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity
from medveil.log import get_logger, heard
from medveil.messages import BadMessage, PlanOffer, Refusal
from medveil.plan import BadPlan, NotApproved, Plan, sign_refusal, valid_approvals
from medveil_imaging.cache import clear_cache
from privacy.dp.ledger import BudgetExceeded
from privacy.dp.policy import UnderstatedEpsilon

if TYPE_CHECKING:
    from medveil_imaging.sources.site import SiteData

PREPARE_S = 60.0
"""Longest that an approval waits for the images to be read."""
PREPARED_S = 900.0
"""Images that were read ahead are used for a plan that begins within this time, and read again after it."""
NEWS_PAUSE_S = 0.2
"""Shortest time between two looks at a plan that waits, whatever the aggregator calls news."""
LOOK_S = 1.0
"""Between two looks at what the operator has said."""
MOST_FOLLOWED = 8
"""Plans that are followed at a time; each has one request waiting at the aggregator, which allows 16."""
PLACE_S = 60.0
"""A plan gives its place up to another one, between two rounds, after this time at the earliest."""
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
    """Work on every approved plan, in turns, until stopped; while the disk is full, wait for room.

    Args:
        read: reads the hospital's images for a plan.
    """
    await with_room(node.folder, lambda: _with_files(node, read))


async def _with_files(node: Node, read: Callable[[Plan], SiteData]) -> None:
    """From the files as they are on disk, as after a crash."""
    identity = Identity.load(node.settings.name, node.key)
    journal = Journal(node.journal)
    board = live.Board(node)
    confine_gpu_memory(node.settings.policy)
    with (
        closing(Records.open(node, identity, journal)) as records,
        live.told_to(board),
        heard(to_board(board)),
    ):
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
        transport.pace.bytes_per_s = node.settings.policy.upload_bytes_per_s
        transport.check_plan = Orders(journal).check
        transport.word_known = AdminsWords(journal).known
        tie(transport.sent, records, journal)
        async with traced(node), recorded(node, transport.sent), line_to_relay(node, identity) as relay:
            if relay is not None:
                relay.sent.about, relay.check_plan = transport.sent.about, transport.check_plan
                relay.pace = transport.pace
            with closing(PlanQueue(node, identity, journal, records, transport, read, relay)) as queue:
                await queue.work()


class PlanQueue:
    """The approved plans of one node: each is followed by itself, and they compute in turns, round by round.

    What the operator says meanwhile (:mod:`hospital_node.orders`) is obeyed within ``LOOK_S``.
    """

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
        self._orders, self._patience, self._words = Orders(journal), Patience(), AdminsWords(journal)
        self._turns = Turns(memory_limit(node.settings.policy), opener_of(node))
        self._finished: set[str] = set()
        self._followed: dict[str, Followed] = {}
        self._later: list[str] = []
        """Plans that had a place and gave it up for others, the longest ago first."""
        self._prepared: Prepared | None = None
        self._seen = ""
        """The mark of what was last told of a plan that waits."""
        self._broken: asyncio.Future[None] | None = None
        """Ends with the fault of a plan that nobody knew what to do about."""
        self._told: dict[str, str] = {}
        """Plan → the code that was told of it last: what does not change is told once."""
        self._shown: set[str] = set()
        """Plans whose progress of earlier starts is shown."""

    async def work(self) -> None:
        """Follow every approved plan; returns when the operator has said that the node is to stop."""
        looking = asyncio.ensure_future(self._obey())
        going = asyncio.ensure_future(self._go_on())
        self._broken = asyncio.get_running_loop().create_future()
        try:
            done, _ = await asyncio.wait({looking, going, self._broken}, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            tasks = [looking, going, *(one.task for one in self._followed.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _go_on(self) -> None:
        self._note_plans({})
        while True:
            pause_s = IDLE_S
            try:
                await self._hand_in()
                if self._wants_a_place():
                    ready, waiting = await self.next_plans()
                    self._patience.answered()
                    for plan in ready:
                        self._follow(plan)
                    if waiting is not None:
                        await self._news_of(waiting)
                        continue
            except RemoteProtocolError as error:
                pause_s, news = self._patience.after(error)
                if error.code in STANDING and news and live.is_news(error):
                    log.warning("node.refused", code=error.code, reason=STANDING[error.code])
                elif error.code not in STANDING:
                    log.warning("aggregator.problem", code=error.code)
                live.note_problem(error)
            await asyncio.sleep(pause_s)

    def _wants_a_place(self) -> bool:
        """Whether there is an approved plan that nobody follows; else nobody asks for plans."""
        words = self._orders.words()
        return any(
            plan.id not in self._followed and plan.id not in words and not self._is_over(plan)
            for plan, _ in self._journal.approved()
        )

    def _is_over(self, plan: Plan) -> bool:
        if plan.id not in self._finished and self._journal.progress(plan.id) is None:
            self._finished.add(plan.id)
        return plan.id in self._finished

    # ---- what the operator says

    async def _obey(self) -> None:
        """Look at the operator's word every moment; returns when it is to stop. Raises: Resting."""
        own, quiet = live.own_birth(), Quiet()
        while True:
            words, holds = self._orders.words(), self._orders.holds()
            for plan in words:
                live.note_gone(plan)
                if plan in self._followed:
                    self._followed[plan].task.cancel()
            for hold in holds:
                if hold.kind == "leave":
                    self._leave(hold)
                if hold.kind == "stop":
                    self._orders.release(hold.plan, "stop")
                    if (hold.round, hold.reason) == own:
                        return
            live.note_held(
                paused=any(one.kind == "pause" and one.plan == EVERY_PLAN for one in holds),
                leaving={one.plan for one in holds if one.kind == "leave"},
            )
            quiet.look(self._followed, busy=is_busy(self._prepared, self._followed))
            await asyncio.sleep(LOOK_S)

    def _leave(self, hold: Hold) -> None:
        """Take the approval back, once this node's part in the round is over."""
        one = self._followed.get(hold.plan)
        plan = self._journal.plan(hold.plan)
        if plan is None or (one is not None and not one.agent.has_left(hold.round)):
            return
        signature = sign_refusal(plan, self._identity, "withdrawn", hold.reason)
        self._orders.say(hold.plan, "withdrawn", hold.reason, signature)
        if one is not None:
            one.task.cancel()

    async def _hand_in(self) -> None:
        """Tell the aggregator in which plans this hospital takes no part."""
        for word in self._orders.words().values():
            if word.handed_in:
                continue
            told = Refusal(kind=word.kind, reason=word.reason, signature=word.signature)
            await self._line.refuse(word.plan, told)
            self._orders.was_handed_in(word)
            log.info("plan.left", plan=word.plan, kind=word.kind)

    # ---- which plan

    def forget_images(self) -> None:
        """Nothing of the images stays on the node's disk when no plan wants them."""
        words = self._orders.words()
        if all(
            self._journal.progress(plan.id) is None or plan.id in words
            for plan, _ in self._journal.approved()
        ):
            with suppress(OSError):
                clear_cache(self._node.cache)

    def close(self) -> None:
        """The node is to stop: end the reading of images for a plan that has not begun."""
        if self._prepared is not None:
            self._prepared.computation.close()

    async def next_plans(self) -> tuple[list[Plan], Plan | None]:
        """The approved plans that nobody follows yet, and that are binding and within policy and budget.

        Returns: those plans, and one that waits for other hospitals' approvals, if there is one.
        """
        self._drop_what_is_old()
        offers, ready, waiting = await self._offers(), [], None
        self._note_plans(offers)
        words = self._orders.words()
        for plan, signature in self._in_order():
            if plan.id in words or self._is_over(plan) or plan.id not in offers:
                continue
            if self._node.settings.name not in offers[plan.id].approvals:
                live.note(plan.id, stand="preparing", waits_for="this hospital's images and the first model")
                if plan.before is None or self._journal.plan(plan.before.id) is None:
                    await self._prepare(plan)  # who stays has the images and the model in hand
                self._orders.check(plan.id)
                await self._line.approve(plan.id, signature)
                waiting = plan
                continue
            try:
                self._admit(plan, offers[plan.id])
            except REFUSALS as refused:
                self._waits(plan, refused)
                waiting = plan if isinstance(refused, NotApproved) else waiting
                continue
            if plan.before is not None and plan.before.id in self._followed:
                live.note(plan.id, stand="waiting", waits_for="the roster before it, which still works")
                waiting = plan
                continue
            self._told.pop(plan.id, None)
            ready.append(plan)
        return ready, waiting

    def _in_order(self) -> list[tuple[Plan, bytes]]:
        """Approved plans that nobody follows: who gave a place up for others comes after those."""
        found = [(plan, s) for plan, s in self._journal.approved() if plan.id not in self._followed]
        return sorted(found, key=lambda one: self._later.index(one[0].id) if one[0].id in self._later else -1)

    def _waits(self, plan: Plan, refused: Error) -> None:
        """Said once, and when it changes."""
        live.note_waiting(plan.id, refused)
        if self._told.get(plan.id) != refused.code:
            self._told[plan.id] = refused.code
            log.info("plan.waiting", plan=plan.id, code=refused.code, reason=refused.remedy)

    def _note_plans(self, offers: dict[str, PlanOffer]) -> None:
        """Tell which approved plans there are, and how many hospitals have signed each."""
        words = self._orders.words()
        plans = {
            plan.id: plan
            for plan, _ in self._journal.approved()
            if plan.id not in words and not self._is_over(plan)
        }
        live.note_only(set(plans))
        for one, plan in plans.items():
            offer = offers.get(one)
            valid = 0 if offer is None else valid_approvals(plan, dict(offer.approvals))
            begun = {} if one in self._shown else {"round": self._journal.progress(one) or 0}
            self._shown.add(one)
            live.note(one, study=plan.study.name, rounds=plan.study.training.rounds + 1, **begun)
            live.note(one, approvals=valid, approvals_needed=plan.approvals_needed)

    async def _offers(self) -> dict[str, PlanOffer]:
        """Plan → what the aggregator offers of it. One bad offer stops no other."""
        audit = AuditWitness(self._journal)
        asked = audit.asked()
        answer = await self._line.offers()
        audit.take(answer.head, asked=asked)
        self._records.meet(answer.ledger)
        found, pinned = {}, audit.key
        hear(self._words, answer.directives, pinned)
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
        check_amendment(plan, self._journal)
        part = self._records.plans.part(plan.lineage)
        declared = None if part is None else part.declared
        check_plan(plan, self._node.settings, self._identity, declared=declared)
        self._records.register(plan)

    async def _news_of(self, plan: Plan) -> None:
        """Wait a little, but no longer than until the first round of a plan is opened."""
        audit = AuditWitness(self._journal)
        asked = audit.asked()
        work = await self._line.work(plan.id, seen=self._seen, wait_s=POLL_S)
        audit.take(work.head, asked=asked)
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
        self._prepared = Prepared(plan, computation, agent, reading, now())
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
        unsent = Unsent.of_plan(self._node, plan.lineage, self._identity.secret_for(LABEL))
        held = None
        if plan.study.compression is not None:
            held = HeldBack(self._node.models, plan, self._identity.secret_for(held_back.LABEL))
        courses = OwnCourses(course_path(self._node.models, plan.lineage), self._identity.secret_for(COURSES))
        own = None
        if plan.study.model.personal:
            own = PersonalWeights(self._node.models, plan, self._identity.secret_for(personal.LABEL))
        computation = Computation(
            plan,
            self._read,
            self._records,
            unsent=unsent,
            held=held,
            courses=courses,
            personal=own,
            turns=self._turns,
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

    def _follow(self, plan: Plan) -> None:
        """Give a plan a place, now or when one is free: nobody waits for more than a round of the others."""
        if plan.id in self._followed:
            return
        if len(self._followed) >= MOST_FOLLOWED and not self._give_up_a_place():
            live.note(plan.id, stand="waiting", waits_for="the other studies of this hospital")
            return
        with suppress(ValueError):
            self._later.remove(plan.id)
        computation, agent = self._open(plan)
        self._turns.join(
            plan.id,
            size=demand_of(plan, self._node.settings).memory_bytes,
            forget=computation.forget_images,
        )
        task = asyncio.ensure_future(self._work_on(plan, computation, agent))
        self._followed[plan.id] = Followed(plan, agent, task, asyncio.get_running_loop().time())
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        for plan, one in list(self._followed.items()):
            if one.task is task:
                del self._followed[plan]
        if not task.cancelled() and (fault := task.exception()) and self._broken and not self._broken.done():
            self._broken.set_exception(fault)

    def _give_up_a_place(self) -> bool:
        """Whether a plan between two rounds, which has had its place for long enough, makes room."""
        now = asyncio.get_running_loop().time()
        for plan, one in self._followed.items():
            if one.agent.between_rounds and now - one.since > PLACE_S:
                self._later.append(plan)
                one.task.cancel()
                del self._followed[plan]
                return True
        return False

    async def _work_on(self, plan: Plan, computation: Computation, agent: PlanAgent) -> None:
        log.info("node.ready", plan=plan.id)
        over = False
        try:
            await agent.follow()
            over = agent.at_its_end  # else another roster may go on with what is kept
            self._finished.add(plan.id)
            self._journal.finish(plan.id)
        except TakesNoPart:
            pass  # its operator has said so, and the loop that looks has seen it or will
        finally:
            self._turns.leave(plan.id)
            await asyncio.to_thread(
                computation.close
            )  # a step in hand ends first; the others go on meanwhile
            left = self._orders.word(plan.id) is not None
            if over or left:
                computation.finished()
            if plan.id in self._finished or left:
                self.forget_images()
                live.note_gone(plan.id)
