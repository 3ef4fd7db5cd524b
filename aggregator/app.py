"""The FastAPI application: it assembles store, coordinator and routes and keeps the clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from aggregator.auth import Gatekeeper
from aggregator.blobs import Blobs
from aggregator.coordinator import Coordinator
from aggregator.problems import on_bad_address, on_error
from aggregator.routes import hospitals, people
from aggregator.routes.desk import Desk
from aggregator.settings import Settings
from aggregator.store import Store
from aggregator.workers import Workers
from medveil.errors import Error
from medveil.identity import Identity
from medveil.log import get_logger

TICK_S = 0.2
log = get_logger()


def create_app(settings: Settings) -> FastAPI:
    """An aggregator over the folder that ``medveil aggregator init`` made."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = Store(settings.folder / "aggregator.db")
        admin = Identity.load("admin", settings.folder / "admin.key")
        workers = Workers(settings.workers)
        coordinator = Coordinator(store, Blobs(settings.folder), admin_key=admin.public_key, workers=workers)
        app.state.desk = desk = Desk(store, coordinator, Gatekeeper())
        loop = asyncio.get_running_loop()
        coordinator.on_result = lambda: loop.call_soon_threadsafe(desk.hurry)
        clock = asyncio.create_task(_keep_time(desk))
        yield
        clock.cancel()
        with suppress(asyncio.CancelledError):
            await clock
        desk.close()
        workers.shutdown()  # what they had in hand is made again after the next start

    app = FastAPI(
        title="MedVeil aggregator",
        version="1",
        lifespan=lifespan,
        exception_handlers={
            Error: on_error,
            RequestValidationError: on_bad_address,
            HTTPException: on_bad_address,
        },
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(hospitals.router)
    app.include_router(people.router)
    return app


async def _keep_time(desk: Desk) -> None:
    while True:
        try:
            if await desk.run(desk.coordinator.tick):
                desk.announce()
        except Exception as error:  # nothing may stop the clock of all plans; the tick is tried again
            log.error("tick.failed", reason=type(error).__name__)
        await desk.pause(TICK_S)
