"""What Prometheus may see of a relay, and the token that it shows."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from aggregator.access.tokens import BadToken
from aggregator.relay.relay import Relay
from medveil.files import replace_durably


def monitor_token(path: Path) -> str:
    """The token in this file, which only its owner reads; a new one if there is none. Raises: OSError."""
    if not path.exists():
        replace_durably(path, f"{secrets.token_urlsafe(32)}\n".encode(), private=True)
    return path.read_text().strip()


def check_token(header: str, token: str) -> None:
    """Raises: BadToken unless an ``Authorization`` header bears this token."""
    if not token or not hmac.compare_digest(header.encode(), f"Bearer {token}".encode()):
        raise BadToken()


def relay_gauges(relay: Relay, hospitals: int) -> Iterator[Metric]:
    """How the relay does. Args: hospitals: of its region."""
    yield GaugeMetricFamily("medveil_relay_hospitals", "Hospitals of the region.", value=hospitals)
    text = "Attempts for which masked vectors are kept at this moment."
    yield GaugeMetricFamily("medveil_relay_attempts_in_hand", text, value=relay.in_hand)
    sums = CounterMetricFamily(
        "medveil_relay_sums", "Sums of the region since the process began, by outcome.", labels=["outcome"]
    )
    for outcome in ("sent", "failed"):
        sums.add_metric([outcome], relay.sums[outcome])
    yield sums
    text = "Masked vectors in the sums that were sent."
    yield CounterMetricFamily("medveil_relay_vectors", text, value=relay.vectors)
