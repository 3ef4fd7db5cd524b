"""One door to what is measured of an aggregator; commands and pages hold one and show what it gives."""

from __future__ import annotations

import time
from collections.abc import Callable

from aggregator.rounds.status import PlanReader
from aggregator.settings import Settings
from aggregator.storage.past import Wanted
from aggregator.storage.store import Store
from aggregator.watching.audit import Audit, Checked, Head, audit
from aggregator.watching.convergence import Comparison, Convergence, comparison, convergence
from aggregator.watching.past import PastRounds
from aggregator.watching.privacy import Privacy, Reckon, privacy
from aggregator.watching.system import Running, System, system

Plans = frozenset[str] | None
"""Those that somebody may read; None for all."""


class Measures:
    """What is measured. Each answer reads a bounded number of rows, however long the history is.

    Any thread may ask.

    Args:
        reckon: see :mod:`aggregator.watching.privacy`; None where no accountant may run.
        checked: what the last check of the audit log has found; None if there was none.
        running: what only the process itself knows; None in a terminal.
        now: Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        reader: PlanReader | None = None,
        reckon: Reckon | None = None,
        checked: Callable[[], Checked | None] = lambda: None,
        running: Callable[[], Running | None] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._settings, self._now = store, settings, now
        self._reader = reader or PlanReader(store)
        self._reckon, self._checked, self._running = reckon, checked, running
        self._past = PastRounds(store)

    def convergence(self, plan: str, *, gate: float | None = None) -> Convergence:
        """One study over its rounds. Raises: NotFound."""
        return convergence(self._store, self._reader, self._past, plan, now=self._now(), gate=gate)

    def comparison(self, plans: Plans = None, *, task: str = "") -> Comparison:
        """The newest studies beside each other."""
        return comparison(self._store, self._reader, plans, now=self._now(), task=task)

    def privacy(self, plans: Plans = None, *, study: str = "") -> Privacy:
        """What the newest studies cost patients."""
        return privacy(self._store, self._reader, self._reckon, plans, now=self._now(), study=study)

    def audit(self, wanted: Wanted = Wanted(), *, before: int = 0) -> Audit:
        """A page of the audit log."""
        return audit(self._store, wanted, before=before, checked=self._checked(), now=self._now())

    def head(self) -> Head:
        """The head of the audit log, and what the last check has found."""
        head, checked = self._store.past.head(), self._checked()
        return Head(number=head.number, hash=head.hash.hex(), checked=checked)

    def system(self) -> System:
        """The machine and the process."""
        return system(self._store, self._settings, self._running(), now=self._now())
