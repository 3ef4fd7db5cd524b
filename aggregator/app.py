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
from aggregator.limits import Gate
from aggregator.metrics import Metrics
from aggregator.problems import on_bad_address, on_error, on_fault
from aggregator.readiness import Readiness, folder_takes_files
from aggregator.routes import hospitals, people
from aggregator.routes.desk import Desk
from aggregator.settings import Settings
from aggregator.store import Store
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
        coordinator = Coordinator(store, Blobs(settings.folder), admin_key=admin.public_key)
        office = app.state.desk = Desk(store, coordinator, Gatekeeper(), settings)
        parts = {"database": office.register.probe, "blobs": folder_takes_files(settings.folder / "models")}
        app.state.readiness = Readiness(parts)
        app.state.metrics.show(office.gauges)
        clock = asyncio.create_task(_keep_time(office))
        yield
        clock.cancel()
        with suppress(asyncio.CancelledError):
            await clock
        app.state.readiness.close()
        office.close()

    app = FastAPI(
        title="MedVeil aggregator",
        version="1",
        lifespan=lifespan,
        exception_handlers={
            Error: on_error,
            RequestValidationError: on_bad_address,
            HTTPException: on_bad_address,
            Exception: on_fault,
        },
        docs_url=None,
        redoc_url=None,
    )
    app.state.metrics = Metrics(tls=settings.folder / "tls", disk=settings.folder)
    app.add_middleware(Gate, limits=settings.limits, observe=app.state.metrics.request)
    app.include_router(hospitals.router)
    app.include_router(people.router)
    _describe_senders(app)
    return app


def _describe_senders(app: FastAPI) -> None:
    """Say in the OpenAPI document how a sender shows who it is: all five headers, or a token."""
    document = app.openapi()
    document["components"] = document.get("components", {}) | {
        "securitySchemes": {
            "signature": {"type": "apiKey", "in": "header", "name": "MedVeil-Signature"},
            "token": {"type": "http", "scheme": "bearer"},
        }
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            if "401" in operation["responses"]:
                reads = operation.get("tags") == [people.TAG]
                operation["security"] = [{"signature": []}, *([{"token": []}] if reads else [])]


async def _keep_time(desk: Desk) -> None:
    while True:
        try:
            if await desk.run(desk.coordinator.tick):
                desk.announce()
        except Exception as error:  # nothing may stop the clock of all plans; the tick is tried again
            log.error("tick.failed", reason=type(error).__name__)
        await asyncio.sleep(TICK_S)
