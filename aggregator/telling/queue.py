"""Notices that are still to be told, and those that were: one small file, which a restart goes on with.

At least once: a notice leaves the queue after its receiver has taken it, so a crash in between tells it
again, under the same id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from aggregator.telling.notices import Notice
from medveil.errors import BadFile
from medveil.files import replace_durably
from medveil.handed import parsed
from medveil.log import get_logger
from medveil.values import Frozen

FILE = "notices.json"
MOST_WAITING, MOST_TOLD = 500, 2000
MOST_BYTES = 8 * 2**20
FIRST_S, LONGEST_S, TRIES = 15.0, 3600.0, 20
"""Pauses between tries double from the first to the longest; twenty tries take about half a day."""
log = get_logger()


class Owed(Frozen):
    """A notice for one receiver."""

    notice: Notice
    receiver: Annotated[str, Field(max_length=64)]
    tries: Annotated[int, Field(ge=0)] = 0
    due: float = 0.0
    """Not before then; Unix seconds."""


class State(Frozen):
    """The file."""

    format: Literal["medveil notices 1"] = "medveil notices 1"
    told: dict[str, float] = Field(default_factory=dict)
    """Id → when it was put into the queue; Unix seconds."""
    owed: tuple[Owed, ...] = ()


class Queue:
    """The file in memory; every change is on the disk before it counts.

    Args:
        now: Unix seconds.
    Raises: BadFile if the file is none of ours.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float]) -> None:
        self._path, self._now = folder / FILE, now
        self.begun = self._path.exists()
        """Whether an earlier process has begun to tell."""
        self._state = State()
        if self.begun:
            try:
                data = self._path.read_bytes()
            except OSError as error:
                raise BadFile(name=FILE, problem=error.strerror or "it cannot be read") from error
            self._state = parsed(State, data, name=FILE, most=MOST_BYTES)

    @property
    def owed(self) -> tuple[Owed, ...]:
        """What is still to be told."""
        return self._state.owed

    def take(self, found: Iterable[Notice], receivers: Callable[[Notice], Iterable[str]]) -> int:
        """Put those that were never told into the queue; how many. Raises: OSError.

        Args:
            receivers: who is to be told of a notice.
        """
        standing = {notice.id: notice for notice in found}
        fresh = [notice for name, notice in standing.items() if name not in self._state.told]
        if not fresh and self.begun:
            return 0
        now = self._now()
        told = self._state.told | {notice.id: now for notice in fresh}
        owed = [*self.owed, *(Owed(notice=n, receiver=r) for n in fresh for r in receivers(n))]
        if len(owed) > MOST_WAITING:
            log.error("notices.dropped", count=len(owed) - MOST_WAITING)
        for name in list(told)[: max(0, len(told) - MOST_TOLD)]:
            if name not in standing:  # what still stands would be found again
                del told[name]
        self._keep(State(told=told, owed=tuple(owed[-MOST_WAITING:])))
        return len(fresh)

    def due(self) -> Owed | None:
        """What to try next; None if nothing is due yet."""
        now = self._now()
        return next((one for one in self.owed if one.due <= now), None)

    def settle(self, one: Owed, *, taken: bool) -> None:
        """A try is over: forget the notice, or try again later, or give it up after many tries.

        Raises: OSError.
        """
        rest = [other for other in self.owed if other is not one]
        if not taken and one.tries + 1 < TRIES:
            pause = min(FIRST_S * 2.0**one.tries, LONGEST_S)
            rest.append(one.model_copy(update={"tries": one.tries + 1, "due": self._now() + pause}))
        elif not taken:
            log.error("notice.given-up", kind=one.notice.event, count=one.tries + 1)
        self._keep(self._state.model_copy(update={"owed": tuple(rest)}))

    def _keep(self, state: State) -> None:
        replace_durably(self._path, state.model_dump_json().encode(), private=True)
        self._state, self.begun = state, True
