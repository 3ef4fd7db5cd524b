"""What a page tells of the process that answers: its work in hand, and epsilon as its workers reckon it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Executor, Future

from fastapi import FastAPI

from aggregator.settings import Settings
from aggregator.watching.cost import Epsilons, exact
from aggregator.watching.system import Running
from aggregator.web.recent import Recent
from aggregator.work.workers import Failure
from aggregator.work.workers import attempt as attempt_job
from medveil import look
from medveil.plan import Plan

MOST_KEPT = 500


def running(app: FastAPI, settings: Settings, recent: Recent) -> Running:
    """As it is now."""
    service, workers = app.state.service, app.state.workers
    quotas = None if service is None else service.callers.quotas
    lacks = None if service is None else service.archive_lacks()
    return Running(
        leads=service is not None,
        started=recent.began,
        version=look.version(),
        workers=workers.count,
        workers_alive=len(workers.pids),
        jobs=workers.in_hand,
        requests_in_hand=None if quotas is None else quotas.in_hand,
        body_bytes=None if service is None else service.callers.memory.used,
        body_limit=settings.limits.body_memory,
        streams=app.state.streams.open,
        unsent=None if lacks is None else lacks.entries,
        unsent_since=None if lacks is None else lacks.since,
        requests=recent.seen(),
    )


class Reckoning:
    """Epsilons that a worker has reckoned: the server itself keeps no accountant, which takes 70 MB.

    Any thread may ask.
    """

    def __init__(self, workers: Executor) -> None:
        self._workers = workers
        self._one_at_a_time = threading.Lock()
        self._found: OrderedDict[tuple[str, int | None], Future[Epsilons | Failure]] = OrderedDict()

    def __call__(self, plan: Plan, rounds: int | None) -> Epsilons | None:
        """After so many training rounds, or of the whole study; None until a worker has told."""
        key = plan.id, rounds
        with self._one_at_a_time:
            if key not in self._found:
                self._found[key] = self._workers.submit(attempt_job, exact, plan.study, rounds)
                while len(self._found) > MOST_KEPT:
                    self._found.popitem(last=False)
            told = self._found[key]
            if not told.done():
                return None
            if told.cancelled() or told.exception() is not None:  # a worker was killed: it is tried again
                del self._found[key]
                return None
        result = told.result()
        return result if isinstance(result, Epsilons) else None
