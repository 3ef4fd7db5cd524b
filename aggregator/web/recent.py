"""How requests were answered in the last hour, minute by minute: for people, beside Prometheus' counts."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Scope

from aggregator.watching.system import Minute, Requests
from aggregator.web.metrics import BUCKETS

MINUTES = 60
WAITING = ("/work", "/messages/{kind}", "/live")
"""Endings of routes whose answers wait on purpose."""


@dataclass
class _Minute:
    number: int
    requests: int = 0
    refused: int = 0
    failed: int = 0
    times: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))


class Recent:
    """Counts of one process; nothing of a sender is kept. Any thread may ask.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._began = clock()
        self._minutes: deque[_Minute] = deque(maxlen=MINUTES)
        self._one_at_a_time = threading.Lock()

    @property
    def began(self) -> float:
        """When the process did; Unix seconds."""
        return self._began

    def request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one request; 0 stands for a sender that went away before an answer."""
        waits = getattr(scope.get("route"), "path", "").endswith(WAITING)
        with self._one_at_a_time:
            minute = self._present()
            minute.requests += 1
            minute.refused += 400 <= status < 500
            minute.failed += status >= 500 or status == 0
            if not waits:
                minute.times[bisect_left(BUCKETS, seconds)] += 1

    def _present(self) -> _Minute:
        number = int(self._clock() // 60)
        if not self._minutes or self._minutes[-1].number < number:  # a clock set back changes nothing
            self._minutes.append(_Minute(number))
        return self._minutes[-1]

    def seen(self) -> Requests:
        """The last hour."""
        with self._one_at_a_time:
            now = self._present().number
            minutes = [one for one in self._minutes if one.number > now - MINUTES]
            shown = {one.number: (one.requests, one.refused, one.failed) for one in minutes}
            times = [sum(each) for each in zip(*(one.times for one in minutes), strict=True)]
        first = max(int(self._began // 60), now - MINUTES + 1)
        told = [(number, *shown.get(number, (0, 0, 0))) for number in range(first, now + 1)]
        full = told[-6:-1] or told
        return Requests(
            minutes=tuple(
                Minute(at=number * 60.0, requests=requests, refused=refused, failed=failed)
                for number, requests, refused, failed in told
            ),
            per_s=sum(requests for _, requests, _, _ in full) / (60 * len(full)),
            usual_s=_share(times, 0.5),
            slow_s=_share(times, 0.99),
        )


def _share(times: list[int], share: float) -> float | None:
    """The end of the first bucket up to which so many lie; the last has no end, so its beginning stands."""
    whole, below = sum(times), 0
    if not whole:
        return None
    for end, count in zip((*BUCKETS, BUCKETS[-1]), times, strict=True):
        below += count
        if below >= share * whole:
            return end
    raise AssertionError("unreachable")
