"""Messages that arrive while the coordinator's thread is at work: taken together, in one commit.

A commit is a handful of disk syncs, and the hospitals of a round answer a phase within moments of each other.
So nobody waits for company: what has come while the disk was busy is taken in one go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from aggregator.rounds.coordinator import Coordinator
from aggregator.rounds.intake import Received

MOST_TOGETHER = 64
"""Messages in one commit."""


class Run(Protocol):
    """Runs something on the coordinator's thread."""

    def __call__(self, action: Callable[[], None]) -> Awaitable[Any]: ...


@dataclass(eq=False)
class _Waiting:
    message: Received
    outcome: str | Exception | None = None
    """What became of it; None as long as it waits."""
    changed: bool = False
    """Whether a plan has gone on, which its sender is to announce."""


class Messages:
    """The messages that wait for the coordinator's thread.

    Args:
        run: on that thread, one after the other.
        announce: called when a plan has gone on.
    """

    def __init__(self, coordinator: Coordinator, run: Run, announce: Callable[[], None]) -> None:
        self._coordinator, self._run, self._announce = coordinator, run, announce
        self._waiting: deque[_Waiting] = deque()

    async def take(self, message: Received) -> str:
        """Take a message, with whatever else waits by then; it is on the disk afterwards.

        Returns: the mark of the phase that it answers.
        Raises: what :meth:`Coordinator.receive_together` returns or raises for it; what ``run`` raises.
        """
        mine = _Waiting(message)
        self._waiting.append(mine)
        try:
            await self._run(self._take_all)  # whoever comes first takes all; the others find nothing to do
        finally:
            with suppress(ValueError):  # the thread takes no more work
                self._waiting.remove(mine)
        if mine.changed:
            self._announce()
        if not isinstance(mine.outcome, str):
            assert mine.outcome is not None  # no thread has taken it without saying what became of it
            raise mine.outcome
        return mine.outcome

    def _take_all(self) -> None:
        taken: list[_Waiting] = []
        with suppress(IndexError):
            while len(taken) < MOST_TOGETHER:
                taken.append(self._waiting.popleft())
        if not taken:
            return
        try:
            outcomes, changed = self._coordinator.receive_together([one.message for one in taken])
        except Exception as error:
            outcomes, changed = [error] * len(taken), False
        for one, outcome in zip(taken, outcomes, strict=True):
            one.outcome = outcome
        taken[0].changed = changed
