"""The clock of all plans: it closes what is complete or overdue, publishes, and opens what is next.

Messages that arrive together share a transaction; a restart is a reload. The state of an attempt is the list
of its messages and phase closings in the store, replayed through ``privacy.secagg.server``. Everything here
runs on one thread, called by the routes and by a clock, unless it says that any thread may call it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial

from aggregator.rounds import endings, epochs, schedule
from aggregator.rounds.attempt import Attempt
from aggregator.rounds.instructions import Instructions
from aggregator.rounds.intake import Intake, Received
from aggregator.rounds.publishing import Publishing
from aggregator.rounds.runs import Run, Runs
from aggregator.storage.blobs import Blobs
from aggregator.storage.directives import HaltedByAdmin
from aggregator.storage.editions import Edition
from aggregator.storage.plans import CLOSE
from aggregator.storage.store import Store
from aggregator.work.cluster import Cluster
from aggregator.work.workers import Inline
from medveil.log import get_logger
from medveil.plan import NotApproved, check_approvals
from medveil.rounds import EARLY, Phase
from privacy.secagg import server

HALTED = {"pause": "paused-by-admin", "stop": "stopped-by-admin", "withdraw": "withdrawn-by-admin"}
"""Why an attempt ends in which nothing masked was sent."""
log = get_logger()


class Coordinator:
    """All plans of this aggregator: what hospitals send and are told, and the clock that goes on by itself.

    Args:
        workers: runs the heavy jobs; by default at once and in this thread.
        cluster: adds up large sums in their place, if there is one.
        clock: monotonic seconds, for deadlines. wall_clock: Unix seconds, for records.
    """

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        *,
        workers: Executor | None = None,
        cluster: Cluster | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.on_result: Callable[[], object] = lambda: None
        """Called, on any thread, when a job has ended: the next tick has something to do."""
        self.runs = Runs(store, blobs, now=clock, wall_clock=wall_clock)
        self.ledger_ends = store.ledger_ends
        self.intake = Intake(self.runs)
        self.instructions = Instructions(self.runs, self.ledger_ends)
        self.workers: Executor = workers or Inline()
        self._publishing = Publishing(self.runs, self.workers, lambda: self.on_result(), cluster)
        self._store = store
        self._looked_at: Edition | None = None
        self.runs.start_over()

    def probe_blobs(self) -> None:
        """Try whether blobs can be kept; any thread may ask. Raises: StorageFailed."""
        self.runs.blobs.probe()

    def approve(self, plan_id: str, name: str, signature: bytes) -> None:
        """Keep a hospital's approval. Raises: NotFound, BadSignature."""
        if self.intake.approve(plan_id, name, signature):
            self._publishing.stand_by()  # the plan may begin soon

    def start_over(self) -> None:
        """Forget what is remembered of the plans and read it from the store, as after a restart.

        Needed when a commit may or may not have happened. Raises: StorageFailed; then it is still needed.
        """
        self.ledger_ends.start_over()
        self.runs.start_over()
        self._store.transactions.settled()

    def receive_together(self, messages: Sequence[Received]) -> tuple[list[str | Exception], bool]:
        """Take messages that have come together, and close what they complete, in one commit.

        One that is refused changes nothing and is in no other's way.

        Returns: for each what :meth:`Intake.receive` returns or raises, or LedgerBehind; it is on the disk by
            then. And whether any plan has gone on.
        Raises: StorageFailed, NotLeading: nothing of any of them was kept, or nobody knows.
        """
        before = self._marks()
        with self._store.transactions.together():
            outcomes = [self._outcome(message) for message in messages]
            if not any(isinstance(outcome, str) for outcome in outcomes):
                return outcomes, False  # what is refused moves nothing; what is overdue is the clock's
            self._close_what_is_complete()
        try:
            self.go_on()
        except Exception as error:  # the messages are kept; the next tick tries the rest again
            log.error("tick.failed", reason=type(error).__name__)
        return outcomes, before != self._marks()

    def _outcome(self, message: Received) -> str | Exception:
        name = message.sender.name
        try:
            if message.ledger:
                self.ledger_ends.note(message.sender, message.ledger)
            answered = self.intake.receive(message.key, name, message.kind, message.body)
            self.runs.count_bytes(message.key.plan, name, up=len(message.body), down=0)
            return answered
        except Exception as error:
            return error

    def tick(self) -> bool:
        """Take up what others wrote to the store and :meth:`go_on`; whether anything changed."""
        known, edition = len(self.runs.all()), self._store.plans.edition()
        if edition is None or edition != self._looked_at:
            self.runs.reload()
            self._look_for_approvals()
            self._look_for_directives()
            self._looked_at = edition
        return self.go_on() or len(self.runs.all()) != known

    def go_on(self) -> bool:
        """Close what is complete or overdue and open what is next; whether anything changed."""
        before = self._marks()
        for run in self.runs.all():
            if not run.begun:
                self._look_whether_it_begins(run)
            if (not run.finished and run.halted) or (
                run.begun and not run.finished and (self._is_approved(run) or schedule.too_few_left(run))
            ):
                self._advance_as_far_as_possible(run)
        return before != self._marks()

    def _marks(self) -> list[str]:
        return [run.mark for run in self.runs.all()]

    def _look_whether_it_begins(self, run: Run) -> None:
        """Of an amended plan: its turn comes where the plan before it would open its next attempt, if any."""
        before = None if run.plan.before is None else self.runs.get(run.plan.before.id)
        if run.finished or before is None or (self._is_approved(before) and not before.finished):
            return
        if epochs.is_moot(self.runs, run):
            self.runs.finish(run)
        elif epochs.successor(self.runs, before, self._is_approved) is run:
            self._take_over(run, before)

    def _take_over(self, amended: Run, before: Run) -> None:
        try:
            self.runs.take_over(amended, before)
        except HaltedByAdmin:  # another process has written that a moment ago
            self._look_for_directives()

    def _look_for_approvals(self) -> None:
        for run in self.runs.all():
            standing = run.refusals if run.finished else self._store.plans.refusals(run.plan.id)
            if standing.keys() != run.refusals.keys():
                run.refusals, run.approvals = standing, self._store.plans.approvals(run.plan.id)
        waiting = [run for run in self.runs.all() if run.approved_at is None and not run.finished]
        counts = self._store.plans.approval_counts() if waiting else {}
        for run in waiting:
            if counts.get(run.plan.id, 0) != len(run.approvals):
                run.approvals = self._store.plans.approvals(run.plan.id)

    def _look_for_directives(self) -> None:
        standing = self._store.directives.standing()
        for run in self.runs.all():
            if run.plan.id in standing:
                run.directive, run.told = standing[run.plan.id]

    def _is_approved(self, run: Run) -> bool:
        if run.approved_at is None:
            if len(run.approvals) < run.plan.approvals_needed:
                return False
            try:
                check_approvals(run.plan, run.approvals)
                run.approved_at = self.runs.now()
            except NotApproved:
                return False
        return True

    def _advance_as_far_as_possible(self, run: Run) -> None:
        """A finished sum is published and the next round opened in one go; each step changes the mark."""
        before = None
        while before != run.mark and not run.finished:
            before = run.mark
            if run.attempt is None:
                if not run.halted:
                    self._open_next(run)
                elif run.directive is not None and run.directive.is_final:
                    self.runs.finish(run)
            elif run.attempt.state.phase is Phase.DONE:
                self._publishing.go_on(run, run.attempt)
            elif run.attempt.state.phase is Phase.ABORT:
                endings.settle(self.runs, run, run.attempt)
            elif run.directive is not None and run.halted and run.attempt.state.phase in EARLY:
                reason, phase = HALTED[run.directive.order], run.attempt.state.phase
                endings.fail(self.runs, run, run.attempt, reason, failed_in=phase)
            else:  # masked vectors may have been sent: it ends by its own rule, whatever the admin has said
                self._close_or_end(run, run.attempt)

    def _close_what_is_complete(self) -> None:
        """Close phases as far as that needs nothing but the database; :meth:`go_on` does the rest."""
        for run in self.runs.all():
            before = None
            while before != run.mark and run.attempt is not None and self._is_approved(run):
                before, phase = run.mark, run.attempt.state.phase
                if phase not in (Phase.DONE, Phase.ABORT) and not (run.halted and phase in EARLY):
                    with suppress(server.BelowThreshold):
                        self._close_phase(run, run.attempt)

    def _close_or_end(self, run: Run, attempt: Attempt) -> None:
        """Close a phase that is over; end the attempt when too few have answered."""
        state = attempt.state
        try:
            self._close_phase(run, attempt)
        except server.BelowThreshold as error:
            if state.phase in EARLY:
                endings.fail(self.runs, run, attempt, error.code, failed_in=state.phase)
            else:
                endings.give_up(self.runs, run, attempt, error.code)

    def _close_phase(self, run: Run, attempt: Attempt) -> None:
        """Go on with those who have answered, once the phase is over. Raises: BelowThreshold."""
        is_waited_for = partial(self.runs.is_waited_for, run)
        if schedule.is_over(run, attempt, is_waited_for, self.runs.now()):
            self.runs.record(attempt, CLOSE, b"", server.close_phase(attempt.state))

    def _open_next(self, run: Run) -> None:
        amended = epochs.successor(self.runs, run, self._is_approved)
        if amended is not None:
            self._take_over(amended, run)
            return
        try:
            following = schedule.following(run)
        except schedule.PlanStuck as stuck:
            log.error("plan.stuck", plan=run.plan.id, code=stuck.code, reason=stuck.reason)
            following = None
        if following is None:
            self.runs.finish(run)
            return
        rested = schedule.pause_left(run, self.runs.now()) == 0
        if rested and len(self.runs.reachable(run)) >= schedule.fewest(run.plan):
            try:
                self.runs.open(run, *following)
            except HaltedByAdmin:
                self._look_for_directives()
