"""CPU times of several cases in one loop: a busy machine slows all of them alike, so ratios stay true.

CPU time of the process, all threads together: what one core would need, whoever else uses the machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Case = Callable[[], object]
Times = dict[str, list[float]]


def interleaved(cases: Mapping[str, Case], repeats: int) -> Times:
    """CPU seconds of each case, ``repeats`` times in turn; a first turn warms up and is not counted."""
    times: Times = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, case in cases.items():
            start = time.process_time()
            case()
            if repeat:
                times[name].append(time.process_time() - start)
    return times


def median(times: list[float]) -> float:
    """The middle one, in seconds."""
    return statistics.median(times)


def ratio(one: list[float], other: list[float]) -> float:
    """The middle one of the ratios taken side by side."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))
