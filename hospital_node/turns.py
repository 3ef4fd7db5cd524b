"""Several approved studies, one machine: each computes one round, then it is the next one's turn.

Who asks for a turn waits behind those who have asked before, and a study has one computation in hand at most.
So between asking and getting a turn each other study computes one round at most, however many rounds it has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Event
from typing import TYPE_CHECKING

from medveil.stopping import Stopped

if TYPE_CHECKING:
    from hospital_node.ranks.job import OpenJob

LOOK_S = 0.2
"""Between two looks at whether whoever waits for a turn is to stop."""


@dataclass(frozen=True)
class _Guest:
    size: int
    forget: Callable[[], None]


class Turns:
    """One computation at a time, first come, first served; any thread may ask.

    Args:
        most_bytes: of memory for all of them together. If they do not fit, those whose turn it is not forget
            their images, and read them again.
        open_job: starts ranks that share whoever's steps have their turn, where the hospital has them.
    """

    def __init__(self, most_bytes: int, open_job: OpenJob | None = None) -> None:
        self._most_bytes, self.open_job = most_bytes, open_job
        self._condition = Condition()
        self._waiting: deque[object] = deque()
        self._guests: dict[str, _Guest] = {}

    def join(self, plan: str, *, size: int, forget: Callable[[], None]) -> None:
        """A plan that will ask for turns, with the memory that it takes."""
        with self._condition:
            self._guests[plan] = _Guest(size, forget)

    def leave(self, plan: str) -> None:
        """It will ask for no more."""
        with self._condition:
            self._guests.pop(plan, None)

    @property
    def has_room(self) -> bool:
        """Whether the images of all of them fit into memory together."""
        with self._condition:
            return len(self._guests) < 2 or sum(g.size for g in self._guests.values()) <= self._most_bytes

    @contextmanager
    def turn(self, plan: str, stop: Event) -> Iterator[None]:
        """Wait for a turn, and have it. Raises: Stopped if it is not wanted any more before it comes."""
        ticket = object()
        with self._condition:
            self._waiting.append(ticket)
        try:
            with self._condition:
                while self._waiting[0] is not ticket:
                    if stop.is_set():
                        raise Stopped()
                    self._condition.wait(LOOK_S)
            if not self.has_room:
                for other, guest in list(self._guests.items()):
                    if other != plan:
                        guest.forget()
            yield
        finally:
            with self._condition:
                self._waiting.remove(ticket)
                self._condition.notify_all()
