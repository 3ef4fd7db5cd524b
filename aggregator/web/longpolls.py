"""Long polls at rest: each is woken by news of its own plan, or together with many others when time is up.

On an idle machine, a process that is woken for each poll alone pays as much for waking up as for the answer.
So long waits end on a common beat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

BEAT_S = 0.125
"""Waits end at whole multiples of this, and never later than asked for."""
LONG_S = 1.0
"""Shorter waits than this end exactly when they were asked to."""


@dataclass
class _Rest:
    """Polls that wait for the same thing until the same moment."""

    timer: asyncio.TimerHandle
    over: asyncio.Event = field(default_factory=asyncio.Event)


class LongPolls:
    """Everybody who waits, on one event loop.

    Args:
        mark: changes whenever there is news of a plan; None if there is no such plan.
    """

    def __init__(self, mark: Callable[[str], str | None]) -> None:
        self._mark = mark
        self._resting: dict[tuple[str, str, float], _Rest] = {}

    def end_of(self, wait_s: float) -> float:
        """When a wait that begins now is over (monotonic seconds): a long one on the beat before."""
        end = asyncio.get_running_loop().time() + wait_s
        return end - end % BEAT_S if wait_s >= LONG_S else end

    async def rest(self, plan: str, seen: str, end: float) -> None:
        """Wait until it is announced that the plan is not at ``seen`` any more, at most until ``end``."""
        key = plan, seen, end
        if key not in self._resting:
            self._resting[key] = _Rest(asyncio.get_running_loop().call_at(end, self._wake, key))
        await self._resting[key].over.wait()

    def announce(self) -> None:
        """Wake those whose plan is not where they saw it."""
        for key in [key for key in self._resting if self._mark(key[0]) != key[1]]:
            self._wake(key)

    def stop(self) -> None:
        """Wake everybody."""
        for key in list(self._resting):
            self._wake(key)

    def _wake(self, key: tuple[str, str, float]) -> None:
        resting = self._resting.pop(key)
        resting.timer.cancel()
        resting.over.set()
