"""Where heavy work runs: in processes of its own, so that the server goes on answering.

Long stretches of AES hold Python's lock, and one such stretch stops every other thread. A job is a function
and its arguments, the result depends on nothing else, and the seeds among the arguments cross the pipe to
the worker and touch no disk, no command line and no environment (docs/decisions/0014-unmasking-jobs.md).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, ParamSpec, TypeVar

from medveil.errors import Error
from medveil.freed import BETWEEN_ROUNDS, keep_freed

NICENESS = 5
"""How far workers stand back behind the server, so that it answers even when they fill every core."""
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """A known problem on its way back from a worker: the error's code, and whose segment it names, if any."""

    code: str
    source: int | str | None = None
    segment: int | None = None


def attempt(job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | Failure:
    """Run a job; a known problem is a result, so that nothing but plain values crosses the pipe."""
    try:
        return job(*args, **kwargs)
    except Error as error:
        return Failure(error.code, getattr(error, "source", None), getattr(error, "segment", None))


class Inline(Executor):
    """Runs each job at once, in the thread that hands it in: for tests and small tools."""

    def submit(self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The finished job."""
        future: Future[T] = Future()
        try:
            future.set_result(job(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Workers(Executor):
    """Up to ``count`` worker processes (0: one for each core), started when they are first needed.

    Any thread may hand jobs in.

    A worker that dies takes the jobs in hand with it: their futures raise BrokenProcessPool, and the next job
    finds new workers. Workers end with this process, however it ends.
    """

    def __init__(self, count: int = 0) -> None:
        self._count = count or len(os.sched_getaffinity(0))
        self._in_hand, self._counting = 0, threading.Lock()
        self._one_at_a_time = threading.RLock()
        self._context = _Remembering()
        self._pool: ProcessPoolExecutor | None = None

    @property
    def count(self) -> int:
        """Most processes."""
        return self._count

    @property
    def in_hand(self) -> int:
        """Jobs that were handed in and are not done; any thread may ask."""
        return self._in_hand

    @property
    def pids(self) -> list[int]:
        """The processes that are running."""
        return [p.pid for p in self._context.started if p.pid is not None and p.is_alive()]

    def submit(self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``job``, a function that a module defines, in a worker."""
        with self._one_at_a_time:
            future = self._submit(job, *args, **kwargs)
        self._change_count(+1)
        future.add_done_callback(lambda _: self._change_count(-1))
        return future

    def _change_count(self, by: int) -> None:
        with self._counting:
            self._in_hand += by

    def _submit(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._pool is not None:
            try:
                return self._pool.submit(job, *args, **kwargs)
            except BrokenProcessPool:
                self.shutdown()
        self._pool = ProcessPoolExecutor(self._count, self._context, _begin)
        return self._pool.submit(job, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """End every worker at once; an unfinished job is not lost, it is made again from what is stored.

        Args:
            wait: until they have ended. One that hangs in the kernel, on a dead disk, cannot be waited for.
        """
        with self._one_at_a_time:
            pool, started = self._pool, self._context.started
            if pool is None:
                return
            self._pool, self._context = None, _Remembering()
        ending = threading.Thread(target=_end, args=(pool, started), daemon=True)
        ending.start()
        if wait:
            ending.join()


class _Remembering(SpawnContext):
    """Fresh processes, not copies of this one with its threads and locks; it remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]
        self.started.append(SpawnProcess(*args, **kwargs))
        return self.started[-1]


def _end(pool: ProcessPoolExecutor, processes: list[SpawnProcess]) -> None:
    # A pool that is told to end while its workers die may wait for ever on a pipe that nobody reads. One
    # that has noticed their death closes the pipe: so a last job, which ends with its worker only, tells
    # when it has.
    with suppress(BrokenProcessPool):
        last = pool.submit(signal.pause)
        for process in processes:
            if process.is_alive():
                process.kill()
        last.exception()
    pool.shutdown()


def _begin() -> None:
    """In a worker, before its first job: the server goes first, Ctrl-C is for it, and it is not outlived."""
    os.nice(NICENESS)
    keep_freed(BETWEEN_ROUNDS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = multiprocessing.parent_process()
    assert server is not None  # this runs in a child

    def end_with_server() -> None:
        server.join()
        os._exit(1)

    threading.Thread(target=end_with_server, name="end with server", daemon=True).start()
