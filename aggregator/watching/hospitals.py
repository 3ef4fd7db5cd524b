"""How a consortium's hospitals are: when they were heard from, with what, and which rounds they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aggregator.storage.register import Party
from aggregator.watching.values import HospitalSeen, Live
from medveil.ids import fingerprint
from medveil.plan import Plan
from medveil.reports import AttemptReport

REACH_S = 60.0
"""A hospital that was heard from within this is in reach, whatever its studies call silence."""


@dataclass(frozen=True)
class OfLate:
    """A study with what its attempts of late tell."""

    plan: Plan
    finished: bool
    approved: frozenset[str]
    reports: Sequence[AttemptReport]


def hospitals_of(
    parties: Sequence[Party],
    enrolled: dict[str, float],
    studies: Sequence[OfLate],
    known: Live | None,
    *,
    fresh: bool,
    last_entries: dict[str, float],
    now: float,
) -> tuple[HospitalSeen, ...]:
    """Every hospital that is enrolled, by name.

    Args:
        known: what a leading process has told last, however long ago. fresh: whether that was of late.
        last_entries: when a hospital last took part in a round, for those of whom nothing else is known.
    """
    found = []
    for party in sorted(parties, key=lambda one: one.name):
        if party.role != "hospital":
            continue
        name = party.name
        heard = None if known is None else known.hospitals.get(name)
        last = heard.at if heard is not None else last_entries.get(name)
        taken, missed = _rounds(name, studies)
        open_ones = [s for s in studies if not s.finished and name in s.plan.names]
        found.append(
            HospitalSeen(
                hospital=name,
                key=fingerprint(party.public_key),
                enrolled=enrolled.get(name, 0.0),
                revoked=party.revoked,
                last_heard=last,
                in_reach=None if not fresh else last is not None and now - last <= REACH_S,
                version=None if heard is None else heard.version,
                clock_s=None if heard is None else heard.clock_s,
                certificate_until=None if heard is None else heard.certificate_until,
                studies=tuple(s.plan.id for s in open_ones),
                approved=tuple(s.plan.id for s in open_ones if name in s.approved),
                taken=taken,
                missed=missed,
                as_of=now,
            )
        )
    return tuple(found)


def _rounds(name: str, studies: Sequence[OfLate]) -> tuple[int, int]:
    taken = missed = 0
    for study in studies:
        if name not in study.plan.names:
            continue
        for report in study.reports:
            if report.done and name in report.survivors:
                taken += 1
            elif report.done and name in study.approved:
                missed += 1
    return taken, missed
