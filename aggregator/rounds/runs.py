"""What is remembered of each plan, and the ways to change it: each is one transaction of the store first.

So what is in memory is what the store holds, and a restart is a reload. The methods run on the coordinator's
thread, unless one says that any thread may call it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from aggregator.errors import NotFound
from aggregator.rounds.attempt import Attempt, go_on, new_attempt, replayed
from aggregator.storage.blobs import Blobs
from aggregator.storage.store import Store
from medveil.errors import RemoteProtocolError
from medveil.log import get_logger
from medveil.messages import SignedDirective
from medveil.plan import Plan
from medveil.reports import AttemptReport, Directive, HospitalsRefusal
from medveil.rounds import AttemptKey, ModelVersion, Phase, RoundKind
from medveil.study import Study
from privacy.secagg import server

WORDS_OF_A_SEGMENT = 2**21
log = get_logger()


class WrongRound(RemoteProtocolError):
    """A message for a round or attempt that is not the current one."""

    code = "wrong-round"

    def __init__(self) -> None:
        super().__init__(
            what="The message is for a round that is not open.",
            meaning="It came too late, or it is an old message repeated; nothing was changed.",
            remedy="The node goes on with the round it is told.",
        )


@dataclass
class Run:
    """A plan that is being worked on."""

    plan: Plan
    admin_signature: bytes
    approvals: dict[str, bytes]
    """Hospital → signature."""
    finished: bool
    newest: tuple[ModelVersion, dict[str, str]]
    """The last version of the model, and the hashes of the optimiser's state."""
    begun: bool = True
    """Whether its roster works, or has worked: an amended plan waits until it takes over."""
    proved: bytes = b""
    """What proves the last version (a ``Published`` message), if this process has made it."""
    first_round: int = 1
    """The first round that this roster works on."""
    ended: int = 0
    """Attempts behind it; what they were is in the store."""
    last: tuple[AttemptReport, ...] = ()
    """Those of the newest round that has any, in order."""
    ended_at: float | None = None
    """When the newest of them ended (monotonic clock); None if another process saw it."""
    attempt: Attempt | None = None
    approved_at: float | None = None
    """When most hospitals had approved (monotonic clock); None before."""
    refusals: dict[str, HospitalsRefusal] = field(default_factory=dict)
    """Hospital → its word that it takes no part."""
    away: set[str] = field(default_factory=set)
    """Who joins no attempt for now, by its own word."""
    directive: Directive | None = None
    """The admin's last word on it, and as it is told to hospitals."""
    told: SignedDirective | None = None
    received: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Hospital → what its last message answered, and the message's SHA-256."""

    @property
    def longest_message(self) -> int:
        """Most bytes that a hospital's message in this plan may have.

        The longest has two boxes' hashes and one box for each hospital, or a hash for each segment.
        """
        words = self.plan.study.model.tensors.size
        return 1024 + 200 * len(self.plan.roster) + 40 * (words // WORDS_OF_A_SEGMENT + 8)

    @property
    def halted(self) -> bool:
        """Whether the admin has said that no attempt opens."""
        return self.directive is not None and self.directive.halts

    def end(self, report: AttemptReport) -> None:
        """Remember an attempt that has ended."""
        self.ended += 1
        self.last = (*(a for a in self.last if a.round == report.round), report)

    def names(self, indices: Container[int]) -> tuple[str, ...]:
        """The hospitals with these indices."""
        return tuple(m.name for m in self.plan.roster if m.index in indices)

    @property
    def mark(self) -> str:
        """Changes whenever a hospital might have something new to do."""
        attempt = self.attempt  # read once: the coordinator may be at work on another thread
        if attempt is None:
            word = "" if self.directive is None else f" word {self.directive.number}"
            return f"finished {self.finished} {self.ended}{word}" + ("" if self.begun else " not begun")
        return mark_of(attempt.key, attempt.state.phase)


def mark_of(key: AttemptKey, phase: Phase) -> str:
    """Names what a hospital is told of an open attempt; a node only compares it."""
    return f"{key.round} {key.attempt} {phase}"


def read_run(
    store: Store,
    plan: Plan,
    signature: bytes,
    finished: bool,
    *,
    now: float,
    known: Attempt | None = None,
) -> Run:
    """A plan as the store has it.

    Args:
        known: an attempt that was read before; if it is still open, it goes on with the events since.
    """
    before, progress = plan.before, store.plans.progress(plan.id)
    run = Run(plan, signature, store.plans.approvals(plan.id), finished, progress.newest, progress.begun)
    if before is not None and run.begun:
        tried = store.plans.progress(before.id).recent
        run.first_round = max(plan.first_round, next_round(plan.study, tried))
    run.refusals = store.plans.refusals(plan.id)
    run.directive, run.told = store.directives.standing().get(plan.id, (None, None))
    for report in progress.recent:
        run.end(report)
    run.ended = progress.ended
    if (row := progress.opened) is None:
        return run
    if known is not None and known.key == row.key:
        run.attempt = go_on(known, store.plans.events(row.key, after=known.events))
    else:
        fresh = new_attempt(plan, row.key, row.kind, row.model, now=now)
        run.attempt = replayed(fresh, plan, store.plans.events(row.key))
    return run


def next_round(study: Study, recent: Sequence[AttemptReport]) -> int:
    """The round of the attempt after the last ones: the next one, or the same if it is tried again.

    Args:
        recent: those of the last rounds that have any, in order; none if nothing was tried.
    """
    if not recent:
        return 1
    last = [report for report in recent if report.round == recent[-1].round]
    tried = sum(not report.failed_early for report in last)
    again = not last[-1].done and tried < study.attempts
    return last[-1].round if again else last[-1].round + 1


class Measured(TypedDict):
    """What every report tells, however the attempt ended."""

    round: int
    attempt: int
    kind: RoundKind
    seconds: float
    phases: dict[str, float]
    advertised: tuple[str, ...]
    committed: tuple[str, ...]
    survivors: tuple[str, ...]
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    phase_bytes: dict[str, tuple[int, int]]
    wrong_shares: tuple[str, ...]


class Runs:
    """The plans of this aggregator in memory, beside the store and the blobs behind them.

    Args:
        now: monotonic seconds, for deadlines. wall_clock: Unix seconds, for records.
    """

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        *,
        now: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.blobs, self.now, self.wall_clock = store, blobs, now, wall_clock
        self._runs: dict[str, Run] = {}
        self._heard: dict[str, float] = {}
        self.on_end: list[Callable[[Run, AttemptReport], object]] = []
        """Called with every attempt that has ended, after it is stored; it may not raise."""

    # ---- which plan, and who is there

    def get(self, plan_id: str) -> Run | None:
        """A plan, if it is in memory; any thread may ask."""
        return self._runs.get(plan_id)

    def all(self) -> Collection[Run]:
        """Every plan in memory, oldest first."""
        return self._runs.values()

    def of(self, plan_id: str, name: str) -> Run:
        """A plan whose roster names this hospital. Raises: NotFound, for any other as well."""
        if plan_id not in self._runs:
            self.reload()  # it may have been created a moment ago, by another process
        run = self._runs.get(plan_id)
        if run is None or run.plan.member(name) is None:
            raise NotFound()
        return run

    def touch(self, name: str) -> None:
        """This hospital has just been heard from; any thread may say so."""
        self._heard[name] = self.now()

    def heard(self, name: str) -> float | None:
        """When a hospital was heard from last (monotonic clock); None if not since the start."""
        return self._heard.get(name)

    def count_bytes(self, plan_id: str, name: str, *, up: int, down: int) -> None:
        """Traffic of a hospital, booked on the attempt that is open; any thread may tell."""
        run = self._runs.get(plan_id)
        attempt = None if run is None else run.attempt
        if attempt is not None:
            phase = attempt.state.phase.value
            attempt.bytes_up[name] += up
            attempt.bytes_down[name] += down
            attempt.phase_up[phase] += up
            attempt.phase_down[phase] += down

    def is_in_reach(self, run: Run, name: str) -> bool:
        """Whether a hospital was heard from lately; any thread may ask."""
        last = max(self._heard.get(name, float("-inf")), run.approved_at or 0.0)
        return self.now() - last <= run.plan.study.deadlines.silence_s

    def reachable(self, run: Run) -> list[str]:
        """Hospitals that have approved (the others take no part) and were heard from lately."""
        ready = (self._heard.keys() & run.approvals) - run.away
        return [n for n in run.plan.names if n in ready and self.is_in_reach(run, n)]

    def is_waited_for(self, run: Run, name: str) -> bool:
        """Whether an open attempt waits for a hospital that has not answered yet."""
        return name not in run.refusals and name not in run.away and self.is_in_reach(run, name)

    # ---- what is in the store

    def reload(self) -> None:
        """Take up plans that are new in the store, and after a restart the attempts that were open."""
        for plan, signature, finished in self.store.plans.all(besides=self._runs):
            self._runs[plan.id] = read_run(self.store, plan, signature, finished, now=self.now())

    def start_over(self) -> None:
        """Forget everything and go on with what the store has open, as a new process does.

        Masked vectors of anything else are what a crash has left. They are looked for before the store is
        read: an attempt has a row before it has masked vectors, so those of a leader that has come in between
        are known to be its own.

        Raises: NotLeading if there is one; StorageFailed: then it is still needed.
        """
        self._runs.clear()
        found = self.blobs.uploads()
        self.reload()
        open_ones = {run.attempt.key.folder for run in self.all() if run.attempt is not None}
        self.store.transactions.check_lead()
        for folder in found - open_ones:
            self.blobs.forget_uploads(folder)

    def open(self, run: Run, key: AttemptKey, kind: RoundKind) -> None:
        """Begin an attempt from the newest model."""
        model = run.newest[0].model
        self.store.plans.open_attempt(key, kind=kind, model=model, now=self.wall_clock())
        run.attempt = new_attempt(run.plan, key, kind, model, now=self.now())
        log.info("round.opened", plan=key.plan, round=key.round, attempt=key.attempt, kind=kind.value)

    def record(
        self,
        attempt: Attempt,
        kind: str,
        body: bytes,
        state: server.ServerState,
        *,
        actor: str = "aggregator",
    ) -> None:
        """Keep a message or closing, and go on to the state after it."""
        self.store.plans.add_event(attempt.key, attempt.events, kind, body, actor=actor)
        attempt.events += 1
        if state.phase is not attempt.state.phase:
            now = self.now()
            attempt.phases[attempt.state.phase.value] = now - attempt.phase_opened
            attempt.phase_opened = now
        attempt.state = state

    def measured(self, run: Run, attempt: Attempt) -> Measured:
        """What the report of this attempt tells, were it to end now."""
        state = attempt.state
        return {
            "round": attempt.key.round,
            "attempt": attempt.key.attempt,
            "kind": attempt.kind,
            "seconds": self.now() - attempt.opened,
            "phases": attempt.phases,
            "advertised": run.names(state.advertised),
            "committed": run.names(state.committed),
            "survivors": run.names(state.survivors),
            "bytes_up": dict(attempt.bytes_up),
            "bytes_down": dict(attempt.bytes_down),
            "phase_bytes": {p: (attempt.phase_up[p], attempt.phase_down[p]) for p in list(attempt.phase_up)},
            "wrong_shares": attempt.wrong_shares,
        }

    def end(
        self,
        run: Run,
        attempt: Attempt,
        report: AttemptReport,
        version: ModelVersion | None = None,
        state: Mapping[str, str] | None = None,
        *,
        proved: bytes = b"",
    ) -> None:
        """End an attempt and publish its version, if it made one, with the optimiser's state (hashes).

        Args:
            proved: what proves the version, for hospitals to be told.
        """
        key = attempt.key
        self.store.plans.end_attempt(key.plan, report, version=version, state=state)
        if version is not None:
            run.newest, run.proved = (version, dict(state or {})), proved
        run.end(report)
        run.ended_at = self.now()
        run.attempt = None
        self.blobs.forget_uploads(key.folder)
        log.info(
            f"round.{report.outcome}",
            plan=key.plan,
            round=key.round,
            attempt=key.attempt,
            survivors=len(attempt.state.survivors),
            reason=report.reason,
        )
        for told in self.on_end:
            told(run, report)

    def take_over(self, run: Run, before: Run) -> None:
        """An amended plan goes on where the plan before it ends, with its model and its numbers."""
        version, state = before.newest
        first = version.model_copy(update={"plan": run.plan.id})
        self.store.plans.take_over(before.plan.id, first, state)
        before.finished = True
        run.begun, run.newest, run.proved = True, (first, dict(state)), before.proved
        run.away |= before.away  # until it says otherwise
        run.first_round = max(run.plan.first_round, next_round(run.plan.study, before.last))
        log.info("plan.amended", plan=before.plan.id, round=run.first_round)

    def finish(self, run: Run) -> None:
        """No more rounds."""
        self.store.plans.finish(run.plan.id)
        run.finished = True
        log.info("plan.finished", plan=run.plan.id)
