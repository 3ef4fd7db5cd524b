"""When an amended plan takes over from the plan before it: between two attempts, and never halfway.

The old roster works until enough hospitals of the new one have approved and are in reach for an attempt. From
then on the old one opens nothing: one transaction ends it and begins the new one, from the newest version.
"""

from __future__ import annotations

from collections.abc import Callable

from aggregator.rounds.runs import Run, Runs, next_round
from aggregator.rounds.schedule import fewest


def successor(runs: Runs, run: Run, is_approved: Callable[[Run], bool]) -> Run | None:
    """The amended plan that takes over from a plan now; the oldest, if there are more. None: nobody does."""
    if run.attempt is not None or not _may_end(run):
        return None
    for one in runs.all():
        waits = not one.begun and not one.finished and not one.halted and _follows(one, run)
        if waits and is_approved(one) and len(_ready(runs, one, run)) >= fewest(one.plan):
            return one
    return None


def _ready(runs: Runs, one: Run, before: Run) -> list[str]:
    """Who could join an attempt of an amended plan now. Whoever is away says so of the plan that works."""
    return [name for name in runs.reachable(one) if name not in before.away]


def is_moot(runs: Runs, run: Run) -> bool:
    """Whether an amended plan that waits can never take over: another one has, or the study is over."""
    before = None if run.plan.before is None else runs.get(run.plan.before.id)
    if before is None or not before.finished:
        return False
    return following_plan(runs, before) is not None or not _may_end(before)


def following_plan(runs: Runs, run: Run) -> str | None:
    """The amended plan that has taken over from a plan, if one has. Any thread may ask."""
    return next((one.plan.id for one in list(runs.all()) if one.begun and _follows(one, run)), None)


def _follows(one: Run, run: Run) -> bool:
    return one.plan.before is not None and one.plan.before.id == run.plan.id


def _may_end(run: Run) -> bool:
    """Whether another roster may go on where a plan is: no sum can still be opened, rounds are left, and the
    admin has not halted it.

    A plan that amends another one must have made a version: hospitals follow no roster but the last.
    """
    version, _ = run.newest
    if not run.begun or run.halted or (run.plan.before is not None and version.round < run.first_round):
        return False
    if run.last:
        last = run.last[-1]
        closed = (
            version.parent != version.model
            if last.done
            else last.failed_early or last.certificate is not None
        )
        if not closed:
            return False
    return next_round(run.plan.study, run.last) <= run.plan.study.training.rounds + 1
