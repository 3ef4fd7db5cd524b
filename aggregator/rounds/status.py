"""What is told of plans, from the store alone: so any process of the consortium answers, and any thread.

Only who was heard from lately is in no store. The process that leads knows it and says so in a
:class:`~medveil.reports.PlanStatus`; any other leaves it out, and with it that a plan waits for hospitals.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from aggregator.errors import NotFound
from aggregator.rounds import epochs, schedule
from aggregator.rounds.attempt import Attempt
from aggregator.rounds.runs import Run, Runs, read_run
from aggregator.storage.blobs import Blobs
from aggregator.storage.store import Store
from medveil.plan import Plan
from medveil.reports import OpenAttempt, PlanLine, PlanStatus
from medveil.rounds import AttemptKey
from privacy.secagg.messages import Certificate, Certificates

MOST_BEHIND = 64
"""Versions of which it is remembered what they were made of."""


def live_status(runs: Runs, plan_id: str) -> tuple[PlanStatus, int] | None:
    """What a plan in memory is doing, and how many of its attempts have ended; None if it is not there.

    Any thread may ask: whoever looks on need not wait for the coordinator's.
    """
    run = runs.get(plan_id)
    if run is None:
        return None
    in_reach = tuple(name for name in run.plan.names if runs.is_in_reach(run, name))
    pause = schedule.pause_left(run, runs.now())
    told = _status_of(run, in_reach=in_reach, reachable=len(runs.reachable(run)), pause=pause)
    after = epochs.following_plan(runs, run) if run.finished else None
    return told.model_copy(update={"followed_by": after}), run.ended


def _status_of(
    run: Run, *, in_reach: tuple[str, ...] | None, reachable: int | None, pause: float = 0.0
) -> PlanStatus:
    """A plan's present, without its history."""
    open_attempt, attempt = None, run.attempt
    if attempt is not None:
        state = attempt.state
        open_attempt = OpenAttempt(
            round=attempt.key.round,
            attempt=attempt.key.attempt,
            kind=attempt.kind,
            phase=state.phase,
            answered=run.names(state.answers),
            invited=run.names(state.invited),
        )
    return PlanStatus(
        plan=run.plan.id,
        name=run.plan.study.name,
        finished=run.finished,
        hospitals=tuple(run.plan.names),
        approved=tuple(sorted(run.approvals)),
        refusals=tuple(run.refusals.values()),
        away=tuple(sorted(run.away & run.approvals.keys())),
        in_reach=in_reach,
        open=open_attempt,
        waiting_for=schedule.waiting_for(run, reachable, pause),
        directive=run.directive,
    )


@dataclass
class _History:
    """Attempts that ended and versions as JSON, piece by piece; both only grow."""

    attempts: bytes = b""
    ended: int = 0
    last: AttemptKey | None = None
    versions: bytes = b""
    published: int = 0
    """Number of the next version; an amended plan's first one has the last number of the plan before it."""


class PlanReader:
    """Reads plans from the store; what was read once and cannot change is remembered.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, store: Store, *, now: Callable[[], float] = time.monotonic) -> None:
        self._store, self._now = store, now
        self._plans: dict[str, tuple[Plan, bytes]] = {}
        self._attempts: dict[str, Attempt] = {}
        self._histories: dict[str, _History] = {}
        self._behind = lru_cache(MOST_BEHIND)(self._look_behind)
        self._one_at_a_time = threading.RLock()

    def plan(self, plan_id: str) -> Plan:
        """A plan. Raises: NotFound."""
        return self._plan(plan_id)[0]

    def lines(self) -> list[PlanLine]:
        """One line per plan, oldest first."""
        self._look_for_plans()
        rows = [(row, self.plan(row.plan).study.name) for row in self._store.plans.rows()]
        resting = self._resting()
        return [
            PlanLine(plan=r.plan, name=name, finished=r.finished, rounds=r.ended, works=r.plan not in resting)
            for r, name in rows
        ]

    def _resting(self) -> set[str]:
        """The plans whose roster does not work: another one has taken over, or it has not yet."""
        found = set()
        for plan, _ in self._plans.copy().values():
            if plan.before is not None:
                begun = self._store.plans.newest_version(plan.id) is not None
                found.add(plan.before.id if begun else plan.id)
        return found

    def json(self, plan_id: str, live: tuple[PlanStatus, int] | None = None) -> bytes:
        """A whole :class:`PlanStatus` as JSON, with the history. Raises: NotFound.

        Args:
            live: what :func:`live_status` tells, where this process leads.
        """
        status, ended = live or self.present(plan_id)
        now = status.model_dump_json(exclude={"attempts", "versions"}).encode()
        with self._one_at_a_time:
            history = self._history(plan_id, ended)
            attempts, versions = history.attempts, history.versions
            return b"".join((now[:-1], b',"attempts":[', attempts, b'],"versions":[', versions, b"]}"))

    def status(self, plan_id: str) -> PlanStatus:
        """A plan's progress, as far as the store tells. Raises: NotFound."""
        present, _ = self.present(plan_id)
        attempts = tuple(self._store.plans.attempts(plan_id))
        versions = tuple(version for version, _ in self._store.plans.versions(plan_id))
        return present.model_copy(update={"attempts": attempts, "versions": versions})

    def present(self, plan_id: str) -> tuple[PlanStatus, int]:
        """What a plan is doing, without its history, and how many attempts that has. Raises: NotFound."""
        run = self._read(plan_id)
        after = self._following(plan_id) if run.finished else None
        told = _status_of(run, in_reach=None, reachable=None)
        return told.model_copy(update={"followed_by": after}), run.ended

    def opened(self, plan_id: str) -> tuple[Plan, Attempt | None]:
        """A plan and its open attempt, as the store has it at this moment. Raises: NotFound."""
        run = self._read(plan_id)
        return run.plan, run.attempt

    def _read(self, plan_id: str) -> Run:
        plan, signature = self._plan(plan_id)
        with self._one_at_a_time:
            while True:
                known, (row,) = self._attempts.pop(plan_id, None), self._store.plans.rows(plan_id)
                run = read_run(self._store, plan, signature, row.finished, now=self._now(), known=known)
                if run.attempt is None or self._store.plans.is_open(run.attempt.key):
                    break  # if it has ended meanwhile, its events may have gone with it
            if run.attempt is not None:
                self._attempts[plan_id] = run.attempt
        return run

    def _following(self, plan_id: str) -> str | None:
        """The plan that has taken over from a plan, if one has."""
        self._look_for_plans()
        after = [p.id for p, _ in self._plans.copy().values() if p.before and p.before.id == plan_id]
        return next((one for one in after if self._store.plans.newest_version(one) is not None), None)

    def check_model(self, plan_id: str, model: str) -> None:
        """Raises: NotFound unless a version of this plan has this model."""
        newest = self._store.plans.newest_version(plan_id)
        if newest is not None and model == newest.model:
            return
        if not any(self._store.plans.has_model(one, model) for one in self._lineage(plan_id)):
            raise NotFound()

    def _lineage(self, plan_id: str) -> list[str]:
        """The plans whose versions and certificates a plan goes on from, itself first; none before it begins.

        Whoever is on the roster that works makes the model by all sums since the first.
        """
        if self._store.plans.newest_version(plan_id) is None:
            return []
        return [one.id for one in self.plan(plan_id).epochs]

    def behind(self, plan_id: str, number: int) -> tuple[str, str]:
        """The names of a version's sum and of what proves it: a ``Published`` message. Raises: NotFound.

        The attempt that made it tells them; version 0 is made by none. Once they are there they stay,
        and every hospital asks for the same: the report with all its figures is read for the first.
        """
        return self._behind(plan_id, number)

    def _look_behind(self, plan_id: str, number: int) -> tuple[str, str]:
        for one in self._lineage(plan_id):
            version = self._store.plans.version(one, number)
            if version is not None:
                for report in self._store.plans.attempts(one, round_number=version.round):
                    if report.sum is not None and report.proof is not None:
                        return report.sum, report.proof
        raise NotFound()

    def certificates(self, plan_id: str, number: int) -> list[str]:
        """The names of a round's abort certificates. Raises: NotFound."""
        self._plan(plan_id)
        lineage = self._lineage(plan_id)
        reports = [r for one in lineage for r in self._store.plans.attempts(one, round_number=number)]
        return [report.certificate for report in reports if report.certificate is not None]

    def _plan(self, plan_id: str) -> tuple[Plan, bytes]:
        if plan_id not in self._plans:
            self._look_for_plans()
        if plan_id not in self._plans:
            raise NotFound()
        return self._plans[plan_id]

    def _look_for_plans(self) -> None:
        for plan, signature, _ in self._store.plans.all(besides=self._plans.copy()):
            self._plans[plan.id] = plan, signature

    def _history(self, plan_id: str, ended: int) -> _History:
        """A plan's history with at least so many attempts; item by item, or others would stand still."""
        known = self._histories.setdefault(plan_id, _History())
        if known.published and known.ended >= ended:
            return known
        reports = self._store.plans.attempts(plan_id, after=known.last)
        if reports:
            known.attempts = _joined(known.attempts, (r.model_dump_json().encode() for r in reports))
            known.ended += len(reports)
            known.last = AttemptKey(plan_id, reports[-1].round, reports[-1].attempt)
        versions = [version for version, _ in self._store.plans.versions(plan_id, first=known.published)]
        known.versions = _joined(known.versions, (v.model_dump_json().encode() for v in versions))
        known.published = versions[-1].number + 1 if versions else known.published
        return known


def _joined(known: bytes, new: Iterable[bytes]) -> bytes:
    return b",".join(filter(None, (known, *new)))


def certificates_of(blobs: Blobs, names: Iterable[str]) -> bytes:
    """Abort certificates as a ``Certificates`` message. Raises: DamagedBlob, StorageFailed."""
    found = []
    for name in names:
        with blobs.open_sum(name) as file:
            found.append(Certificate.from_bytes(file.read()))
    return Certificates(certificates=tuple(found)).to_bytes()
