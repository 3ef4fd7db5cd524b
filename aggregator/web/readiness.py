"""Whether the aggregator can do its work: each part is tried, not asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from aggregator.errors import NotReady
from medveil.log import get_logger

REMEMBER_S, PATIENCE_S = 5.0, 4.0
log = get_logger()


class Readiness:
    """Tries every part, at most once in five seconds however often it is asked, all at the same time.

    A part that hangs is not tried again before it has come back.

    Args:
        parts: name → something that raises if the part does not work.
    """

    def __init__(
        self, parts: Mapping[str, Callable[[], object]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parts, self._clock = parts, clock
        self._thread = ThreadPoolExecutor(len(parts), "readiness")
        self._lock = asyncio.Lock()
        self._known: tuple[str, ...] = ()
        self._until = float("-inf")
        self._tries: dict[str, Future[object]] = {}

    async def check(self) -> None:
        """Raises: NotReady with the names of the parts that failed or did not answer in time."""
        async with self._lock:
            if self._clock() >= self._until:
                failed = await asyncio.gather(*(self._fails(name) for name in self._parts))
                self._known = tuple(name for name, bad in zip(self._parts, failed, strict=True) if bad)
                self._until = self._clock() + REMEMBER_S
        if self._known:
            raise NotReady(parts=self._known)

    async def _fails(self, name: str) -> bool:
        before = self._tries.get(name)
        try:
            if before is not None and not before.done():
                raise TimeoutError
            self._tries[name] = self._thread.submit(self._parts[name])
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wrap_future(self._tries[name])
        except Exception as error:  # whatever it is, the part does not work
            log.error("part.failed", kind=name, reason=type(error).__name__)
            return True
        return False

    def close(self) -> None:
        """Stop; a part that hangs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
