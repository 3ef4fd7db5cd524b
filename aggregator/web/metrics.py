"""Counts for Prometheus: how the service does, and by :mod:`aggregator.web.gauges` how each study does.

Labels are on an allow-list, and their values are routes, methods, statuses, codes, reasons, phases and states
that the program itself names, ids of studies and places in a roster. Nothing that a sender makes up becomes a
label; a hospital's name does only where ``monitoring.hospitals`` says so.
"""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cryptography import x509
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from starlette.types import Scope

from aggregator.settings import LAST_BACKUP
from aggregator.web.problems import known_method

ALLOWED_LABELS = frozenset(
    "route method status code reason state le study phase outcome scope hospital version".split()
)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 40.0)
Gauges = Callable[[], Iterable[Metric]]


class Metrics:
    """The counters of one process.

    Args:
        tls: the folder with ``server.pem``, whose days left are shown. disk: its free bytes are shown.
    """

    def __init__(self, *, tls: Path, disk: Path) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "medveil_requests",
            "Requests by route, method and status.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "medveil_request_seconds",
            "Time to answer, the waits of polls and messages included.",
            ["route"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._cut = Counter(
            "medveil_connections_cut",
            "Connections ended by the aggregator, by reason.",
            ["reason"],
            registry=self._registry,
        )
        self._gauges = _Gauges(tls, disk)
        self._registry.register(self._gauges)

    def show(self, gauges: Gauges) -> None:
        """Ask ``gauges`` for the present state at every scrape."""
        self._gauges.ask = gauges

    def request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one request; 0 stands for a sender that went away before an answer."""
        route = getattr(scope.get("route"), "path", "none")
        self._requests.labels(route, known_method(scope["method"]), str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def cut(self, reason: str) -> None:
        """Count a connection that was cut."""
        self._cut.labels(reason).inc()

    def page(self) -> tuple[bytes, str]:
        """Everything as Prometheus' text, and its media type."""
        return generate_latest(self._registry), MEDIA_TYPE


class _Gauges:
    """State that is looked up when Prometheus asks."""

    def __init__(self, tls: Path, disk: Path) -> None:
        self._tls, self._disk = tls, disk
        self.ask: Gauges = tuple

    def collect(self) -> Iterator[Metric]:
        yield from self.ask()
        ends = certificate_ends(self._tls / "server.pem")
        if ends is not None:
            text = "Until the server certificate expires."
            yield GaugeMetricFamily("medveil_certificate_seconds_left", text, value=ends - time.time())
        disk = shutil.disk_usage(self._disk)
        text = "Room for the database and the blobs."
        yield GaugeMetricFamily("medveil_disk_free_bytes", text, value=disk.free)
        yield GaugeMetricFamily(
            "medveil_disk_size_bytes", "The whole disk that they are on.", value=disk.total
        )


def last_backup(folder: Path) -> Metric:
    """When the last backup was made."""
    try:
        seconds = float((folder / LAST_BACKUP).read_text())
    except (OSError, ValueError):
        seconds = 0.0
    text = "When 'medveil aggregator backup' was done last, Unix time; 0: never."
    return GaugeMetricFamily("medveil_backup_timestamp_seconds", text, value=seconds)


def certificate_ends(certificate: Path) -> float | None:
    """When a certificate (PEM) does, Unix seconds; None if there is none."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return None
    return loaded.not_valid_after_utc.astimezone(dt.UTC).timestamp()
