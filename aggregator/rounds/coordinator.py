"""The life of a plan: rounds, attempts, phases. One message, one transaction; a restart is a reload.

The state of an attempt is the list of its messages and phase closings in the store, replayed through
``privacy.secagg.server``. Everything here runs on one thread, called by the routes and by a clock, unless it
says that any thread may call it.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Container, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import replace
from typing import BinaryIO, Literal, ParamSpec, TypedDict, TypeVar

from aggregator.auditlog import Head
from aggregator.errors import NotFound
from aggregator.rounds import endings
from aggregator.rounds.replay import new_attempt, replayed
from aggregator.rounds.runs import (
    Attempt,
    Publication,
    Run,
    SegmentClaim,
    StillWriting,
    UnmaskingLost,
    UnmaskingStuck,
    WrongRound,
    token_of,
)
from aggregator.storage.blobs import Blobs, StorageFailed
from aggregator.storage.ledgerends import LedgerEnds
from aggregator.storage.store import CLOSE, GIVE_UP, Store
from aggregator.work.unmasking import Summing, WrongLength, segment_lengths, sum_segment
from aggregator.work.versions import Made, Making, Step, make, stand_by, sum_and_make, utc
from aggregator.work.workers import Failure, Inline
from aggregator.work.workers import attempt as attempt_job
from medveil.errors import Error
from medveil.identity import verify
from medveil.log import get_logger
from medveil.messages import AuditHead, PlanOffer, PlanOffers, Work
from medveil.metrics import headline, noise_in_sum, summarise
from medveil.plan import NotApproved, check_approvals
from medveil.reports import AttemptReport, Damaged, OpenAttempt, PlanLine, PlanStatus, Waiting
from medveil.rounds import EARLY, AttemptKey, ModelVersion, Phase, RoundKind
from medveil.study import Deadlines
from privacy.secagg import server
from privacy.secagg.keys import PROTOCOL
from privacy.secagg.messages import MESSAGES, HospitalMessage, Published, Upload

P = ParamSpec("P")
T = TypeVar("T")
log = get_logger()
TOGETHER = 1
"""Sums of so many segments and their models are one job, for one worker."""
MAX_LOST = 3
"""Times a sum is handed to the workers when they end without a result, or do not end."""
WORK_LIMIT_S = 1800.0
"""For one try at a sum: twenty times what 25 million parameters of 50 hospitals take on two cores."""


_PHASE_OF = {message: phase for phase, message in server.EXPECTS.items()}


class _Measured(TypedDict):
    """What every report tells, however the attempt ended."""

    round: int
    attempt: int
    kind: RoundKind
    seconds: float
    phases: dict[str, float]
    advertised: tuple[str, ...]
    committed: tuple[str, ...]
    survivors: tuple[str, ...]
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    wrong_shares: tuple[str, ...]


class _JobFailed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code)
        self.failure = failure


class Coordinator:
    """All plans of this aggregator.

    Args:
        workers: runs the heavy jobs; by default at once and in this thread.
        clock: monotonic seconds, for deadlines. wall_clock: Unix seconds, for records.
    """

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        *,
        workers: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._blobs = store, blobs
        self.ledger_ends = LedgerEnds(store)
        self._succession = store.succession()  # it changes only while nobody leads
        self._workers = workers or Inline()
        self._clock, self._wall_clock = clock, wall_clock
        self.on_result: Callable[[], object] = lambda: None
        """Called, on any thread, when a job has ended: the next tick has something to do."""
        self._seen: dict[str, float] = {}
        self._runs: dict[str, Run] = {}
        self._claims: set[SegmentClaim] = set()
        self._looked_at: int | None = None
        self._take_up()

    # ---- what the routes ask ------------------------------------------------------------------------------

    def touch(self, name: str) -> None:
        """This hospital has just been heard from."""
        self._seen[name] = self._clock()

    def sits_out(self, key: AttemptKey, name: str) -> None:
        """This hospital has left this attempt: nobody waits for it. Raises: NotFound."""
        current = self._run(key.plan, name).attempt
        if current is not None and current.key == key:
            current.sitting_out.add(name)

    def count_bytes(self, plan: str, name: str, *, up: int, down: int) -> None:
        """Traffic of a hospital, booked on the attempt that is open."""
        run = self._runs.get(plan)
        if run is not None and run.attempt is not None:
            run.attempt.bytes_up[name] += up
            run.attempt.bytes_down[name] += down

    def offers(self, name: str) -> PlanOffers:
        """Every plan whose roster names this hospital."""
        self.reload()
        mine = [run for run in self._runs.values() if run.plan.member(name) is not None]
        return PlanOffers(
            offers=tuple(
                PlanOffer(
                    plan=run.plan.model_dump_json(),
                    admin_key=self._store.admin_key,
                    admin_signature=run.admin_signature,
                    approvals=dict(run.approvals),
                )
                for run in mine
            ),
            head=self._audit_head(),
            ledger=self.ledger_ends.newest(name),
        )

    def approve(self, plan_id: str, name: str, signature: bytes) -> None:
        """Keep a hospital's approval. Raises: NotFound, BadSignature."""
        run = self._run(plan_id, name)
        member = run.plan.member(name)
        assert member is not None  # _run has checked it
        verify(member.key, signature, "approve-plan", run.plan.hash)
        self._store.add_approval(plan_id, name, signature)
        run.approvals[name] = signature
        if len(run.approvals) == 1:
            self._submit(stand_by)  # the plan may begin soon, and its first sum should find a worker
        log.info("plan.approved", plan=plan_id, node=name)

    def work(self, plan_id: str, name: str) -> Work:
        """What this hospital is to do now. Raises: NotFound."""
        run = self._run(plan_id, name)
        attempt, member = run.attempt, run.plan.member(name)
        if attempt is None or member is None:
            status: Literal["finished", "waiting"] = "finished" if run.finished else "waiting"
            return Work(mark=run.token, status=status, head=self._audit_head())
        state = attempt.state
        away = {m.index for m in run.plan.roster if m.name in attempt.sitting_out}
        asked = server.asked(state, member.index, away=away)
        state = state if asked is state.phase else replace(state, phase=asked)
        view = server.view(state, member.index)
        return Work(
            mark=run.token,
            status="running" if member.index in state.invited else "waiting",
            round=attempt.key.round,
            attempt=attempt.key.attempt,
            kind=attempt.kind.value,
            phase=state.phase.value,
            model=state.setting.context.model,
            payload=b"" if view is None else view.to_bytes(),
            head=self._audit_head(),
        )

    def _audit_head(self) -> AuditHead:
        """The audit log's head, for the hospital to keep."""
        return self._told(self._store.witnessed())

    def _told(self, head: Head) -> AuditHead:
        return AuditHead(
            number=head.number,
            hash=head.hash,
            key=self._store.admin_key,
            signature=head.signature,
            succession=self._succession,
        )

    def longest_message(self, plan_id: str) -> int:
        """Most bytes of a hospital's message in this plan. Any thread may ask."""
        run = self._runs.get(plan_id)
        return 0 if run is None else run.longest_message

    def token(self, plan_id: str) -> str | None:
        """A plan's present state in one word; None for a plan unknown to memory. Any thread may ask."""
        run = self._runs.get(plan_id)
        return None if run is None else run.token

    def is_news(self, plan_id: str, name: str, token: str) -> bool:
        """Whether :meth:`work` would tell something new to a hospital that has seen this token.

        While a sum is unmasked there is nothing to do. Any thread may ask.
        """
        run = self._runs.get(plan_id)
        if run is None or run.plan.member(name) is None:
            return True
        attempt = run.attempt
        unmasking = attempt is not None and attempt.state.phase is Phase.DONE
        return run.token != token and not unmasking

    def still_idle(self, plan_id: str, name: str, token: str) -> Work | None:
        """What :meth:`work` would say if no round is open and that is no news; any thread may ask."""
        run, head = self._runs.get(plan_id), self._store.remembered_head
        if run is None or run.attempt is not None or head is None or self.is_news(plan_id, name, token):
            return None
        return Work(mark=token, status="finished" if run.finished else "waiting", head=self._told(head))

    def receive(self, key: AttemptKey, name: str, kind: str, body: bytes) -> str:
        """Take a protocol message: check, change the state, store it; or raise and change nothing.

        A hospital may repeat its last message even when the attempt has ended since: it has lost the answer.

        Returns: the token of the phase that was answered; any other is news to the sender.
        Raises: NotFound, WrongRound, BadMessage, WrongLength and what ``privacy.secagg.server`` raises.
        """
        run = self._run(key.plan, name)
        if kind not in MESSAGES:
            raise NotFound()
        answered = token_of(key, _PHASE_OF[MESSAGES[kind]])
        received = answered, hashlib.sha256(body).digest()
        if run.received.get(name) == received:
            return answered
        current = self._current(run, key)
        message = MESSAGES[kind].from_bytes(body)
        member = run.plan.member(name)
        if member is None or message.sender != member.index:
            raise server.NotAMember()
        if not _is_repeat(current.state, message):
            state = server.receive(current.state, message)
            if isinstance(message, Upload):
                self._check_upload(current, message)
            self._record(current, kind, body, state, actor=name)
            run.received[name] = received
        return answered

    def claim_segment(self, key: AttemptKey, name: str, segment: int, *, size: int) -> SegmentClaim | None:
        """The right to write a segment of a masked vector; None if the upload is signed and stays as it is.

        Until it is kept, nobody else may write this segment and its hospital's upload is not taken.
        Raises: NotFound, WrongRound, WrongLength, OutOfPhase, StillWriting.
        """
        claim = self.look_at_segment(key, name, segment, size=size)
        if claim is not None:
            self._current(self._run(key.plan, name), key).claims[claim.hospital] += 1
            self._claims.add(claim)
        return claim

    def look_at_segment(self, key: AttemptKey, name: str, segment: int, *, size: int) -> SegmentClaim | None:
        """What :meth:`claim_segment` would say; it changes nothing and is asked before a body is read."""
        run = self._run(key.plan, name)
        current, member = self._current(run, key), run.plan.member(name)
        state = current.state
        if member is None or state.phase is not Phase.UPLOAD or member.index not in state.invited:
            raise server.OutOfPhase(phase=state.phase)
        if member.index in state.uploaded:
            return None
        lengths = segment_lengths(current.params.words)
        if not 0 <= segment < len(lengths) or size != lengths[segment]:
            raise WrongLength()
        claim = SegmentClaim(current.key, member.index, segment)
        if claim in self._claims:
            raise StillWriting()
        return claim

    def keep_segment(self, claim: SegmentClaim, data: bytes) -> None:
        """Write a claimed segment durably; once for each claim, on any thread. Raises: StorageFailed."""
        try:
            self._blobs.put_segment(claim.key.folder, claim.hospital, claim.segment, data)
        finally:
            self._claims.discard(claim)

    def settle_segment(self, claim: SegmentClaim) -> None:
        """After the write, and after one that failed. Raises: WrongRound if the attempt has ended meanwhile.

        Then nothing of it is left behind.
        """
        run = self._runs.get(claim.key.plan)
        if run is None or run.attempt is None or run.attempt.key != claim.key:
            self._blobs.forget_uploads(claim.key.folder)
            raise WrongRound()

    def read_back(self, plan_id: str, name: str, body: bytes) -> None:
        """Check on any thread, before :meth:`receive`, that what an upload names is stored: it may take long.

        What is wrong with the upload is left to :meth:`receive`, which then looks at its segments itself.
        """
        run = self._runs.get(plan_id)
        attempt, member = (run.attempt, run.plan.member(name)) if run is not None else (None, None)
        if attempt is None or member is None or attempt.state.phase is not Phase.UPLOAD:
            return
        with suppress(Error):
            message, claims = Upload.from_bytes(body), attempt.claims[member.index]
            if message.sender == member.index:
                self._check_upload(attempt, message)
                attempt.read_back[member.index] = claims, message.segments

    def open_model(self, plan_id: str, model: str) -> BinaryIO:
        """A model version's file. Raises: NotFound, DamagedBlob."""
        if model != self._find(plan_id).newest[0].model and not self._store.has_model(plan_id, model):
            raise NotFound()
        return self._blobs.open_model(model)

    def proof(self, plan_id: str, number: int) -> bytes:
        """What proves version ``number``, from 1: a ``Published`` message. Raises: NotFound, DamagedBlob."""
        _, proof = self._behind(plan_id, number)
        with self._blobs.open_sum(proof) as file:
            return file.read()

    def open_sum(self, plan_id: str, number: int) -> BinaryIO:
        """The sum behind version ``number``: little-endian words. Raises: NotFound, DamagedBlob."""
        return self._blobs.open_sum(self._behind(plan_id, number)[0])

    def certificates(self, plan_id: str, number: int) -> bytes:
        """A round's abort certificates: a ``Certificates`` message. Raises: NotFound, DamagedBlob."""
        self._find(plan_id)
        return endings.certificates(self._store, self._blobs, plan_id, number).to_bytes()

    def _behind(self, plan_id: str, number: int) -> tuple[str, str]:
        """The names of a version's sum and of what proves it; the attempt that made it tells them."""
        self._find(plan_id)
        version = self._store.version(plan_id, number)
        if version is not None:
            for report in self._store.attempts(plan_id, round_number=version.round):
                if report.sum is not None and report.proof is not None:
                    return report.sum, report.proof
        raise NotFound()

    def probe_blobs(self) -> None:
        """Try whether blobs can be kept; any thread may ask. Raises: StorageFailed."""
        self._blobs.probe()

    def may_see(self, plan_id: str, name: str, role: str) -> None:
        """Researchers see every plan, hospitals their own. Raises: NotFound."""
        if role == "hospital" and self._find(plan_id).plan.member(name) is None:
            raise NotFound()

    def glance(self, plan_id: str) -> tuple[PlanStatus, int] | None:
        """What :meth:`present` tells and how many attempts have ended; None for a plan unknown to memory.

        Any thread may ask: whoever looks on need not wait for the coordinator's.
        """
        run = self._runs.get(plan_id)
        return None if run is None else (self._present(run), run.ended)

    def past(self, plan_id: str) -> tuple[list[AttemptReport], list[ModelVersion]]:
        """A plan's history as the store has it; any thread may ask. It changes when an attempt ends."""
        return self._store.attempts(plan_id), [version for version, _ in self._store.versions(plan_id)]

    def present(self, plan_id: str) -> PlanStatus:
        """What a plan is doing, without its history. Raises: NotFound."""
        return self._present(self._find(plan_id))

    def _present(self, run: Run) -> PlanStatus:
        open_attempt, attempt = None, run.attempt
        if attempt is not None:
            state = attempt.state
            open_attempt = OpenAttempt(
                round=attempt.key.round,
                attempt=attempt.key.attempt,
                kind=attempt.kind,
                phase=state.phase,
                answered=self._names(run, state.answers),
                invited=self._names(run, state.invited),
            )
        return PlanStatus(
            plan=run.plan.id,
            name=run.plan.study.name,
            finished=run.finished,
            hospitals=tuple(run.plan.names),
            approved=tuple(sorted(run.approvals)),
            in_reach=tuple(n for n in run.plan.names if self._in_reach(run, n)),
            open=open_attempt,
            waiting_for=endings.waiting_for(run, len(self._reachable(run))),
        )

    def plans(self) -> list[PlanLine]:
        """One line per plan."""
        return [
            PlanLine(plan=name, name=run.plan.study.name, finished=run.finished, rounds=run.ended)
            for name, run in self._runs.items()
        ]

    # ---- the clock ----------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Take up plans that are new in the store, and after a restart the attempts that were open."""
        for plan, signature, finished in self._store.plans(besides=self._runs):
            name = plan.id
            progress = self._store.progress(name)
            run = Run(plan, signature, self._store.approvals(name), finished, progress.newest)
            for report in progress.recent:
                run.end(report)
            run.ended = progress.ended
            if (row := progress.opened) is not None:
                fresh = new_attempt(run, row.key, row.kind, row.model, now=self._clock())
                run.attempt = replayed(fresh, run, self._store.events(row.key))
            self._runs[name] = run

    def start_over(self) -> None:
        """Forget what is remembered of the plans and read it from the store, as after a restart.

        Needed when a commit may or may not have happened. Raises: StorageFailed; then it is still needed.
        """
        self._runs.clear()
        self._take_up()
        self._store.settled()

    def _take_up(self) -> None:
        """Go on with what is open; masked vectors of anything else are what a crash has left.

        Looked for before the store is read: an attempt has a row before it has masked vectors, so those of a
        leader that has come in between are known to be its own. Raises: NotLeading if there is one.
        """
        found = self._blobs.uploads()
        self.reload()
        open_ones = {run.attempt.key.folder for run in self._runs.values() if run.attempt is not None}
        self._store.check_lead()
        for folder in found - open_ones:
            self._blobs.forget_uploads(folder)

    def tick(self) -> bool:
        """Take up what others wrote to the store and :meth:`go_on`; whether anything changed."""
        known, written = len(self._runs), self._store.last_write
        if written is None or written != self._looked_at:
            self.reload()
            self._look_for_approvals()
            self._looked_at = written
        return self.go_on() or len(self._runs) != known

    def go_on(self) -> bool:
        """Close what is complete or overdue and open what is next; whether anything changed."""
        before = [r.token for r in self._runs.values()]
        for run in self._runs.values():
            if not run.finished and self._is_approved(run):
                self._advance_as_far_as_possible(run)
        return before != [r.token for r in self._runs.values()]

    def _look_for_approvals(self) -> None:
        waiting = [run for run in self._runs.values() if run.approved_at is None and not run.finished]
        counts = self._store.approval_counts() if waiting else {}
        for run in waiting:
            if counts.get(run.plan.id, 0) != len(run.approvals):
                run.approvals = self._store.approvals(run.plan.id)

    def _is_approved(self, run: Run) -> bool:
        if run.approved_at is None:
            if len(run.approvals) < run.plan.approvals_needed:
                return False
            try:
                check_approvals(run.plan, run.approvals)
                run.approved_at = self._clock()
            except NotApproved:
                return False
        return True

    def _advance_as_far_as_possible(self, run: Run) -> None:
        """A finished sum is published and the next round opened in one go; each step changes the token."""
        before = None
        while before != run.token and not run.finished:
            before = run.token
            self._advance(run)

    def _advance(self, run: Run) -> None:
        attempt = run.attempt
        if attempt is None:
            self._open_next(run)
            return
        if attempt.state.phase is Phase.DONE:
            self._publish(run, attempt)
            return
        state = attempt.state
        if state.phase is Phase.ABORT:
            self._settle(run, attempt)
            return
        names = {m.index: m.name for m in run.plan.roster}
        missing = state.invited - set(state.answers)
        away = attempt.sitting_out
        waited_for = [i for i in missing if names[i] not in away and self._in_reach(run, names[i])]
        overdue = self._clock() - attempt.phase_opened > _limit(run.plan.study.deadlines, state.phase)
        if waited_for and not overdue:
            return
        try:
            closed = server.close_phase(state)
        except server.BelowThreshold as error:
            if state.phase in EARLY:
                self._fail(run, attempt, error.code, failed_in=state.phase)
            else:
                self._give_up(run, attempt, error.code)
            return
        self._record(attempt, CLOSE, b"", closed)

    def _give_up(self, run: Run, attempt: Attempt, reason: str) -> None:
        """Masked vectors were sent: ask the hospitals to give the attempt up, and open nothing before."""
        state, key = attempt.state, attempt.key
        log.warning("attempt.failed", plan=key.plan, round=key.round, phase=state.phase.value, code=reason)
        if state.setting.context.protocol != PROTOCOL:  # nobody can give it up now
            self._fail(run, attempt, "older-protocol")
            return
        attempt.reason, attempt.publication = reason, None
        self._record(attempt, GIVE_UP, reason.encode(), server.give_up(state))

    def _settle(self, run: Run, attempt: Attempt) -> None:
        """End a failed attempt with its certificate; go on to its sum, if that can be opened after all."""
        try:
            closed = server.close_phase(attempt.state)
        except server.BelowThreshold:
            if server.hopeless(attempt.state):
                self._fail(run, attempt, attempt.reason)
            return  # whoever comes back is asked, however late
        if closed.phase is Phase.DONE:
            self._record(attempt, CLOSE, b"", closed)
            return
        failed_in, name = closed.failed_in, endings.keep_certificate(self._blobs, closed)
        assert failed_in is not None
        measured, reason = self._measured(run, attempt), attempt.reason
        told = AttemptReport(
            **measured, outcome="failed", reason=reason, failed_in=failed_in, certificate=name
        )
        self._end(run, attempt, told)

    def _open_next(self, run: Run) -> None:
        try:
            following = endings.following(run)
        except endings.PlanStuck as stuck:
            log.error("plan.stuck", plan=run.plan.id, code=stuck.code, reason=stuck.reason)
            following = None
        if following is None:
            self._store.finish_plan(run.plan.id)
            run.finished = True
            log.info("plan.finished", plan=run.plan.id)
            return
        if len(self._reachable(run)) < endings.fewest(run.plan):
            return
        key, kind = following
        model = run.newest[0].model
        self._store.open_attempt(key, kind=kind, model=model, now=self._wall_clock())
        run.attempt = new_attempt(run, key, kind, model, now=self._clock())
        log.info("round.opened", plan=key.plan, round=key.round, attempt=key.attempt, kind=kind.value)

    def _reachable(self, run: Run) -> list[str]:
        """Hospitals that have approved (the others take no part) and were heard from lately."""
        ready = self._seen.keys() & run.approvals
        return [n for n in run.plan.names if n in ready and self._in_reach(run, n)]

    # ---- results ------------------------------------------------------------------------------------------

    def _publish(self, run: Run, attempt: Attempt) -> None:
        """Hand the sum to the workers, then the next model, then store the result: one step further a call.

        The jobs are made of the stored events alone, so whatever is lost on the way is simply made again. A
        sum that can be opened is tried again until it is: nobody can tell that it was not.
        """
        if attempt.publication is None and self._clock() < attempt.retry_at:
            return
        try:
            if attempt.publication is None:
                attempt.publication = self._begin(run, attempt)
            parts = attempt.publication.parts
            if not all(part.done() for part in parts):
                self._check_patience(attempt.publication)
                return
            if attempt.publication.made is None:
                for part in parts:
                    self._expect(part.result())
                making = self._making(run, attempt, attempt.publication.token)
                attempt.publication.made = self._submit(make, making)
            if not attempt.publication.made.done():
                self._check_patience(attempt.publication)
                return
            made = self._expect(attempt.publication.made.result())
        except StorageFailed:
            attempt.publication = None  # as with every message, it is tried again
            raise
        except _JobFailed as failed:
            if failed.failure.code in endings.OPENED_IN_VAIN:
                self._fail(run, attempt, failed.failure.code)
            else:
                self._try_later(run, attempt, failed.failure)
        except server.WrongShares as error:
            self._give_up(run, attempt, error.code)  # more right ones may still come
        except server.Spoiled as error:
            measured, names = self._measured(run, attempt), self._names(run, [error.index])
            told = AttemptReport(
                **measured, outcome="failed", reason=error.code, failed_in=Phase.UNMASK, spoiled_by=names
            )
            self._end(run, attempt, told)
        except Error as error:
            self._try_later(run, attempt, Failure(error.code))
        except Exception as error:  # a worker was killed or hangs, or a fault in our own code
            attempt.publication, attempt.lost = None, attempt.lost + 1
            key, stuck = attempt.key, isinstance(error, TimeoutError)
            event = "unmasking.stuck" if stuck else "unmasking.lost"
            log.error(event, plan=key.plan, round=key.round, reason=type(error).__name__)
            if attempt.lost >= MAX_LOST:
                attempt.lost = 0
                self._try_later(run, attempt, Failure(UnmaskingStuck.code if stuck else UnmaskingLost.code))
        else:
            attempt.phases["aggregate"] = self._clock() - attempt.publication.started
            self._store_result(run, attempt, made)

    def _try_later(self, run: Run, attempt: Attempt, failure: Failure) -> None:
        """The sum can be opened and was not: whatever is broken may be mended."""
        attempt.publication, attempt.retry_at = None, self._clock() + endings.RETRY_S
        attempt.trouble = self._trouble(run, failure)
        key = attempt.key
        log.error("sum.waits", plan=key.plan, round=key.round, attempt=key.attempt, code=failure.code)

    def _check_patience(self, publication: Publication) -> None:
        """Replace all workers if one hangs for too long; jobs of other plans are made again, uncounted.

        Raises: TimeoutError then.
        """
        if self._clock() - publication.started <= WORK_LIMIT_S:
            return
        self._workers.shutdown(wait=False)
        for run in self._runs.values():
            if run.attempt is not None:
                run.attempt.publication = None
        raise TimeoutError()

    def _begin(self, run: Run, attempt: Attempt) -> Publication:
        state, words, started = attempt.state, attempt.params.words, self._clock()
        attempt.wrong_shares = self._names(run, server.wrong_returns(state))
        # The last phase has closed with a threshold of answers; that number is enough to unmask.
        removal = server.masks_to_remove(replace(state, phase=Phase.UNMASK))
        uploads = {i: state.uploaded[i].segments for i in state.survivors}
        folder, token = attempt.key.folder, secrets.token_hex(8)
        self._blobs.forget_drafts(folder)
        job = Summing(self._blobs, folder, token, words, uploads, tuple(removal))
        segments = len(segment_lengths(words))
        if segments <= TOGETHER:
            together = self._submit(sum_and_make, job, self._making(run, attempt, token))
            return Publication(started, token, [], together)
        parts = [self._submit(sum_segment, job, number) for number in range(segments)]
        return Publication(started, token, parts)

    def _making(self, run: Run, attempt: Attempt, token: str) -> Making:
        state, step = attempt.state, None
        if attempt.kind is RoundKind.TRAIN:
            parent, optimiser = run.newest
            proof = Published(
                round=attempt.key.round,
                attempt=attempt.key.attempt,
                transcript=state.transcript,
                members=state.committed,
                survivors=state.survivors,
                signatures={i: message.signature for i, message in state.agreed.items()},
                sum_hash=bytes(32),
            )
            step = Step(parent.model, optimiser, parent.number + 1, proof)
        hospitals = len(state.survivors)
        return Making(self._blobs, attempt.key.folder, token, run.plan.study, attempt.params, hospitals, step)

    def _submit(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T | Failure]:
        future = self._workers.submit(attempt_job, job, *args, **kwargs)
        future.add_done_callback(lambda _: self.on_result())
        return future

    def _expect(self, result: T | Failure) -> T:
        if not isinstance(result, Failure):
            return result
        if result.code == StorageFailed.code:
            raise StorageFailed()
        raise _JobFailed(result)

    def _trouble(self, run: Run, failure: Failure) -> Waiting:
        if failure.hospital is None:
            return Waiting(reason=failure.code, failed_in=Phase.UNMASK)
        damaged = Damaged(hospital=self._name(run, failure.hospital), segment=failure.segment)
        return Waiting(reason=failure.code, failed_in=Phase.UNMASK, damaged=damaged)

    def _store_result(self, run: Run, attempt: Attempt, made: Made) -> None:
        study, version = run.plan.study, None
        if made.model is not None:
            parent, _ = run.newest
            version = ModelVersion(
                plan=run.plan.id,
                number=parent.number + 1,
                model=made.model,
                parent=parent.model,
                round=attempt.key.round,
                survivors=self._names(run, attempt.state.survivors),
                epsilon=made.epsilon,
                created=utc(self._wall_clock()),
            )
        rounds = 1 if attempt.kind is RoundKind.EVALUATE else study.training.rounds
        noise = noise_in_sum(study, hospitals=len(attempt.state.survivors), rounds=rounds)
        figures = summarise(study, made.metrics, noise=noise) if made.metrics else {}
        report = AttemptReport(
            **self._measured(run, attempt),
            outcome="done",
            figures=figures,
            metric=figures.get(headline(study)),
            sums={k: tuple(v.tolist()) for k, v in made.metrics.items()},
            model=made.model,
            epsilon=made.epsilon,
            sum=made.sum,
            proof=made.proof,
        )
        self._end(run, attempt, report, version, made.state)

    def _fail(self, run: Run, attempt: Attempt, reason: str, *, failed_in: Phase = Phase.UNMASK) -> None:
        measured = self._measured(run, attempt)
        self._end(
            run, attempt, AttemptReport(**measured, outcome="failed", reason=reason, failed_in=failed_in)
        )

    def _measured(self, run: Run, attempt: Attempt) -> _Measured:
        state = attempt.state
        return {
            "round": attempt.key.round,
            "attempt": attempt.key.attempt,
            "kind": attempt.kind,
            "seconds": self._clock() - attempt.opened,
            "phases": attempt.phases,
            "advertised": self._names(run, state.advertised),
            "committed": self._names(run, state.committed),
            "survivors": self._names(run, state.survivors),
            "bytes_up": dict(attempt.bytes_up),
            "bytes_down": dict(attempt.bytes_down),
            "wrong_shares": attempt.wrong_shares,
        }

    def _end(
        self,
        run: Run,
        attempt: Attempt,
        report: AttemptReport,
        version: ModelVersion | None = None,
        kept: Mapping[str, str] | None = None,
    ) -> None:
        self._store.end_attempt(run.plan.id, report, version=version, state=kept)
        if version is not None:
            run.newest = version, dict(kept or {})
        run.end(report)
        run.attempt = None
        self._blobs.forget_uploads(attempt.key.folder)
        log.info(
            f"round.{report.outcome}",
            plan=attempt.key.plan,
            round=attempt.key.round,
            attempt=attempt.key.attempt,
            survivors=len(attempt.state.survivors),
            reason=report.reason,
        )

    # ---- small things -------------------------------------------------------------------------------------

    def _find(self, plan_id: str) -> Run:
        if plan_id not in self._runs:
            self.reload()  # it may have been created a moment ago, by another process
        if plan_id not in self._runs:
            raise NotFound()
        return self._runs[plan_id]

    def _run(self, plan_id: str, name: str) -> Run:
        run = self._find(plan_id)
        if run.plan.member(name) is None:
            raise NotFound()
        return run

    def _current(self, run: Run, key: AttemptKey) -> Attempt:
        if run.attempt is None or run.attempt.key != key:
            raise WrongRound()
        return run.attempt

    def _check_upload(self, attempt: Attempt, message: Upload) -> None:
        sender, lengths = message.sender, segment_lengths(attempt.params.words)
        if len(message.segments) != len(lengths):
            raise WrongLength()
        if any((c.key, c.hospital) == (attempt.key, sender) for c in self._claims.copy()):
            raise StillWriting()
        if attempt.read_back.get(sender) == (attempt.claims[sender], message.segments):
            return
        for number, digest in enumerate(message.segments):
            self._blobs.segment(attempt.key.folder, sender, number, digest)

    def _record(
        self,
        attempt: Attempt,
        kind: str,
        body: bytes,
        state: server.ServerState,
        *,
        actor: str = "aggregator",
    ) -> None:
        self._store.add_event(attempt.key, attempt.events, kind, body, actor=actor)
        attempt.events += 1
        if state.phase is not attempt.state.phase:
            now = self._clock()
            attempt.phases[attempt.state.phase.value] = now - attempt.phase_opened
            attempt.phase_opened = now
        attempt.state = state

    def _in_reach(self, run: Run, name: str) -> bool:
        last = max(self._seen.get(name, float("-inf")), run.approved_at or 0.0)
        return self._clock() - last <= run.plan.study.deadlines.silence_s

    def _name(self, run: Run, index: int) -> str:
        return next(m.name for m in run.plan.roster if m.index == index)

    def _names(self, run: Run, indices: Container[int]) -> tuple[str, ...]:
        return tuple(m.name for m in run.plan.roster if m.index in indices)


def _limit(deadlines: Deadlines, phase: Phase) -> float:
    name = "train_s" if phase is Phase.COMMIT else f"{phase.value}_s"
    return float(getattr(deadlines, name))


def _is_repeat(state: server.ServerState, message: HospitalMessage) -> bool:
    """Whether exactly this message was taken before, in any phase: the answer to it may have been lost."""
    phase = next(p for p, kind in server.EXPECTS.items() if isinstance(message, kind))
    taken: Mapping[int, HospitalMessage] = getattr(state, server.ANSWERS[phase])
    return taken.get(message.sender) == message
