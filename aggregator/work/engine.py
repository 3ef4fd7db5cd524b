"""The cluster's engine, dask.distributed; the optional package is needed only here.

All its connections are TLS with certificates of the cluster's own authority on both sides. It listens nowhere
else: its pages are off, and the port that they would have is bound to the loopback and answers nothing.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Client, Nanny, Scheduler, Security

from aggregator.work.cluster import ClusterUnreachable, UnusableCluster
from aggregator.work.orders import FOLDER_VARIABLE, Order, perform
from aggregator.work.workers import Failure
from medveil.alive import stay_alive
from medveil.log import get_logger

CONNECT_S = 5.0
AGAIN_S = 2.0
"""Pause before a worker looks for its scheduler again."""
OPTIONS: dict[str, Any] = {
    # Nothing of a job on a disk, and nothing of it in a page.
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.preload": [],
    "distributed.scheduler.preload": [],
    "distributed.nanny.preload": [],
    # What has gone is noticed soon, and what cannot be done ends with an error.
    "distributed.comm.require-encryption": True,
    "distributed.comm.timeouts.connect": f"{CONNECT_S:g}s",
    "distributed.comm.timeouts.tcp": "15s",
    "distributed.scheduler.worker-ttl": "30s",
    "distributed.scheduler.no-workers-timeout": "10s",
    "distributed.scheduler.allowed-failures": 2,
    # Its log lines may show a job: those of the processes that it starts are set by their environment.
    "distributed.nanny.pre-spawn-environ": {"DASK_LOGGING__DISTRIBUTED": "critical", "OMP_NUM_THREADS": "1"},
}
LOOPBACK = "127.0.0.1:0"
log = get_logger()


@contextmanager
def _settled() -> Iterator[None]:
    """Our options, whatever the machine's say; its own log lines, which may show a job, are left out."""
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with dask.config.set(OPTIONS):
        yield


def security_of(authority: str, certificate: str, key: str) -> Security:
    """What proves a process of the cluster to all others, out of three files."""
    kinds = {f"tls_{role}_cert": certificate for role in ("client", "scheduler", "worker")}
    kinds |= {f"tls_{role}_key": key for role in ("client", "scheduler", "worker")}
    return Security(
        require_encryption=True, tls_ca_file=authority, tls_min_version=ssl.TLSVersion.TLSv1_3, **kinds
    )


class Connected:
    """A connection to the scheduler (:class:`~aggregator.work.cluster.Engine`).

    Raises: ClusterUnreachable.
    """

    def __init__(self, address: str, security: Security) -> None:
        with _settled():
            try:
                self._client = Client(
                    address, security=security, timeout=CONNECT_S, set_as_default=False, name="medveil"
                )
            except (OSError, TimeoutError, ValueError) as error:
                raise ClusterUnreachable(problem="its scheduler does not answer") from error
        self._executor = self._client.get_executor(pure=False)

    def check(self) -> int:
        """See above."""
        workers = self.workers
        if not workers:
            raise ClusterUnreachable(problem="it has no worker")
        return workers

    @property
    def workers(self) -> int:
        """How many it has. Raises: ClusterUnreachable."""
        if self._client.status != "running":
            raise ClusterUnreachable(problem="its scheduler has gone")
        try:
            told = self._client.sync(self._client.scheduler.identity, n_workers=0, callback_timeout=CONNECT_S)
        except Exception as error:  # it hangs, or the connection broke while it was asked
            raise ClusterUnreachable(problem="its scheduler does not answer") from error
        return int(told["n_workers"])

    def hand_in(self, order: Order, number: int) -> Future[bytes | Failure]:
        """See above."""
        handed: Future[bytes | Failure] = self._executor.submit(perform, order, number)
        return handed

    def close(self) -> None:
        """See above."""
        with suppress(Exception):  # what is gone cannot be told
            self._client.close(timeout=1)


def run_scheduler(address: str, host: str, *files: str) -> None:
    """Deal out jobs on this address until SIGTERM or SIGINT.

    Args: host: what of this machine to listen on, where that is not what the address names.
    Raises: UnusableCluster.
    """
    security, parts = security_of(*files), urlsplit(address)

    async def serve(stop: asyncio.Event) -> None:
        scheduler = Scheduler(
            host=host or parts.hostname,
            port=parts.port,
            protocol="tls",
            security=security,
            dashboard=False,
            dashboard_address=LOOPBACK,
        )
        try:
            await scheduler
        except OSError as error:
            where = f"{host or parts.hostname}:{parts.port}"
            raise UnusableCluster(problem=f"the scheduler cannot listen on {where}") from error
        log.info("scheduler.starting", port=parts.port)
        await stop.wait()
        await scheduler.close(reason="told to stop")

    _run(serve)


def run_workers(address: str, folder: Path, security: Security, count: int) -> None:
    """Compute segments in so many processes, each on one core, until SIGTERM or SIGINT.

    A scheduler that is away is looked for again and again.
    """

    async def one(stop: asyncio.Event) -> None:
        while not stop.is_set():
            with tempfile.TemporaryDirectory(prefix="medveil-worker-") as scratch, suppress(Exception):
                await _work(address, folder, security, scratch, stop)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), AGAIN_S)

    async def serve(stop: asyncio.Event) -> None:
        log.info("worker.starting", count=count)
        await asyncio.gather(*(one(stop) for _ in range(count)))

    _run(serve)


def _way_to(address: str) -> str:
    """This machine's address on the card that leads to the scheduler; nothing listens on any other."""
    parts = urlsplit(address)
    family, kind, _, _, there = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as asking:
        asking.connect(there)  # of datagrams: nothing is sent
        return str(asking.getsockname()[0])


async def _work(address: str, folder: Path, security: Security, scratch: str, stop: asyncio.Event) -> None:
    """One worker under a guard that starts it again when it dies, as long as the scheduler is there."""
    nanny = Nanny(
        address,
        nthreads=1,
        security=security,
        protocol="tls",
        host=_way_to(address),
        local_directory=scratch,
        dashboard=False,
        dashboard_address=LOOPBACK,
        env={FOLDER_VARIABLE: str(folder.resolve())},
        config=OPTIONS,
        quiet=True,
    )
    try:
        await nanny
        log.info("worker.joined")
        ended = asyncio.ensure_future(nanny.finished())
        told = asyncio.ensure_future(stop.wait())
        await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (ended, told):
            waiting.cancel()
        if not stop.is_set():
            log.error("worker.lost")
    finally:
        await nanny.close(timeout=AGAIN_S)


def _run(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    async def until_told() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        living = asyncio.ensure_future(stay_alive())
        try:
            await serve(stop)
        finally:
            living.cancel()

    with _settled():
        asyncio.run(until_told())
