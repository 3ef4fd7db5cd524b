"""Overview: which studies there are, what each waits for, and who is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aggregator.storage.register import Role
from aggregator.watching.alarms import Alarm, in_order, of_machine, of_study
from aggregator.watching.audit import Head
from aggregator.watching.values import HospitalSeen, StudyLine, StudySeen
from aggregator.web.dashboard.screen import Screen, View
from medveil.reports import Amount, Count
from medveil.values import Frozen

ALIVE = ("running", "approvals", "paused")
READS_LOG = (Role.ADMIN, Role.AUDITOR)
OF_LATE = 10
"""Attempts of a study in which failures are counted."""
MOST_ALIVE, MOST_OVER, MOST_AMENDED = 12, 20, 6
"""Studies that are shown whole, and those that are only named; the newest first."""


class OverviewSeen(Frozen):
    """Everything at a glance."""

    alive: tuple[StudySeen, ...]
    """Studies that go on, the newest first."""
    amendments: tuple[StudySeen, ...] = ()
    """Changes of rosters that have not taken over yet, the newest first."""
    over: tuple[StudyLine, ...]
    """Studies that do not, and those beyond the first dozen."""
    studies: Count
    hospitals: Count
    """Enrolled and not revoked."""
    in_reach: Count | None
    silent: tuple[HospitalSeen, ...]
    """Those that have approved a study that goes on and were not heard from lately; empty if nobody knows."""
    alarms: tuple[Alarm, ...] = ()
    """Of the studies; of the machine too for whoever sees that."""
    head: Head | None = None
    """Of the audit log, for whoever sees that."""
    as_of: Amount


def value(view: View) -> OverviewSeen:
    """What goes on, first of all."""
    lines = [line for line in view.watching.studies() if view.sees(line.plan)]
    going = [line for line in lines if line.state in ALIVE]
    alive = tuple(view.watching.study(line.plan) for line in going[:MOST_ALIVE])
    amending = [line for line in lines if line.state == "amendment"][:MOST_AMENDED]
    amendments = tuple(view.watching.study(line.plan) for line in amending)
    whole = {one.plan for one in (*alive, *amendments)}
    mine = {line.plan for line in lines}
    theirs = [h for h in view.watching.hospitals() if not h.revoked]
    if view.plans is not None:
        theirs = [h for h in theirs if mine.intersection(h.studies)]
    known = [h for h in theirs if h.in_reach is not None]
    busy = {line.plan for line in going}
    return OverviewSeen(
        alive=alive,
        amendments=amendments,
        over=tuple(line for line in lines if line.plan not in whole)[:MOST_OVER],
        studies=len(lines),
        hospitals=len(theirs),
        in_reach=sum(bool(h.in_reach) for h in known) if known else None,
        silent=tuple(h for h in theirs if h.in_reach is False and busy.intersection(h.approved)),
        alarms=in_order(_alarms(view, (*alive, *amendments))),
        head=view.measures.head() if view.role in READS_LOG else None,
        as_of=view.now,
    )


def _alarms(view: View, studies: Sequence[StudySeen]) -> Iterator[Alarm]:
    for one in studies:
        newest = view.watching.rounds(one.plan, limit=OF_LATE).rounds
        yield from of_study(one, newest, now=view.now)
    if view.role == Role.ADMIN:
        yield from of_machine(view.measures.system(), now=view.now)


SCREENS = (Screen("overview", "/", value, "medveil aggregator study status", place=10),)
