"""Ending a computation that nobody waits for any more: its round is over, or its plan, or the node.

A thread cannot be killed. Whoever starts a computation in one hands it an event; the loops of reading,
training and evaluation look at it before each file, each batch, each chunk of patients and each patient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

from medveil.errors import Error

_EVENT: ContextVar[Event | None] = ContextVar("stop", default=None)


class Stopped(Error):
    """A computation was ended before its result."""

    code = "computation-stopped"

    def __init__(self) -> None:
        super().__init__(
            what="A computation was ended before it had a result.",
            meaning="Its round or its plan is over, so nobody waits for it. Nothing was sent.",
            remedy="Nothing to do. If it recurs, the plan asks for more work than its deadlines allow.",
        )


@contextmanager
def stoppable(event: Event) -> Iterator[None]:
    """Whatever runs inside, in this thread, ends soon after the event is set."""
    before = _EVENT.set(event)
    try:
        yield
    finally:
        _EVENT.reset(before)


def check_stopped() -> None:
    """Raises: Stopped if the computation around this call is to end."""
    event = _EVENT.get()
    if event is not None and event.is_set():
        raise Stopped()
