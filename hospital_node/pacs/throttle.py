"""No faster than the hospital allows, and only at its hours."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from medveil.errors import BadOption

LARGEST_PIECE = 2**20
SMALLEST_PIECE = 2**12


@dataclass(frozen=True)
class Hours:
    """From one time of the day to another, by this machine's clock; over midnight if the second is less."""

    begin: dt.time
    end: dt.time

    @classmethod
    def of(cls, text: str) -> Hours:
        """From ``20:00-06:00``. Raises: BadOption."""
        found = re.fullmatch(r"\s*(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*", text)
        try:
            if not found:
                raise ValueError
            begun, past_begun, ends, past_ends = (int(part) for part in found.groups())
            hours = cls(dt.time(begun, past_begun), dt.time(ends, past_ends))
        except ValueError as error:
            raise BadOption(problem="hours are written like 20:00-06:00") from error
        if hours.begin == hours.end:
            raise BadOption(problem="the hours begin and end at the same time")
        return hours

    def __str__(self) -> str:
        return f"{self.begin:%H:%M} and {self.end:%H:%M}"

    def seconds_until_open(self, now: dt.datetime) -> float:
        """0 while it is one of these hours."""
        at = now.time()
        inside = self.begin <= at < self.end if self.begin < self.end else at >= self.begin or at < self.end
        if inside:
            return 0.0
        opens = dt.datetime.combine(now.date(), self.begin)
        opens += dt.timedelta(days=1) * (opens <= now)
        return (opens - now).total_seconds()


class Throttle:
    """Counts what came over the line, and waits where that was too fast.

    Guarantees: after any piece, all that came since the first took at least its bytes / ``most_bytes_s``
        seconds, but for pauses of the other side, which are not made up for.
    Args:
        most_bytes_s: bytes a second; None: no limit.
    """

    def __init__(
        self,
        most_bytes_s: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._clock, self._sleep = most_bytes_s, clock, sleep
        self._paid_until = 0.0
        self.total = 0
        """Bytes so far."""

    @property
    def piece(self) -> int:
        """Bytes to ask for at once: a quarter of a second's worth."""
        if self._rate is None:
            return LARGEST_PIECE
        return int(min(LARGEST_PIECE, max(SMALLEST_PIECE, self._rate / 4)))

    def took(self, size: int) -> None:
        """So many bytes have come; returns when the next may."""
        self.total += size
        if self._rate is None:
            return
        now = self._clock()
        self._paid_until = max(self._paid_until, now) + size / self._rate
        if self._paid_until > now:
            self._sleep(self._paid_until - now)
