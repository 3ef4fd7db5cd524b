"""What a plan asks of this hospital's machine, as far as it can be known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from hospital_node.settings import NodeSettings
from medveil.plan import Plan


@dataclass(frozen=True)
class Demand:
    """Upper estimates, for a person and for the policy."""

    longest_hours: float
    """If every phase of every attempt takes all the time it may."""


def demand_of(plan: Plan, settings: NodeSettings) -> Demand:
    """What a plan asks at most."""
    study = plan.study
    times = study.deadlines
    phases = times.advertise_s + times.share_s + times.upload_s + times.agree_s + times.unmask_s
    each = (phases + times.train_s) * study.attempts
    return Demand(longest_hours=(study.training.rounds + 1) * each / 3600)
