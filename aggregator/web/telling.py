"""What runs beside a process that leads, and tells other machines: never in the way of a round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aggregator.settings import Settings
from aggregator.telling.audit_export import followed
from aggregator.web.service import Service


@asynccontextmanager
async def telling(service: Service, settings: Settings) -> AsyncIterator[None]:
    """Inside, the audit log goes to its archive, if there is one. Raises: BadOption."""
    follower = followed(service.store, settings.monitoring.audit, settings.folder)
    tasks = [] if follower is None else [asyncio.create_task(follower.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if follower is not None:
            await follower.close()
