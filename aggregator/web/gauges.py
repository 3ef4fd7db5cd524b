"""How each study does, for Prometheus: asked at every scrape, of what the coordinator holds in memory.

A study goes by the first sixteen digits of its id. Labels are bounded: the newest studies only, phases,
states and outcomes that the program itself names, and hospitals of small rosters. What counts since the start
of the process is counted as attempts end; nothing here reads a message, a model or a file.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from itertools import accumulate
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from aggregator.rounds import epochs, schedule
from aggregator.rounds.runs import Run, Runs
from aggregator.telling.audit_export import Unsent
from aggregator.watching.studies import is_evaluated
from aggregator.work.cluster import Standing
from aggregator.work.spending import local_epsilon
from medveil.reports import AttemptReport

MOST_STUDIES = 50
"""Studies with lines of their own: those that are not finished first, and the newest first."""
MOST_HOSPITALS = 50
"""Of a larger roster no single hospital is shown."""
MOST_REASONS = 40
"""Different reasons of failures; any further one counts as ``other``."""
PHASE_BUCKETS = (0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
WRITE_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
STUDY = "medveil_study"
STATES = (
    "approvals",
    "between_rounds",
    "round",
    "paused",
    "stopped",
    "withdrawn",
    "amendment",
    "amended",
    "set_aside",
    "ended_early",
    "finished",
)
"""Where a study stands. ``paused`` and the like also while an attempt with masked vectors comes to its end.
``amendment``: a roster that does not work yet; ``set_aside``: it never did; ``amended``: another goes on.
``ended_early``: before its last round had its sum."""
Naming = Literal["none", "index", "name"]


def label_of(plan: str) -> str:
    """What a study is called in the metrics."""
    return plan[:16]


class Seconds:
    """A histogram of seconds without labels of its own."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, *labels: str) -> None:
        """Show it under these labels."""
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        buckets = [(name, float(n)) for name, n in zip(names, accumulate(self._counts), strict=True)]
        family.add_metric(labels, buckets, self._sum)


class StudyGauges:
    """The state of every study, and what has become of its attempts since the process began.

    Args:
        submit: runs a job in a worker, for what needs the accountant.
        hospitals: how single hospitals are called.
    """

    def __init__(
        self,
        runs: Runs,
        submit: Callable[..., Future[float]],
        *,
        hospitals: Naming = "index",
    ) -> None:
        self._runs, self._submit, self._hospitals = runs, submit, hospitals
        self._began = runs.now()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._reasons: Counter[str] = Counter()
        self._phases: dict[tuple[str, str], Seconds] = {}
        self._local: dict[tuple[str, int], Future[float]] = {}
        self.writes = Seconds(WRITE_BUCKETS)

    def count(self, run: Run, report: AttemptReport) -> None:
        """An attempt has ended."""
        study = run.plan.id
        self._ended[study, report.outcome] += 1
        if not report.done:
            reason = report.reason or "none"
            known = reason in self._reasons or len(self._reasons) < MOST_REASONS
            self._reasons[reason if known else "other"] += 1
        for phase, seconds in report.phases.items():
            self._phases.setdefault((study, phase), Seconds(PHASE_BUCKETS)).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """All families. On the coordinator's thread."""
        every = list(self._runs.all())
        newest_first = every[::-1]
        shown = [run for run in newest_first if not run.finished]
        shown = [*shown, *(run for run in newest_first if run.finished)][:MOST_STUDIES]
        yield _gauge(
            "medveil_studies_not_shown", "Studies without lines of their own.", len(every) - len(shown)
        )
        yield from self._in_reach(every)
        yield from self._progress(shown)
        yield from self._patience(shown)
        yield from self._outcomes(shown)
        yield from self._privacy(shown)
        if self._hospitals != "none":
            yield self._each_hospital(shown)
        written = HistogramMetricFamily(
            "medveil_database_write_seconds", "Durable changes of the database, commit included."
        )
        self.writes.add_to(written)
        yield written

    # ---- one study -----------------------------------------------------------------------------------------

    def _in_reach(self, every: Iterable[Run]) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "medveil_hospitals", "Hospitals of the studies that are not finished.", labels=["state"]
        )
        open_ones = [run for run in every if not run.finished]
        reach = {name for run in open_ones for name in self._runs.reachable(run)}
        family.add_metric(["all"], len({name for run in open_ones for name in run.plan.names}))
        family.add_metric(["in_reach"], len(reach))
        yield family

    def _progress(self, shown: Iterable[Run]) -> Iterator[Metric]:
        state = _family("state", "1 for the state that the study is in.", "state")
        phase = _family("phase", "1 for the phase that the open attempt is in.", "phase")
        number = _family("round", "The round that is open; 0 between rounds.")
        rounds = _family("rounds", "Rounds of the whole study, the final evaluation included.")
        attempt = _family("attempt", "Number of the open attempt at its round; 0 between rounds.")
        hospitals = _family("hospitals", "Hospitals by what they have done.", "state")
        for run in shown:
            study, opened = label_of(run.plan.id), run.attempt
            state.add_metric([study, _state(self._runs, run)], 1)
            if opened is not None:
                phase.add_metric([study, opened.state.phase.value], 1)
            number.add_metric([study], opened.key.round if opened else 0)
            attempt.add_metric([study], opened.key.attempt if opened else 0)
            rounds.add_metric([study], run.plan.study.training.rounds + 1)
            for name, count in self._counts(run).items():
                hospitals.add_metric([study, name], count)
        yield from (state, phase, number, rounds, attempt, hospitals)

    def _counts(self, run: Run) -> dict[str, int]:
        opened = None if run.attempt is None else run.attempt.state
        return {
            "roster": len(run.plan.roster),
            "approved": len(run.approvals),
            "refused": len(run.refusals),
            "away": len(run.away & run.approvals.keys()),
            "in_reach": len(self._runs.reachable(run)),
            "needed": schedule.fewest(run.plan),
            "invited": len(opened.invited) if opened else 0,
            "answered": len(opened.answers) if opened else 0,
        }

    def _patience(self, shown: Iterable[Run]) -> Iterator[Metric]:
        waiting = _family("waiting_seconds", "Since the study went on: a phase, a round, its approval.")
        left = _family("deadline_left_seconds", "Until the open phase ends without those it waits for.")
        heard = _family("last_heard_seconds", "Since the hospital was heard from that is silent for longest.")
        now = self._runs.now()
        for run in shown:
            study = label_of(run.plan.id)
            if run.finished or run.approved_at is None:
                continue
            if run.attempt is not None:
                since = run.attempt.phase_opened
                limit = schedule.phase_limit_s(run.plan.study.deadlines, run.attempt.state.phase)
                if limit < math.inf:
                    left.add_metric([study], max(0.0, since + limit - now))
            else:
                since = run.approved_at if run.ended_at is None else run.ended_at
            waiting.add_metric([study], now - since)
            silent = [self._silent(run, name) for name in run.approvals if name not in run.refusals]
            heard.add_metric([study], max(silent, default=0.0))
        yield from (waiting, left, heard)

    def _silent(self, run: Run, name: str) -> float:
        """Seconds since a hospital was heard from; at most since this process began to listen."""
        last = self._runs.heard(name)
        return self._runs.now() - (self._began if last is None else last)

    def _outcomes(self, shown: Iterable[Run]) -> Iterator[Metric]:
        published = CounterMetricFamily(
            f"{STUDY}_rounds_published", "Versions of the model after the first.", labels=["study"]
        )
        ended = CounterMetricFamily(
            f"{STUDY}_attempts", "Attempts that ended since the process began.", labels=["study", "outcome"]
        )
        phases = HistogramMetricFamily(
            f"{STUDY}_phase_seconds",
            "How long phases took; aggregate is the unmasking.",
            labels=["study", "phase"],
        )
        ids = {run.plan.id for run in shown}
        for run in shown:
            study = label_of(run.plan.id)
            published.add_metric([study], run.newest[0].number)
            for outcome in ("done", "failed"):
                ended.add_metric([study, outcome], self._ended[run.plan.id, outcome])
        for (plan, phase), seconds in self._phases.items():
            if plan in ids:
                seconds.add_to(phases, label_of(plan), phase)
        reasons = CounterMetricFamily(
            "medveil_attempt_failures", "Attempts that failed, by the code of the reason.", labels=["reason"]
        )
        for reason, count in self._reasons.items():
            reasons.add_metric([reason], count)
        yield from (published, ended, phases, reasons)

    def _privacy(self, shown: Iterable[Run]) -> Iterator[Metric]:
        spent = _family("epsilon", "Spent by a patient who was in every round so far.", "scope")
        stated = _family("epsilon_stated", "What the whole study costs a patient, as its plan states.")
        for run in shown:
            study, privacy, version = label_of(run.plan.id), run.plan.study.privacy, run.newest[0]
            if privacy.kind == "none":
                continue
            stated.add_metric([study], privacy.epsilon)
            joint = version.epsilon or 0.0
            spent.add_metric([study, "joint"], joint)
            apart = privacy.counts_on_others
            local = self._local_epsilon(run, version.number) if apart else joint
            if local is not None:
                spent.add_metric([study, "local"], local)
        yield from (spent, stated)

    def _local_epsilon(self, run: Run, rounds: int) -> float | None:
        """Counted by a worker, once a version; None until it has: the server keeps no accountant."""
        if rounds == 0:
            return 0.0
        key = run.plan.id, rounds
        if key not in self._local:
            for old in [k for k in self._local if k[0] == run.plan.id]:
                del self._local[old]
            self._local[key] = self._submit(local_epsilon, run.plan.study, rounds)
        counted = self._local[key]
        return counted.result() if counted.done() and counted.exception() is None else None

    def _each_hospital(self, shown: Iterable[Run]) -> Metric:
        family = _family("hospital_last_heard_seconds", "Since this hospital was heard from.", "hospital")
        for run in shown:
            if run.finished or len(run.plan.roster) > MOST_HOSPITALS:
                continue
            for member in run.plan.roster:
                called = member.name if self._hospitals == "name" else str(member.index)
                family.add_metric([label_of(run.plan.id), called], self._silent(run, member.name))
        return family


def _state(runs: Runs, run: Run) -> str:
    """One of :data:`STATES`."""
    if run.finished and epochs.following_plan(runs, run) is not None:
        return "amended"
    if run.directive is not None and run.halted:
        return {"pause": "paused", "stop": "stopped", "withdraw": "withdrawn"}[run.directive.order]
    if not run.begun:
        return "set_aside" if run.finished else "amendment"
    if run.finished:
        return "finished" if is_evaluated(run.last[::-1]) else "ended_early"
    if run.approved_at is None:
        return "approvals"
    return "between_rounds" if run.attempt is None else "round"


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{STUDY}_{name}", text, labels=["study", *labels])


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def by_state(name: str, text: str, values: Mapping[str, float]) -> Metric:
    """A gauge with one label, ``state``."""
    family = GaugeMetricFamily(f"medveil_{name}", text, labels=["state"])
    for state, value in values.items():
        family.add_metric([state], value)
    return family


def audit_families(newest: int, witnessed: int) -> Iterator[Metric]:
    """How long the audit log is, and how much of its end no hospital can vouch for yet."""
    yield CounterMetricFamily("medveil_audit_entries", "Entries of the audit log.", value=newest)
    behind = max(0, newest - witnessed)
    text = "Newest entries of the audit log that no hospital was given to keep yet."
    yield _gauge("medveil_audit_unwitnessed_entries", text, behind)


def archive_gauges(lacks: Unsent) -> Iterator[Metric]:
    """How far the archive of the audit log is behind."""
    text = "Entries of the audit log that its archive does not have."
    yield _gauge("medveil_audit_unsent_entries", text, lacks.entries)
    text = "Since the oldest of them was written; 0: it has all."
    since = 0.0 if lacks.since is None else max(0.0, time.time() - lacks.since)
    yield _gauge("medveil_audit_unsent_seconds", text, since)


def cluster_gauges(standing: Standing, certificate_ends: float | None) -> Iterator[Metric]:
    """How the machines do that add up large sums. Args: certificate_ends: theirs, Unix time."""
    text = "Processes that the cluster's scheduler has; 0: it has none, or does not answer."
    yield _gauge("medveil_cluster_workers", text, standing.workers)
    text = "Segments of sums that the cluster has in hand."
    yield _gauge("medveil_cluster_segments_waiting", text, standing.waiting)
    ended = CounterMetricFamily(
        "medveil_cluster_segments", "Segments since the process began, by outcome.", labels=["outcome"]
    )
    for outcome, count in standing.ended.items():
        ended.add_metric([outcome], count)
    yield ended
    text = "When the cluster computed the last segment, Unix time; 0: none since the process began."
    yield _gauge("medveil_cluster_last_segment_timestamp_seconds", text, standing.last)
    if certificate_ends is not None:
        text = "Until the certificate of the cluster's processes expires."
        yield _gauge("medveil_cluster_certificate_seconds_left", text, certificate_ends - time.time())


def process_gauges(*, leads: bool, version: str) -> Iterator[Metric]:
    """What any process tells of itself."""
    yield _gauge("medveil_leader", "1 if this process leads, 0 if it stands by.", float(leads))
    yield InfoMetricFamily("medveil_build", "The program's version.", value={"version": version})
