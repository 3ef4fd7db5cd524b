"""The clock of all plans: it closes what is complete or overdue, publishes, and opens what is next.

One message, one transaction; a restart is a reload. The state of an attempt is the list of its messages and
phase closings in the store, replayed through ``privacy.secagg.server``. Everything here runs on one thread,
called by the routes and by a clock, unless it says that any thread may call it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from aggregator.rounds import endings, schedule
from aggregator.rounds.attempt import Attempt
from aggregator.rounds.instructions import Instructions
from aggregator.rounds.intake import Intake
from aggregator.rounds.publishing import Publishing
from aggregator.rounds.runs import Run, Runs
from aggregator.storage.blobs import Blobs
from aggregator.storage.plans import CLOSE
from aggregator.storage.store import Store
from aggregator.work.workers import Inline
from medveil.log import get_logger
from medveil.plan import NotApproved, check_approvals
from medveil.rounds import EARLY, Phase
from privacy.secagg import server

log = get_logger()


class Coordinator:
    """All plans of this aggregator: what hospitals send and are told, and the clock that goes on by itself.

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
        self.on_result: Callable[[], object] = lambda: None
        """Called, on any thread, when a job has ended: the next tick has something to do."""
        self.runs = Runs(store, blobs, now=clock, wall_clock=wall_clock)
        self.ledger_ends = store.ledger_ends
        self.intake = Intake(self.runs)
        self.instructions = Instructions(self.runs, self.ledger_ends)
        self.workers: Executor = workers or Inline()
        self._publishing = Publishing(self.runs, self.workers, lambda: self.on_result())
        self._store = store
        self._looked_at: int | None = None
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
        self.runs.start_over()
        self._store.transactions.settled()

    def tick(self) -> bool:
        """Take up what others wrote to the store and :meth:`go_on`; whether anything changed."""
        known, written = len(self.runs.all()), self._store.transactions.last_write
        if written is None or written != self._looked_at:
            self.runs.reload()
            self._look_for_approvals()
            self._looked_at = written
        return self.go_on() or len(self.runs.all()) != known

    def go_on(self) -> bool:
        """Close what is complete or overdue and open what is next; whether anything changed."""
        before = [run.mark for run in self.runs.all()]
        for run in self.runs.all():
            if not run.finished and (self._is_approved(run) or schedule.too_few_left(run)):
                self._advance_as_far_as_possible(run)
        return before != [run.mark for run in self.runs.all()]

    def _look_for_approvals(self) -> None:
        waiting = [run for run in self.runs.all() if run.approved_at is None and not run.finished]
        counts = self._store.plans.approval_counts() if waiting else {}
        for run in waiting:
            if counts.get(run.plan.id, 0) != len(run.approvals):
                run.approvals = self._store.plans.approvals(run.plan.id)

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
                self._open_next(run)
            elif run.attempt.state.phase is Phase.DONE:
                self._publishing.go_on(run, run.attempt)
            elif run.attempt.state.phase is Phase.ABORT:
                endings.settle(self.runs, run, run.attempt)
            else:
                self._close_phase(run, run.attempt)

    def _close_phase(self, run: Run, attempt: Attempt) -> None:
        """Once it is over: go on with those who answered, or end the attempt when they are too few."""
        state, is_waited_for = attempt.state, partial(self.runs.is_waited_for, run)
        if not schedule.is_over(run, attempt, is_waited_for, self.runs.now()):
            return
        try:
            closed = server.close_phase(state)
        except server.BelowThreshold as error:
            if state.phase in EARLY:
                endings.fail(self.runs, run, attempt, error.code, failed_in=state.phase)
            else:
                endings.give_up(self.runs, run, attempt, error.code)
            return
        self.runs.record(attempt, CLOSE, b"", closed)

    def _open_next(self, run: Run) -> None:
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
            self.runs.open(run, *following)
