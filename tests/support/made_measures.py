"""Made-up values of what is measured, for a dashboard without an aggregator behind it."""

from __future__ import annotations

from typing import Any

from aggregator.errors import NotFound
from aggregator.storage.past import Wanted
from aggregator.watching.audit import Audit, EntrySeen, Head, Holder
from aggregator.watching.convergence import Column, Compared, Comparison, Convergence, Figure, Span
from aggregator.watching.privacy import Privacy, StudyPrivacy
from aggregator.watching.system import Minute, Requests, Running, System
from aggregator.watching.values import StudySeen

NOW = 1_796_000_000.0
FIGURE = Figure(value=0.9, low=0.85, high=0.95, words="0.850 to 0.950 (best guess 0.900)")


class MadeMeasures:
    """Knows these studies.

    Args:
        made: what else is made up: ``studies_``, and ``hostile``, words of others wherever they have any.
    """

    def __init__(self, made: Any) -> None:
        self._made = made

    @property
    def studies(self) -> tuple[StudySeen, ...]:
        """As they are now."""
        found: tuple[StudySeen, ...] = self._made.studies_
        return found

    @property
    def _hostile(self) -> str:
        return str(self._made.hostile)

    def convergence(self, plan: str, *, gate: float | None = None) -> Convergence:
        """Three rounds. Raises: NotFound."""
        study = next((one for one in self.studies if one.plan == plan), None)
        if study is None:
            raise NotFound()
        return Convergence(
            plan=plan,
            study=study.name,
            figure_name="AUROC",
            higher_is_better=True,
            privacy="joint",
            every_round=True,
            rounds=13,
            attempts=3,
            all_read=True,
            each=1,
            columns=COLUMNS,
            newest=(),
            last=FIGURE,
            last_round=3,
            as_of=NOW,
        )

    def comparison(self, plans: frozenset[str] | None = None, *, task: str = "") -> Comparison:
        """Each study once."""
        found = [one for one in self.studies if plans is None or one.plan in plans]
        return Comparison(studies=tuple(map(_compared, found)), left_out=0, as_of=NOW)

    def privacy(self, plans: frozenset[str] | None = None, *, study: str = "") -> Privacy:
        """Each study once, without noise."""
        found = [one for one in self.studies if plans is None or one.plan in plans]
        told = tuple(
            StudyPrivacy(
                plan=one.plan,
                study=one.name,
                kind="none",
                hospitals=6,
                least_in_sum=3,
                smallest_group=10,
                finished=False,
                noise=None,
            )
            for one in found
        )
        return Privacy(studies=told, left_out=0, as_of=NOW)

    def audit(self, wanted: Wanted, *, before: int = 0) -> Audit:
        """One entry."""
        entry = EntrySeen(
            number=7,
            at=NOW,
            actor=self._hostile or "admin",
            action="plan.refused",
            subject=self._hostile or "plans/x",
            details={"reason": self._hostile},
            hash="a" * 64,
        )
        holder = Holder(hospital=self._hostile or "lyon", entry=3, at=NOW, since=4)
        return Audit(
            head=7,
            hash="a" * 64,
            entries=(entry,),
            actor=wanted.actor,
            action=wanted.action,
            text=wanted.text,
            first=1,
            last=7,
            holders=(holder,),
            as_of=NOW,
        )

    def head(self) -> Head:
        """Seven entries, never checked."""
        return Head(number=7, hash="a" * 64)

    def system(self) -> System:
        """A process that leads."""
        minutes = (Minute(at=NOW - 60, requests=5, refused=1, failed=0),)
        running = Running(
            leads=True,
            started=NOW - 3600,
            version="0.1.0",
            workers=2,
            workers_alive=1,
            jobs=0,
            body_limit=1,
            unsent=2,
            unsent_since=NOW - 60,
            requests=Requests(minutes=minutes, per_s=0.1, usual_s=0.025, slow_s=0.5),
        )
        return System(
            running=running,
            database="sqlite",
            database_bytes=1,
            lead=1,
            open_attempts=0,
            audit_entries=7,
            disk_free=1,
            disk_size=2,
            disk_mark="done",
            backup_at=None,
            backup_mark="waiting",
            certificates=(),
            packages=(),
            as_of=NOW,
        )


COLUMNS = tuple(
    Column(
        first=number,
        last=number,
        attempts=1,
        failed=0,
        figure=Span(least=0.8, most=0.8),
        interval=Span(least=0.7, most=0.9),
        seconds={"training": 60.0, "sending": 3.0, "rest": 1.0},
        bytes={"training": 1e6, "sending": 2e6, "rest": 1e3},
        began=6,
        dropped=1,
    )
    for number in (1, 2, 3)
)


def _compared(study: StudySeen) -> Compared:
    return Compared(
        plan=study.plan,
        study=study.name,
        task="classification",
        figure_name="AUROC",
        higher_is_better=True,
        hospitals=6,
        rounds=13,
        round=3,
        finished=False,
        privacy="none",
        epsilon=None,
        stated=None,
        figure=FIGURE,
        figure_round=3,
        recent=COLUMNS,
        seconds_per_round=64.0,
        bytes_per_round=3e6,
        dropped=3,
        began=18,
    )
