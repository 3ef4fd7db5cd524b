"""What runs beside a process that leads, and tells other machines: never in the way of a round."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from aggregator.settings import Settings
from aggregator.telling.audit_export import followed
from aggregator.telling.messenger import Messenger
from aggregator.telling.notices import Lookout, Notice
from aggregator.telling.queue import Queue
from aggregator.telling.traces import spans_of
from aggregator.web.metrics import certificate_ends
from aggregator.web.service import Service
from medveil.tracing import TraceSender


@asynccontextmanager
async def telling(service: Service, settings: Settings) -> AsyncIterator[None]:
    """Inside, archive and receivers are told what there is, if there are any. Raises: BadOption, BadFile."""
    follower = followed(service.store, settings.monitoring.audit, settings.folder)
    work: list[Coroutine[Any, Any, None]] = [] if follower is None else [follower.run()]
    if settings.monitoring.notify:
        work.append(_messenger(service, settings).run())
    tracer = _tracer(service, settings)
    if tracer is not None:
        work.append(tracer.run())
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if follower is not None:
            await follower.close()
        if tracer is not None:
            await tracer.close()


def _tracer(service: Service, settings: Settings) -> TraceSender | None:
    if settings.monitoring.traces is None:
        return None
    sender = TraceSender(settings.monitoring.traces, "medveil-aggregator", file="aggregator.json")
    runs = service.coordinator.runs
    runs.on_end.append(
        lambda run, report: sender.add(*spans_of(run.plan.id, report, ended=runs.wall_clock()))
    )
    return sender


def _messenger(service: Service, settings: Settings) -> Messenger:
    told = settings.monitoring
    lookout = Lookout(
        service.coordinator.runs,
        service.watching.waits_for,
        consortium=settings.title,
        waiting_s=60 * told.waiting_minutes,
        certificate_ends=lambda: certificate_ends(settings.folder / "tls" / "server.pem"),
    )
    service.coordinator.runs.on_end.append(lookout.note)

    async def look() -> list[Notice]:
        return await service.run(lookout.look)

    return Messenger(told.notify, Queue(settings.folder, now=time.time), look, settings.folder)
