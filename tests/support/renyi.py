"""Epsilon by Renyi accounting, event by event: an oracle beside the product's own composition."""

from __future__ import annotations

from collections.abc import Iterable

from dp_accounting import dp_event
from dp_accounting.rdp import rdp_privacy_accountant

from privacy.dp.accounting import ORDERS, Event


def rdp_epsilon(events: Iterable[Event], delta: float) -> float:
    """Mironov, Talwar, Zhang, "Renyi differential privacy of the sampled Gaussian mechanism", 2019."""
    accountant = rdp_privacy_accountant.RdpAccountant(orders=ORDERS)
    for event in events:
        noised = dp_event.GaussianDpEvent(event.noise_multiplier)
        accountant.compose(dp_event.PoissonSampledDpEvent(event.sample_rate, noised), event.steps)
    return float(accountant.get_epsilon(delta))
