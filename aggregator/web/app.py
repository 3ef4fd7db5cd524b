"""The FastAPI application: it assembles store, coordinator and routes and keeps the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from prometheus_client.core import Metric
from starlette.types import Scope

from aggregator.access.nonces import EarlyNonces
from aggregator.access.signatures import Gatekeeper
from aggregator.adminkey import open_store, settle_key
from aggregator.rounds.coordinator import Coordinator
from aggregator.settings import Settings
from aggregator.storage.open import open_blobs
from aggregator.storage.transactions import NotLeading
from aggregator.web.dashboard.checking import Checking
from aggregator.web.dashboard.pages import add_dashboard
from aggregator.web.dashboard.running import Reckoning
from aggregator.web.entrance.pages import add_entrance
from aggregator.web.gauges import cluster_gauges, process_gauges
from aggregator.web.limits import Gate
from aggregator.web.metrics import Metrics, certificate_ends, last_backup
from aggregator.web.problems import bare_app
from aggregator.web.recent import Recent
from aggregator.web.routes import hospitals, keepers, models, people, relays
from aggregator.web.routes.parameters import READING
from aggregator.web.service import Service
from aggregator.web.standby import open_stand_by
from aggregator.web.telling import telling
from aggregator.work.cluster import Cluster
from aggregator.work.open import CERTIFICATE, open_cluster
from aggregator.work.open import FOLDER as CLUSTER
from aggregator.work.workers import Workers
from medveil.log import get_logger

TICK_S = 0.2
STANDBY_S = 1.0
"""How often a process that stands by tries to take the lead."""
log = get_logger()


def create_app(settings: Settings) -> FastAPI:
    """An aggregator over the folder that ``medveil aggregator init`` made. Raises: UnusableCluster."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = open_service(settings, workers, cluster)
        app.state.stand_by = None if app.state.service else open_stand_by(settings)
        board.warm()
        keeper = asyncio.create_task(_keep_going(app, settings, workers, cluster))
        yield
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        if app.state.service is not None:
            await asyncio.to_thread(app.state.service.tell_end)
        for serving in filter(None, (app.state.service, app.state.stand_by)):
            serving.close()
        board.close()
        await asyncio.to_thread(app.state.checking.close)
        if cluster is not None:
            await asyncio.to_thread(cluster.close)
        workers.shutdown()  # what they had in hand is made again after the next start

    app = bare_app("MedVeil aggregator", lifespan)
    app.state.service = app.state.stand_by = None
    app.state.workers = workers = Workers(settings.workers)
    cluster = open_cluster(settings.folder, settings.cluster, settings.without_cluster, workers)
    app.state.metrics = Metrics(tls=settings.folder / "tls", disk=settings.folder)
    app.state.metrics.show(partial(_gauges, app, settings, cluster))
    app.add_middleware(Gate, limits=settings.limits, observe=partial(_observe, app))
    app.include_router(relays.router)  # before the hospitals': "relayed" is no kind of message
    app.include_router(hospitals.router)
    app.include_router(keepers.router)
    app.include_router(models.router)
    app.include_router(people.router)
    add_entrance(app, settings)
    app.state.recent, app.state.reckoning = Recent(), Reckoning(workers)
    app.state.checking = Checking(settings)
    board = add_dashboard(app, settings)
    _describe_senders(app)
    return app


def _observe(app: FastAPI, scope: Scope, status: int, seconds: float) -> None:
    """A request has ended."""
    app.state.metrics.request(scope, status, seconds)
    app.state.recent.request(scope, status, seconds)


def _gauges(app: FastAPI, settings: Settings, cluster: Cluster | None) -> Iterator[Metric]:
    service: Service | None = app.state.service
    yield from process_gauges(leads=service is not None, version=version("medveil"))
    yield last_backup(settings.folder)
    if service is not None:
        yield from service.gauges()
        if cluster is not None:
            ends = certificate_ends(settings.folder / CLUSTER / CERTIFICATE)
            yield from cluster_gauges(cluster.standing, ends)


def _describe_senders(app: FastAPI) -> None:
    """Say in the OpenAPI document how a sender shows who it is: all five headers, or a token.

    The document is made when somebody first asks for it: it takes longer than all the rest of a start.
    """
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _add_senders(plain())
        return plain()

    app.openapi = described  # type: ignore[method-assign]


def _add_senders(document: dict[str, Any]) -> None:
    document["components"] = document.get("components", {}) | {
        "securitySchemes": {
            "signature": {"type": "apiKey", "in": "header", "name": "MedVeil-Signature"},
            "token": {"type": "http", "scheme": "bearer"},
        }
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            if "401" in operation["responses"]:
                reads = operation.get("tags") == [READING]
                operation["security"] = [{"signature": []}, *([{"token": []}] if reads else [])]


def open_service(settings: Settings, workers: Workers, cluster: Cluster | None = None) -> Service | None:
    """Take the lead on the database and read everything from it; None while another process leads.

    Raises: what Store raises, NoAdminKey.
    """
    store = open_store(settings)
    try:
        if not store.transactions.lead():
            store.close()
            return None
        settle_key(settings.folder, store)
        blobs = open_blobs(settings.folder, settings.blobs)
        blobs.sweep()
        coordinator = Coordinator(store, blobs, workers=workers, cluster=cluster)
        if cluster is not None:
            cluster.watch()
        early = EarlyNonces(settings.folder / "nonces")
        if early.existed:  # what another process took in this very second is stale from the next one on
            time.sleep(1 - time.time() % 1)
        return Service(store, coordinator, Gatekeeper(early=early), settings)
    except Exception:
        store.close()
        raise


async def _keep_going(app: FastAPI, settings: Settings, workers: Workers, cluster: Cluster | None) -> None:
    """Lead as long as this process may, then stand by until it may again."""
    loop = asyncio.get_running_loop()
    while True:
        service: Service | None = app.state.service
        if service is None:
            await _stand_by(app, settings, workers, cluster)
            continue
        log.info("lead.taken")
        service.coordinator.on_result = partial(loop.call_soon_threadsafe, service.wake)
        beside = [asyncio.create_task(one) for one in (service.keep_told(), service.keep_hearing())]
        try:
            async with telling(service, settings):
                await _keep_time(service)
        except NotLeading:
            log.error("lead.lost")
        finally:
            for one in beside:
                one.cancel()
        app.state.service = None
        await asyncio.to_thread(service.close)


async def _stand_by(app: FastAPI, settings: Settings, workers: Workers, cluster: Cluster | None) -> None:
    """Read for others, and try once to take the lead."""
    try:
        if app.state.stand_by is None:
            app.state.stand_by = await asyncio.to_thread(open_stand_by, settings)
        await asyncio.sleep(STANDBY_S)
        app.state.service = await asyncio.to_thread(open_service, settings, workers, cluster)
    except Exception as error:  # the database may come back
        log.error("standby.failed", reason=type(error).__name__)
        await asyncio.sleep(STANDBY_S)
    if app.state.service is not None and app.state.stand_by is not None:
        before, app.state.stand_by = app.state.stand_by, None
        await asyncio.to_thread(before.close)


async def _keep_time(service: Service) -> None:
    while True:
        try:
            if await service.tick():
                service.announce()
        except NotLeading:
            raise
        except Exception as error:  # nothing may stop the clock of all plans; the tick is tried again
            log.error("tick.failed", reason=type(error).__name__)
        await service.pause(TICK_S)
