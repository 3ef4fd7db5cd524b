"""A study of real processes, followed to its end."""

from __future__ import annotations

import time
from collections.abc import Callable

from medveil.reports import PlanStatus
from medveil_research.client import NoAnswer
from medveil_research.local_consortium import LocalConsortium


def played_out(
    consortium: LocalConsortium, plan: str, *, meanwhile: Callable[[], object], limit_s: float
) -> PlanStatus:
    """A study's status at its end; while its aggregator starts again, nobody answers.

    Args:
        meanwhile: done before each look.
    """
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        time.sleep(0.1)
        meanwhile()
        consortium.check()
        try:
            status = consortium.client.status(plan)
        except NoAnswer:
            continue
        if status.finished:
            return status
    raise AssertionError("the study did not finish in time")
