"""How far a long piece of work is, for whoever waits: a loop tells, and does not know who listens.

As with :mod:`medveil.stopping`, the listener stands around the call and is not handed through it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_LISTENER: ContextVar[Callable[[Done], None] | None] = ContextVar("progress", default=None)


@dataclass(frozen=True)
class Done:
    """So many of so many."""

    part: str
    """What is counted, in words for people."""
    done: int
    total: int


@contextmanager
def listening(listener: Callable[[Done], None]) -> Iterator[None]:
    """Whatever runs inside, in this thread, tells the listener how far it is."""
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


@contextmanager
def unheard() -> Iterator[None]:
    """Whatever runs inside, in this thread, tells nobody: it is a part of something that tells by itself."""
    with listening(lambda _: None):
        yield


def tell(part: str, done: int, total: int) -> None:
    """One more is done. Costs next to nothing where nobody listens."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(Done(part, done, total))


class Pace:
    """How fast each part goes, and how long it will take.

    Args:
        every_s: seconds between two looks.
        show: what is done with a look; the last of a part is shown as well if the part took that long.
        clock: seconds.
    """

    def __init__(
        self, show: Callable[[Look], None], *, every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._show, self._every_s, self._clock = show, every_s, clock
        self._part, self._begun, self._shown = "", 0.0, 0.0

    def __call__(self, now: Done) -> None:
        """Hear how far a part is."""
        at = self._clock()
        if now.part != self._part:
            self._part, self._begun, self._shown = now.part, at, at
        last = now.done == now.total and at - self._begun >= self._every_s
        if last or at - self._shown >= self._every_s:
            self._shown = at
            self._show(Look(now, at - self._begun))


@dataclass(frozen=True)
class Look:
    """How far a part is after ``seconds``."""

    now: Done
    seconds: float

    @property
    def rate(self) -> float:
        """A second."""
        return self.now.done / max(self.seconds, 1e-9)

    @property
    def left_s(self) -> float:
        """Seconds that the rest takes at this rate."""
        return (self.now.total - self.now.done) / max(self.rate, 1e-9)
