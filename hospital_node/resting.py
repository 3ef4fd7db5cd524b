"""A node that has nothing to compute gives back the memory of the libraries it computes with: it begins anew.

Python gives nothing of a library back, so the process replaces itself by a fresh one of the same number, as
after a stop between two attempts, but at once. It does so only while no attempt is open here: the keys of one
are in memory alone, and stay there until it has ended. Ledger, journal and records are closed before.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

from medveil.log import get_logger

REST_S = 60.0
"""With nothing to do for so long, it rests: an attempt that fails is followed by the next within seconds."""
HEAVY = "torch"
"""Whoever has loaded this one holds hundreds of megabytes."""
RESTED = "MEDVEIL_RESTED"
"""Plans whose images the process before this one has read: they are read again when a round wants them."""
log = get_logger()


class Resting(Exception):
    """The node's files are to be closed and its process replaced.

    Args:
        plans: those that are followed, whose images need not be read ahead again.
    """

    def __init__(self, plans: frozenset[str]) -> None:
        self.plans = plans


class Quiet:
    """Watches for how long nothing was to be computed.

    Args:
        is_heavy: whether there is anything to give back.
        now: seconds, of a clock that only goes forward.
    """

    def __init__(
        self, is_heavy: Callable[[], bool] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._is_heavy, self._now = is_heavy or (lambda: HEAVY in sys.modules), now
        self._since = now()

    def look(self, plans: Iterable[str], *, busy: bool) -> None:
        """Called every moment with the plans that are followed. Raises: Resting."""
        if busy or not self._is_heavy():
            self._since = self._now()
        elif self._now() - self._since >= REST_S:
            raise Resting(frozenset(plans))


def rested() -> frozenset[str]:
    """The plans whose images were read by the process before this one; empty after an ordinary start."""
    return frozenset(os.environ.get(RESTED, "").split())


def begin_anew(plans: frozenset[str]) -> NoReturn:
    """Replace this process by a fresh one with the same command line, number, terminal and service."""
    from medveil_imaging.sources.workers import workers

    workers().close()
    os.environ[RESTED] = " ".join(sorted(plans))
    for name in os.listdir("/proc/self/fd"):  # a driver may have left files open that a fresh process keeps
        if int(name) > 2:
            with suppress(OSError):
                os.set_inheritable(int(name), False)
    os.execv(sys.executable, sys.orig_argv)
