"""How a study's attempts went, read a page at a time and remembered: what was over once stays as it was."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from aggregator.rounds.status import PlanReader
from aggregator.storage.past import PastAttempt
from aggregator.storage.store import Store
from medveil.metrics import headline
from medveil.plan import Plan
from medveil.readings import ENDINGS, Reading, named, read
from medveil.reports import PlanLine
from medveil.tasks import TASKS

PAGE = 1000
"""Attempts that one look reads at most in each direction, some 200 µs each."""
MOST_PLANS = 64
"""Studies whose attempts are remembered: some 3 MB for ten thousand rounds."""


@dataclass
class _Known:
    """What was read of one study."""

    past: list[PastAttempt] = field(default_factory=list)
    """Oldest first, without a gap up to the newest."""
    begins: bool = False
    """Whether the first attempt of all is among them."""


class PastRounds:
    """Any thread may ask."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def look(self, plan: Plan) -> tuple[Sequence[PastAttempt], bool]:
        """The attempts that have been read so far, oldest first, and whether those are all.

        Those of the rosters before an amended plan are among them, for model and numbers go on.

        Guarantees: reads at most two pages of a roster, however long the history is; the newest come first,
            and each further look reads one page further back.
        """
        found: tuple[PastAttempt, ...] = ()
        with self._one_at_a_time:
            for one in plan.epochs:  # the newest first
                known = self._known.setdefault(one.id, _Known())
                self._known.move_to_end(one.id)
                self._read_on(one, known)
                found = (*known.past, *found)
                if not known.begins:
                    return found, False
            while len(self._known) > MOST_PLANS:
                self._known.popitem(last=False)
        return found, True

    def _read_on(self, plan: Plan, known: _Known) -> None:
        names, past = figures_of(plan), self._store.past
        if not known.past:
            known.past = past.attempts(plan.id, names, most=PAGE)
            known.begins = len(known.past) < PAGE
            return
        newer = past.attempts(plan.id, names, most=PAGE, after=known.past[-1].place)
        known.past = [*known.past, *newer]
        if not known.begins:
            older = past.attempts(plan.id, names, most=PAGE, before=known.past[0].place)
            known.past = [*older, *known.past]
            known.begins = len(older) < PAGE


def figures_of(plan: Plan) -> tuple[str, ...]:
    """The headline figure, and what a reading of it takes."""
    name = headline(plan.study)
    return (name, *(named(name, ending) for ending in ENDINGS), "noise")


def reading_of(plan: Plan, past: PastAttempt) -> Reading | None:
    """The headline figure of an attempt, as far as its row tells it."""
    name, figures = headline(plan.study), dict(past.figures)
    if past.metric is not None and named(name, "undetermined") not in figures:
        figures = {name: past.metric, **figures}
    return read(figures, name, limits=TASKS[plan.study.task].limits(plan.study, name), headline=True)


def lines_of(store: Store, reader: PlanReader, plans: frozenset[str] | None) -> list[PlanLine]:
    """The studies that may be read, the newest first, each under the roster that works.

    Args:
        plans: None for all.
    """
    lines = [one for one in reversed(reader.lines()) if plans is None or one.plan in plans]
    gone_on = set()
    for one in lines:
        before = reader.plan(one.plan).before
        if before is not None and store.plans.newest_version(one.plan) is not None:
            gone_on.add(before.id)
    return [one for one in lines if one.plan not in gone_on]
