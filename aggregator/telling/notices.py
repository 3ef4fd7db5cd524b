"""What waits for a person: found in the coordinator's memory, and named so that each is told once.

A notice's id follows from what happened and never from when it was looked for, so a restart finds the same
ones again and whoever has told them knows. Nothing of a patient, no figure and no model is in a notice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Annotated

from pydantic import Field

from aggregator.monitoring import Event
from aggregator.rounds import epochs
from aggregator.rounds.runs import Run, Runs
from aggregator.rounds.schedule import too_few_left
from aggregator.watching.studies import is_evaluated
from aggregator.watching.values import WaitsFor
from aggregator.watching.words import duration, sentence
from medveil.ids import digest
from medveil.reports import AttemptReport
from medveil.shown import plain
from medveil.values import Frozen, Name

CERTIFICATE_DAYS = (21, 7, 1)
"""A certificate's end is told when so many days are left."""
Named = Annotated[tuple[Name, ...], Field(max_length=2000)]
TEST = "test"
HALTED = ("paused", "stopped", "withdrawn", "takeover-halted")
"""A study that its admin has halted waits for nobody else."""


class Notice(Frozen):
    """One thing that a person may want to know."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """The same for the same thing, however often it is told."""
    event: Event | Annotated[str, Field(pattern=f"^{TEST}$")]
    time: str
    """When it was found; UTC, ISO 8601."""
    consortium: str = ""
    study: str = ""
    plan: str = ""
    round: int | None = None
    attempt: int | None = None
    hospitals: Named = ()
    """Who is waited for, who refused, or who was missing."""
    reason: str = ""
    """A code, or a hospital's own words."""
    text: Annotated[str, Field(max_length=1000)]
    """The whole in a sentence or two."""


def id_of(event: str, *what: object) -> str:
    """The id of a notice."""
    return digest("notice", "\n".join([event, *map(str, what)]).encode()).hex()[:32]


def utc(seconds: float) -> str:
    """Unix seconds as UTC time, ISO 8601."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")


class Lookout:
    """Finds what there is to tell. On the coordinator's thread.

    Args:
        waits_for: what a study waits for, by its plan.
        waiting_s: how long a study may stand still.
        certificate_ends: when the server's certificate does, Unix seconds; None if there is none.
    """

    def __init__(
        self,
        runs: Runs,
        waits_for: Callable[[str], WaitsFor],
        *,
        consortium: str,
        waiting_s: float,
        certificate_ends: Callable[[], float | None],
    ) -> None:
        self._runs, self._waits_for, self._consortium = runs, waits_for, consortium
        self._waiting_s, self._certificate_ends = waiting_s, certificate_ends
        self._failed: list[Notice] = []

    def note(self, run: Run, report: AttemptReport) -> None:
        """An attempt has ended; one of an earlier round is in no plan's memory at the next look."""
        if not report.done:
            self._failed.append(self.failed(run, report))

    def look(self) -> list[Notice]:
        """Everything that stands now, told or not."""
        failed, self._failed = self._failed, []
        found = failed + [notice for run in list(self._runs.all()) for notice in self._of(run)]
        ends, now = self._certificate_ends(), self._runs.wall_clock()
        days = None if ends is None else (ends - now) / 86_400
        if ends is not None and days is not None and days <= CERTIFICATE_DAYS[0]:
            step = min(step for step in CERTIFICATE_DAYS if days <= step)
            text = (
                f"The server's certificate ends in {duration(ends - now)}; then no node talks to it any more."
            )
            if ends <= now:
                text = "The server's certificate has ended: no node talks to it any more."
            found.append(self._notice("certificate.ends", int(ends), step, text=text))
        return found

    def _of(self, run: Run) -> Iterator[Notice]:
        plan = run.plan
        for report in run.last:
            if not report.done:
                yield self.failed(run, report)
        for refusal in run.refusals.values():
            name, reason = refusal.hospital, plain(refusal.reason, 300)
            did = "takes no part" if refusal.kind == "refused" else "has taken its approval back"
            text = f"Study {plan.study.name}: the hospital {name} {did}: {reason}"
            yield self._notice(
                "hospital.refused",
                plan.id,
                name,
                refusal.at,
                run=run,
                hospitals=(name,),
                reason=reason,
                text=text,
            )
        goes_on = epochs.following_plan(self._runs, run) is not None
        if run.finished and run.begun and not goes_on:
            made = run.newest[0].number
            reason = "" if is_evaluated(run.last[::-1]) else too_few_left(run)
            early = f" before its last round ({reason})" if reason else ""
            published = f"It published {made} version{'s' if made != 1 else ''}."
            text = f"Study {plan.study.name} is over{early}. {published}"
            yield self._notice("study.finished", plan.id, run=run, text=text)
        since = None if run.finished else _since(run)
        if since is not None and self._runs.now() - since >= self._waiting_s:
            waits = self._waits_for(plan.id)
            if waits.why not in HALTED:
                yield self._waiting(run, waits, self._runs.now() - since)

    def failed(self, run: Run, report: AttemptReport) -> Notice:
        """Of an attempt that has ended without a sum."""
        missing = tuple(n for n in report.advertised if n not in (report.survivors or report.committed))
        reason = report.reason or "unknown"
        text = (
            f"Study {run.plan.study.name}: attempt {report.attempt} at round {report.round} failed "
            f"({plain(reason, 80)}). The model stays as it was; the aggregator goes on by itself."
        )
        number = {"round": report.round, "attempt": report.attempt}
        key = run.plan.id, report.round, report.attempt
        return self._notice(
            "attempt.failed", *key, run=run, hospitals=missing, reason=reason, text=text, **number
        )

    def _waiting(self, run: Run, waits: WaitsFor, seconds: float) -> Notice:
        opened = run.attempt
        where = (run.ended,) if opened is None else (opened.key.round, opened.key.attempt, opened.state.phase)
        text = f"Study {run.plan.study.name} has stood still for {duration(seconds)}. {sentence(waits)}"
        number = {} if opened is None else {"round": opened.key.round, "attempt": opened.key.attempt}
        return self._notice(
            "round.waiting",
            run.plan.id,
            *where,
            run=run,
            hospitals=tuple(one.hospital for one in waits.awaited),
            reason=waits.why,
            text=plain(text, 900),
            **number,
        )

    def _notice(
        self,
        event: Event,
        *what: object,
        text: str,
        run: Run | None = None,
        hospitals: tuple[str, ...] = (),
        reason: str = "",
        **number: int,
    ) -> Notice:
        return Notice(
            id=id_of(event, *what),
            event=event,
            time=utc(self._runs.wall_clock()),
            consortium=self._consortium,
            study="" if run is None else run.plan.study.name,
            plan="" if run is None else run.plan.id,
            hospitals=hospitals,
            reason=plain(reason, 300),
            text=plain(text, 900),
            round=number.get("round"),
            attempt=number.get("attempt"),
        )


def _since(run: Run) -> float | None:
    """When a study went on last (monotonic clock); None before it was approved."""
    if run.approved_at is None:
        return None
    if run.attempt is not None:
        return run.attempt.phase_opened
    return run.approved_at if run.ended_at is None else run.ended_at


def a_test(consortium: str, now: float) -> Notice:
    """What ``medveil aggregator notify test`` sends."""
    text = "This is a test. Nothing happened; the way from the aggregator to you works."
    return Notice(id=id_of(TEST, now), event=TEST, time=utc(now), consortium=consortium, text=text)
