"""The node at work on one plan: follow it from round to round, join attempts, answer, leave, give up.

Trust ends here: whatever the aggregator says goes through ``governance`` and ``privacy.secagg.node``, and a
refusal is final for the attempt.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from functools import partial
from typing import TypeVar

from hospital_node import live
from hospital_node.admins_word import AdminsWords, hear
from hospital_node.amendments import check_turn
from hospital_node.attempt import POLL_S, Attempt, OutOfOrder
from hospital_node.audit_witness import AuditWitness
from hospital_node.clearance import Clearance
from hospital_node.contribution import ContributionSource, Lasting
from hospital_node.held_back import HeldBack
from hospital_node.journal import Journal
from hospital_node.limits import outside_hours
from hospital_node.line import STANDING, AggregatorProblem, Line, Patience
from hospital_node.lineage import Lineage, WrongModel
from hospital_node.orders import Gate, Orders, TakesNoPart
from hospital_node.relay import RelayLine
from hospital_node.resting import rested
from hospital_node.settings import Node
from hospital_node.steps import AlreadyDone
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity
from medveil.log import get_logger
from medveil.messages import BadMessage, Work
from medveil.plan import Plan
from medveil.rounds import AttemptKey, Phase, RoundKind, kind_of, most_attempts
from privacy.secagg.closing import vow
from privacy.secagg.keys import setting_for
from privacy.secagg.messages import Published
from privacy.secagg.node import Party

IDLE_S = 2.0
"""Between two looks at what there is to do."""
Word = TypeVar("Word", bound=StrEnum)


class _Waited(Exception):
    """A poll was refused; that is told, and the time to wait is over."""


log = get_logger()


class PlanAgent:
    """Follows one plan from its approval to its end."""

    def __init__(
        self,
        plan: Plan,
        node: Node,
        identity: Identity,
        journal: Journal,
        computation: ContributionSource,
        line: Line,
        held: HeldBack | None = None,
        *,
        relay: RelayLine | None = None,
    ) -> None:
        member = plan.member(node.settings.name)
        assert member is not None  # check_plan has seen it
        self._plan, self._index, self._identity = plan, member.index, identity
        self._journal, self._computation, self._line = journal, computation, line
        self._attempt: Attempt | None = None
        self._sat_out: AttemptKey | None = None
        """The attempt that this node has left, or comes too late for."""
        self._given_up: AttemptKey | None = None
        """The last attempt that this node has told the aggregator to give up."""
        self._seen = ""
        """The mark of the work that this node was told last."""
        self._held, self._relay = held, relay
        hours = partial(outside_hours, node.settings.policy)
        self._gate, self._patience = Gate(plan.id, Orders(journal), hours), Patience()
        self._told: Work | None = None
        """What the aggregator has told last."""
        self._lineage = Lineage(plan, node.models, journal, line, self._passed, index=member.index)
        self._clearance = Clearance(plan, journal, line)
        self._audit, self._words = AuditWitness(journal), AdminsWords(journal)
        self._asked = self._audit.asked()
        """The audit log's newest head when the last question was asked."""

    async def follow(self) -> None:
        """Answer phase after phase until the plan is finished.

        A problem on either side ends this node's part in the attempt and is logged with its code; the others
        go on without it, and the next round is a new chance.

        Raises: TakesNoPart if the operator has taken the approval back. An error that is Lasting:
            nothing goes on before the node's files are opened again.
        """
        work: Work | None = None
        begun = False
        while True:
            try:
                if work is None:
                    work = await self._poll()
                self._told = work
                self._note(work)
                if work.status == "finished":
                    self._audit.settle()
                    log.info("plan.finished", plan=self._plan.id)
                    return
                if not begun:
                    begun = True
                    if self._plan.id not in rested():
                        self._computation.read_ahead()
                work = await self._answer(work)
            except _Waited:
                work = None
            except TakesNoPart:
                raise
            except Error as error:
                if isinstance(error, Lasting):
                    raise
                work = None
                self._leave(error)

    async def prepare(self) -> None:
        """Fetch the first model, or load one's own. Raises: what :meth:`Lineage.begin` raises."""
        await self._lineage.begin()

    def _passed(self, published: Published, parent: bytes, summed: bool) -> None:
        if self._held is not None:
            self._held.passed(published.round, parent, summed=summed)

    async def _poll(self) -> Work:
        """Ask for work; waits at the aggregator for news, unless this hospital itself is waited for."""
        attempt = self._attempt
        left = self._sat_out if attempt is None else None
        wait_s = 0.0 if attempt is not None and attempt.computing else POLL_S
        told: dict[str, bool] = {"away": True} if attempt is None and self._closed() else {}
        try:
            self._asked = self._audit.asked()
            work = await self._line.work(
                self._plan.id, seen=self._seen, wait_s=wait_s, sitting_out=left, **told
            )
        except TakesNoPart:
            raise
        except Error as error:
            pause_s, news = self._patience.after(error)
            self._refused(error, news=news)
            await asyncio.sleep(pause_s)  # a refusal of every poll must not become a flood of them
            raise _Waited() from error
        self._patience.answered()
        return self._heard(work)

    def _refused(self, error: Error, *, news: bool) -> None:
        """Tell of a refused poll; of one that only a person can mend once, in words, and for all plans."""
        if error.code not in STANDING:
            self._leave(error)
            return
        self._attempt = None
        if news and live.is_news(error):
            log.warning("node.refused", code=error.code, reason=STANDING[error.code])
        live.note(self._plan.id, stand="waiting", waits_for=STANDING[error.code], code=error.code)
        live.note_problem(error)

    def _closed(self, number: int = 0) -> str:
        """Why this hospital joins no attempt at a round now (0: at any); empty if it does."""
        return self._gate.closed(number)

    @property
    def between_rounds(self) -> bool:
        """Whether it has no attempt in hand."""
        return self._attempt is None

    @property
    def at_its_end(self) -> bool:
        """Whether the study's last round has been tried, as far as this node has taken part."""
        return (self._journal.progress(self._plan.id) or 0) > self._plan.study.training.rounds

    @property
    def is_busy(self) -> bool:
        """Whether it has an attempt in hand, or its images are read or anything computed."""
        return self._attempt is not None or self._computation.is_busy

    def has_left(self, number: int) -> bool:
        """Whether this node's part in a round, and in all before it, is over."""
        if self._attempt is not None:
            return False
        told = self._told
        ahead = told is not None and told.status == "running" and told.round <= number
        return not (ahead and told is not None and self._key(told) != self._sat_out)

    def _heard(self, work: Work) -> Work:
        """Work that came with an answer of any kind, its audit head held against those before."""
        attempt = self._key(work) if work.status == "running" else None
        self._audit.take(work.head, attempt, asked=self._asked)
        if work.directive is not None:
            hear(self._words, [work.directive], self._audit.key, plan=self._plan.id)
        self._seen = work.mark
        return work

    def _note(self, work: Work) -> None:
        """Tell whoever looks at this node where it stands in the plan."""
        attempt, running = self._attempt, work.status == "running"
        joined = attempt is not None and attempt.key == self._key(work)
        answered = attempt is not None and attempt.answered == work.phase
        stand, waits_for = live.waiting_in(work, joined=joined, answered=answered)
        why = self._words.halted(self._plan.id) or self._closed(work.round)
        if not joined and stand != "finished" and why:
            stand, waits_for = "away", why
        live.note(
            self._plan.id,
            stand=stand,
            waits_for=waits_for,
            code="",
            **({"round": work.round} if work.round else {}),  # between two rounds the last one stays
            attempt=work.attempt if running else 0,
            phase=work.phase if running else "",
        )

    async def _answer(self, work: Work) -> Work | None:
        """Do what is asked; the work that came with the answer to it, None if nothing was to be sent."""
        key = self._key(work)
        if self._attempt is not None and (work.status != "running" or self._attempt.key != key):
            self._attempt = None
        if work.status != "running":
            return None
        if work.phase == Phase.ABORT:
            return await self._give_up(key)
        if key == self._sat_out:
            return None
        phase = _parsed(Phase, work.phase)
        self._asked = self._audit.asked()
        if self._attempt is not None:
            told = await self._attempt.answer(phase, work.payload)
            return None if told is None else self._heard(told)
        self._sat_out = key  # of one that it joins, until its keys are out: a failed start is not repeated
        if phase is Phase.ADVERTISE and (self._closed(key.round) or self._words.halted(self._plan.id)):
            return None
        if phase is Phase.ADVERTISE:
            return await self._join(work)
        # Its keys went with the process that joined; without a word the others would wait for it.
        log.info("attempt.sat-out", **key.where)
        return None

    async def _join(self, work: Work) -> Work:
        """Take part in an attempt, if the model and all before it are what this node has approved."""
        key, kind = self._key(work), _parsed(RoundKind, work.kind)
        self._check_round(work, kind)
        self._audit.check_alarm()
        self._lineage.check_alarm()
        told = None if work.version is None else (work.version, work.proof)
        vector = await self._lineage.reach(work.model, number=work.round, attempt=work.attempt, told=told)
        came_from = self._lineage.came_from
        await self._clearance.check(work.model, number=work.round, came_from=came_from)
        check_turn(self._plan, self._journal, made_in=self._lineage.made_in)
        self._journal.join(key, model=work.model, came_from=came_from)
        self._attempt = Attempt(
            self._plan,
            self._party(key, work.model),
            self._computation.prepare(key, kind, work.model, vector, self._lineage.course),
            journal=self._journal,
            line=self._line,
            remember=self._lineage.remember,
            relay=self._relay,
        )
        self._sat_out = None
        return self._heard(await self._attempt.begin())

    def _check_round(self, work: Work, kind: RoundKind) -> None:
        """Hold the invitation against the approved study: which rounds there are, and where it starts."""
        study, first = self._plan.study, self._plan.first_round
        if not first <= work.round <= study.training.rounds + 1 or kind is not kind_of(study, work.round):
            raise OutOfOrder(reason="a round that the approved study does not have")
        tries = self._journal.uploads(self._plan.id, work.round)
        if not 1 <= work.attempt <= most_attempts(study) or tries >= study.attempts:
            raise OutOfOrder(reason="more attempts at a round than the approved study allows")
        if work.round == 1 and work.model.hex() != study.model.initial_model:
            raise WrongModel()

    async def _give_up(self, key: AttemptKey) -> Work | None:
        """The attempt has failed: promise, on disk first, that this node never unmasks in it.

        Its keys are forgotten, so that it cannot. Once it has unmasked it does not promise; the others' word,
        or the sum, ends the attempt then.
        """
        self._attempt, self._sat_out = None, key
        if self._given_up == key:
            return None
        try:
            model = self._journal.give_up(key)
        except AlreadyDone as error:
            log.info("attempt.kept", **key.where, code=error.code)
            self._given_up = key
            return None
        body, self._asked = vow(self._party(key, model)).to_bytes(), self._audit.asked()
        work = await self._line.message(key, "abort", body, wait_s=POLL_S)
        self._given_up = key
        log.warning("attempt.aborted", **key.where)
        return self._heard(work)

    def _leave(self, error: Error) -> None:
        """End this node's part in the attempt; it is never tried again with other input."""
        key = self._attempt.key if self._attempt else self._sat_out or AttemptKey(self._plan.id, 0, 0)
        self._attempt, self._sat_out = None, key
        late = isinstance(error, AggregatorProblem) and error.status == 409
        refused = isinstance(error, RemoteProtocolError) and not late
        event = "attempt.refused" if refused else "attempt.missed"
        log.warning(event, **key.where, code=error.code)
        live.note(
            self._plan.id, waits_for="the next attempt: this hospital is not in this one", code=error.code
        )
        live.note_problem(error)

    def _key(self, work: Work) -> AttemptKey:
        return AttemptKey(self._plan.id, work.round, work.attempt)

    def _party(self, key: AttemptKey, model: bytes) -> Party:
        kind = kind_of(self._plan.study, key.round)
        setting = setting_for(self._plan, number=key.round, attempt=key.attempt, kind=kind, model=model)
        return Party(setting, self._index, self._identity)


def _parsed(words: type[Word], text: str) -> Word:
    try:
        return words(text)
    except ValueError as error:
        raise BadMessage() from error
