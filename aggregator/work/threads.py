"""Threads that others wait for: one that ends refuses, and one that hangs is noticed.

A process can be stopped, a database can stop answering, and a thread that waits for it never says so itself.
So the coordinator's thread says so whenever it comes back from a tick, and others notice when it does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from aggregator.errors import NotReady
from aggregator.storage.transactions import NotLeading

T = TypeVar("T")
SILENT_S = 5.0
"""A coordinator that has not ticked for so long takes no requests and is not ready."""
STUCK_S = 8.0
"""After so long its sessions with the database are broken off. By then the server has taken the lead away."""
PART = "coordinator"


class Pulse:
    """When a thread was last seen to be alive. Until the first beat nobody expects one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None

    def beat(self) -> None:
        """It is alive now."""
        self._last = self._clock()

    @property
    def silent(self) -> bool:
        """Whether it should have been heard from since."""
        return self._last is not None and self._clock() - self._last > SILENT_S

    def check(self) -> None:
        """Raises: NotReady if it is silent."""
        if self.silent:
            raise NotReady(parts=(PART,))


def in_thread(executor: Executor, action: Callable[[], T]) -> asyncio.Future[T]:
    """Run something on another thread. Raises: NotLeading if that has ended, as this process's lead has."""
    try:
        return asyncio.get_running_loop().run_in_executor(executor, action)
    except RuntimeError as error:  # it takes no more work
        raise NotLeading() from error


async def breaking_off(work: asyncio.Future[T], break_off: Callable[[], None]) -> T:
    """Wait for work of another thread; call ``break_off`` if it does not come back, and wait on."""
    done, _ = await asyncio.wait({work}, timeout=STUCK_S)
    if not done:
        break_off()
    return await work


class Lookups:
    """A few threads that read the database beside the coordinator's.

    Args:
        break_off: called when a question hangs; the question then ends with an error.
    """

    def __init__(self, count: int, name: str, break_off: Callable[[], None]) -> None:
        self._threads: Executor = ThreadPoolExecutor(count, name)
        self._break_off = break_off

    async def ask(self, question: Callable[[], T]) -> T:
        """Raises: NotLeading once they have ended; what the question raises."""
        return await breaking_off(in_thread(self._threads, question), self._break_off)

    def close(self) -> None:
        """Finish the questions in hand and stop."""
        self._threads.shutdown()
