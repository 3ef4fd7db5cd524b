"""Opening a cluster by its address, and running its processes; the engine is loaded when it is needed."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from aggregator.work.cluster import LOCAL, WAIT, Cluster, Engine, UnusableCluster

FOLDER = "cluster"
"""In the aggregator's folder, and in that of a machine that computes for it: what proves its processes."""
AUTHORITY, CERTIFICATE, KEY = FILES = ("ca.pem", "cluster.pem", "cluster.key")


def open_cluster(folder: Path, address: str, without: str, local: Executor) -> Cluster | None:
    """What adds up large sums on other machines; None where no address is set.

    Args:
        without: what becomes of a sum that the cluster does not compute: ``local`` or ``wait``.
        local: this machine's workers.
    Raises: UnusableCluster.
    """
    if not address:
        return None
    if without not in (LOCAL, WAIT):
        raise UnusableCluster(problem=f"'without_cluster' is neither '{LOCAL}' nor '{WAIT}'")
    check_cluster(folder, address)
    return Cluster(_connect_to(address, folder), local if without == LOCAL else None)


def check_cluster(folder: Path, address: str) -> None:
    """Raises: UnusableCluster unless engine, address and certificates are as they should be."""
    check_address(address)
    if find_spec("distributed") is None:
        problem = "dask.distributed is missing; install it with: pip install 'medveil[cluster]'"
        raise UnusableCluster(problem=problem)
    authority, certificate, key = (folder / FOLDER / name for name in FILES)
    try:
        ssl.create_default_context(cafile=authority).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        problem = f"the certificate in its folder '{FOLDER}' cannot be read"
        raise UnusableCluster(problem=problem) from error


def check_address(address: str) -> None:
    """Raises: UnusableCluster."""
    try:
        parts = urlsplit(address)
        good = parts.scheme == "tls" and parts.hostname and parts.port and address == f"tls://{parts.netloc}"
    except ValueError:  # a port that is no number
        good = False
    if not good or "@" in address:
        raise UnusableCluster(problem="its address does not read tls://HOST:PORT")


def run_scheduler(folder: Path, address: str, host: str = "") -> None:
    """Deal out jobs on this address until told to stop.

    Args: host: what of this machine to listen on, where that is not what the address names.
    Raises: UnusableCluster.
    """
    check_cluster(folder, address)
    from aggregator.work import engine

    engine.run_scheduler(address, host, *_files(folder))


def run_workers(folder: Path, address: str, count: int) -> None:
    """Compute segments in so many processes until told to stop. Raises: UnusableCluster."""
    check_cluster(folder, address)
    from aggregator.work import engine

    engine.run_workers(address, folder, engine.security_of(*_files(folder)), count)


def _connect_to(address: str, folder: Path) -> Callable[[], Engine]:
    def connect() -> Engine:
        from aggregator.work import engine

        return engine.Connected(address, engine.security_of(*_files(folder)))

    return connect


def _files(folder: Path) -> list[str]:
    return [str(folder / FOLDER / name) for name in FILES]
