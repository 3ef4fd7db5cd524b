"""Sums on other machines: segments are handed to a cluster's scheduler, and come back as parts in the store.

The jobs are pure and their results are named by their hash, so a job that is lost on the way is handed in
again. Where there is no cluster to be had, the aggregator's own processes do the work, or the sum waits, as
the admin has set it. Nothing here waits: whoever hands a job in gets a future
(docs/decisions/0069-sums-on-a-cluster.md).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
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
"""For so long a cluster that was not to be had when a sum needed it is not asked again."""
FRESH_S = 2.0
"""For so long after an answer of the scheduler nobody asks whether it is there."""
WATCH_S = 10.0
"""How often a scheduler is asked whether it is there, whether or not it has something in hand."""
ENDS = ("done", "lost", "here", "failed")
"""What becomes of a segment: the cluster has computed it; it is handed in again; this machine computes it
instead; its sum ends with an error and is tried again."""
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

    def check(self) -> int:
        """How many workers it has. Raises: ClusterUnreachable unless scheduler and a worker are there."""
        ...

    def hand_in(self, order: Order, number: int) -> Outcome:
        """Have a worker compute a segment. What is lost is cancelled, or ends with any error."""

    def close(self) -> None:
        """End the connection; what it had in hand is cancelled."""


@dataclass(frozen=True)
class Standing:
    """How a cluster does."""

    workers: int
    """When its scheduler was asked last; 0: it has none, or is away."""
    waiting: int
    """Segments that it has in hand at this moment."""
    ended: Mapping[str, int]
    """Segments since the process began, by :data:`ENDS`."""
    last: float
    """When it computed the last one, Unix time; 0: none yet."""


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
        self._workers, self._ended_as, self._last, self._away = 0, Counter[str](), 0.0, False
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

    @property
    def standing(self) -> Standing:
        """How it does; any thread may ask, and nobody waits for the scheduler."""
        ended = {end: self._ended_as[end] for end in ENDS}
        return Standing(self._workers, len(self._in_hand), ended, self._last)

    def watch(self) -> None:
        """From now on look now and then whether it is there, also before a sum needs it."""
        self._soon(self._look)
        self._start_watching()

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

    def _start_watching(self) -> None:
        with self._counting:
            if not self._watching.is_alive() and not self._ended.is_set():
                self._watching.start()

    def _watch(self) -> None:
        """A scheduler that hangs says nothing: it is asked."""
        while not self._ended.wait(WATCH_S):
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
        if not isinstance(result, Failure):
            self._ended_as["done"] += 1
            self._last = time.time()
            task.outcome.set_result(result)
        elif self._local is not None:
            log.error("cluster.failed", code=result.code)
            self._compute_here(task)  # perhaps that worker alone does not see the store
        else:
            self._ended_as["failed"] += 1
            task.outcome.set_result(result)

    def _lose(self, task: _Task, error: BaseException) -> None:
        log.error("cluster.lost", reason=type(error).__name__, count=task.tries)
        self._ended_as["lost"] += 1
        self._seen = float("-inf")
        if task.tries >= MOST_TRIES:
            self._without(task, ClusterLost())
        else:
            self._hand_in(task)

    def _look(self) -> None:
        self._seen = float("-inf")
        try:
            self._ready(idle=not self._in_hand)
        except ClusterUnreachable as error:
            log.debug("cluster.failed", code=error.code)  # said already

    def _ready(self, *, idle: bool = False) -> Engine:
        """The connection, made anew if it is gone.

        Args: idle: no sum waits for it, so what was said before is not said again.
        Raises: ClusterUnreachable; at once for a while after.
        """
        if self._clock() < self._rests_until:
            raise ClusterUnreachable(problem="it did not answer a moment ago")
        if self._engine is not None and self._clock() - self._seen < FRESH_S:
            return self._engine
        try:
            if self._engine is not None:
                try:
                    self._workers = self._engine.check()
                    self._seen = self._clock()
                    return self._engine
                except ClusterUnreachable:
                    self._drop()
            engine = self._connect()
            self._engine = engine
            self._workers = engine.check()
        except ClusterUnreachable as error:
            self._drop()
            if not idle:
                self._rests_until = self._clock() + REST_S
            if not (idle and self._away):
                log.error("cluster.failed", code=error.code, reason=str(error.what))
            self._away = True
            raise
        self._seen, self._away = self._clock(), False
        log.info("cluster.joined", count=self._workers)
        self._start_watching()
        return engine

    def _drop(self) -> None:
        """End the connection. What it had in hand is handed in again, but where nobody waits for it."""
        engine, self._engine = self._engine, None
        self._workers = 0
        lost, self._in_hand = list(self._in_hand), {}
        if engine is not None:
            engine.close()
        for task in lost:
            self._soon(partial(self._lose, task, ConnectionError()), task)

    def _without(self, task: _Task, error: Error) -> None:
        if self._local is None:
            self._ended_as["failed"] += 1
            task.outcome.set_exception(error)
        else:
            self._compute_here(task)

    def _compute_here(self, task: _Task) -> None:
        assert self._local is not None  # its callers have looked
        self._ended_as["here"] += 1
        computed = self._local.submit(attempt_job, sum_part, task.job, task.number)
        computed.add_done_callback(lambda done: _hand_on(done, task.outcome))


def _hand_on(done: Outcome, outcome: Outcome) -> None:
    error = done.exception()
    if error is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(done.result())
