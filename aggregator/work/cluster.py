"""Sums on other machines: segments are handed to a cluster's scheduler, and come back as parts in the store.

The jobs are pure and their results are named by their hash, so a job that is lost on the way is handed in
again. Where there is no cluster to be had, the aggregator's own processes do the work, or the sum waits, as
the admin has set it. Nothing here waits: whoever hands a job in gets a future
(docs/decisions/0069-sums-on-a-cluster.md).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from aggregator.work.orders import Order, order_of
from aggregator.work.unmasking import Summing, sum_part
from aggregator.work.workers import Failure
from aggregator.work.workers import attempt as attempt_job
from medveil.errors import Error
from medveil.log import get_logger

MOST_TRIES = 3
"""Times a segment is handed to the cluster."""
REST_S = 30.0
"""For so long a cluster that was not to be had is not asked again."""
FRESH_S = 2.0
"""For so long after an answer of the scheduler nobody asks whether it is there."""
WATCH_S = 10.0
"""How often a scheduler is asked whether it is there while it has something in hand."""
LOCAL, WAIT = "local", "wait"
"""What becomes of a sum that the cluster does not compute."""
Outcome = Future[bytes | Failure]
log = get_logger()


class UnusableCluster(Error):
    """Settings or files of a cluster that cannot be used."""

    code = "unusable-cluster"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The cluster cannot be used: {problem}.",
            meaning="It was not started; nothing was changed.",
            remedy="Correct 'cluster' in aggregator.json, or run 'medveil aggregator cluster ADDRESS' again.",
        )


class ClusterUnreachable(Error):
    """No scheduler answers, or it has no worker."""

    code = "cluster-unreachable"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The cluster that is to compute sums is not to be had: {problem}.",
            meaning="Nothing is lost. The aggregator computes the sum itself, or waits, as it is set.",
            remedy="Do 'medveil aggregator scheduler' and its workers run, and do their certificates fit?",
        )


class ClusterLost(Error):
    """Scheduler or workers ended again and again without a result."""

    code = "cluster-lost"

    def __init__(self) -> None:
        super().__init__(
            what="The cluster's scheduler or workers ended several times without the result of a sum.",
            meaning="Nothing is lost. The aggregator computes the sum itself, or waits, as it is set.",
            remedy="Read the logs of scheduler and workers. Was a process killed for its machine's memory?",
        )


class Engine(Protocol):
    """A connection to a scheduler. One thread at a time uses it."""

    def check(self) -> None:
        """Raises: ClusterUnreachable unless scheduler and a worker are there."""

    def hand_in(self, order: Order, number: int) -> Outcome:
        """Have a worker compute a segment. What is lost is cancelled, or ends with any error."""

    def close(self) -> None:
        """End the connection; what it had in hand is cancelled."""


@dataclass(eq=False)
class _Task:
    job: Summing
    number: int
    generation: int
    outcome: Outcome = field(default_factory=Future)
    tries: int = 0


class Cluster:
    """Segments of sums, computed elsewhere.

    Args:
        connect: opens a connection; it may take seconds. Raises: ClusterUnreachable.
        local: computes what the cluster does not; None: such a sum ends with an error, and is tried again.
        thread: where all this happens; by default one of its own.
    """

    def __init__(
        self,
        connect: Callable[[], Engine],
        local: Executor | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        thread: Executor | None = None,
    ) -> None:
        self._connect, self._local, self._clock = connect, local, clock
        self._engine: Engine | None = None
        self._in_hand: dict[_Task, int] = {}
        self._rests_until = self._seen = float("-inf")
        self._generation, self._counting = 0, threading.Lock()
        self._thread = thread or ThreadPoolExecutor(1, "cluster")
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="cluster-watch", daemon=True)

    def submit(self, job: Summing, number: int) -> Outcome:
        """Have segment ``number`` of a sum computed; any thread may ask.

        Returns: the SHA-256 of the part that is then in the store
            (:func:`~aggregator.work.unmasking.gather`), or a known problem.
        Raises: in the future ClusterUnreachable, ClusterLost.
        """
        task = _Task(job, number, self._generation)
        self._soon(lambda: self._hand_in(task), task)
        return task.outcome

    def give_up(self) -> None:
        """Forget everything in hand, and the connection with it; nobody waits for its outcome any more."""
        with self._counting:
            self._generation += 1
        self._soon(self._drop)

    def close(self) -> None:
        """End. Whatever is in hand is made again after the next start."""
        self._ended.set()
        self.give_up()
        self._thread.shutdown()

    def _soon(self, action: Callable[[], object], task: _Task | None = None) -> None:
        """On the cluster's own thread."""
        try:
            self._thread.submit(action)
        except RuntimeError:  # it has ended, and nobody waits
            if task is not None:
                task.outcome.cancel()

    def _watch(self) -> None:
        """A scheduler that hangs says nothing: while it has something in hand it is asked."""
        while not self._ended.wait(WATCH_S):
            if self._in_hand:
                self._soon(self._look)

    # ---- on that thread

    def _hand_in(self, task: _Task) -> None:
        if task.generation != self._generation:
            task.outcome.cancel()
            return
        task.tries += 1
        this = task.tries
        try:
            handed = self._ready().hand_in(order_of(task.job), task.number)
        except ClusterUnreachable as error:
            self._without(task, error)
        except Exception as error:  # the connection broke at this moment
            self._lose(task, error)
        else:
            self._in_hand[task] = this
            handed.add_done_callback(lambda done: self._soon(lambda: self._settle(task, this, done), task))

    def _settle(self, task: _Task, this: int, done: Outcome) -> None:
        """The cluster is done with a task, one way or another."""
        if self._in_hand.get(task) != this:
            return  # it was counted as lost
        del self._in_hand[task]
        try:
            result = done.result()
        except (Exception, CancelledError) as error:
            self._lose(task, error)
            return
        if isinstance(result, Failure) and self._local is not None:
            log.error("cluster.failed", code=result.code)
            self._compute_here(task)  # perhaps that worker alone does not see the store
        else:
            task.outcome.set_result(result)

    def _lose(self, task: _Task, error: BaseException) -> None:
        log.error("cluster.lost", reason=type(error).__name__, count=task.tries)
        self._seen = float("-inf")
        if task.tries >= MOST_TRIES:
            self._without(task, ClusterLost())
        else:
            self._hand_in(task)

    def _look(self) -> None:
        self._seen = float("-inf")
        try:
            if self._in_hand:
                self._ready()
        except ClusterUnreachable as error:
            log.debug("cluster.failed", code=error.code)  # said already

    def _ready(self) -> Engine:
        """The connection, made anew if it is gone. Raises: ClusterUnreachable; at once for a while after."""
        if self._clock() < self._rests_until:
            raise ClusterUnreachable(problem="it did not answer a moment ago")
        if self._engine is not None and self._clock() - self._seen < FRESH_S:
            return self._engine
        try:
            if self._engine is not None:
                try:
                    self._engine.check()
                    self._seen = self._clock()
                    return self._engine
                except ClusterUnreachable:
                    self._drop()
            engine = self._connect()
            self._engine = engine
            engine.check()
        except ClusterUnreachable as error:
            self._drop()
            self._rests_until = self._clock() + REST_S
            log.error("cluster.failed", code=error.code, reason=str(error.what))
            raise
        self._seen = self._clock()
        log.info("cluster.joined")
        if not self._watching.is_alive() and not self._ended.is_set():
            self._watching.start()
        return engine

    def _drop(self) -> None:
        """End the connection. What it had in hand is handed in again, but where nobody waits for it."""
        engine, self._engine = self._engine, None
        lost, self._in_hand = list(self._in_hand), {}
        if engine is not None:
            engine.close()
        for task in lost:
            self._soon(partial(self._lose, task, ConnectionError()), task)

    def _without(self, task: _Task, error: Error) -> None:
        if self._local is None:
            task.outcome.set_exception(error)
        else:
            self._compute_here(task)

    def _compute_here(self, task: _Task) -> None:
        assert self._local is not None  # its callers have looked
        computed = self._local.submit(attempt_job, sum_part, task.job, task.number)
        computed.add_done_callback(lambda done: _hand_on(done, task.outcome))


def _hand_on(done: Outcome, outcome: Outcome) -> None:
    error = done.exception()
    if error is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(done.result())
