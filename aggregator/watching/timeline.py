"""The timeline of an attempt: who reached which step when, from the audit log's entries of its messages."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from aggregator.rounds.schedule import phase_limit_s
from aggregator.storage.history import Course, Tried
from aggregator.storage.plans import CLOSE, GIVE_UP, RELAYED
from aggregator.watching.values import Lane, Live, PhaseSpan, PlanHeld, Reached, Stand, Step, Timeline
from medveil.plan import Plan
from medveil.reports import AttemptReport, OpenAttempt
from medveil.rounds import Phase
from privacy.secagg.keys import Setting, setting_for
from privacy.secagg.messages import MESSAGES
from privacy.secagg.server import EXPECTS, NEXT

_PHASE_OF = {message: phase for phase, message in EXPECTS.items()}
PHASES = {kind: _PHASE_OF[message] for kind, message in MESSAGES.items()}
STEPS: dict[Phase, Step] = {
    Phase.ADVERTISE: "keys",
    Phase.SHARE: "training",
    Phase.COMMIT: "ready",
    Phase.UPLOAD: "upload",
    Phase.AGREE: "agreed",
    Phase.UNMASK: "shares",
    Phase.ABORT: "gave-up",
}
"""What a hospital has reached when it has answered a phase."""
NARROWING = (Phase.ADVERTISE, Phase.SHARE, Phase.COMMIT, Phase.UPLOAD)
"""Phases after which those who did not answer are out; later ones change nothing about the sum."""


@dataclass
class _Span:
    phase: Phase
    began: float
    ended: float | None = None


@dataclass
class _Walk:
    """An attempt's messages, walked through in order."""

    answered: dict[Phase, dict[str, float]] = field(default_factory=dict)
    spans: list[_Span] = field(default_factory=list)
    relayed_at: float | None = None
    relayed: frozenset[str] = frozenset()
    """Those whose masked vectors came in a region's sum."""

    def of(self, phase: Phase) -> dict[str, float]:
        """Who has answered a phase, and when."""
        return self.answered.get(phase, {})

    def invited(self, phase: Phase, roster: Collection[str]) -> set[str]:
        """Who could answer a phase."""
        if phase is Phase.ADVERTISE:
            return set(roster)
        if phase is Phase.ABORT:
            return set(self.of(Phase.ADVERTISE)) - set(self.of(Phase.UNMASK))
        before = {Phase.SHARE: Phase.ADVERTISE, Phase.COMMIT: Phase.SHARE, Phase.UPLOAD: Phase.COMMIT}
        return set(self.of(before.get(phase, Phase.UPLOAD)))


def timeline_of(
    plan: Plan,
    tried: Tried,
    course: Course | None,
    present: OpenAttempt | None,
    live: Live | None,
    *,
    now: float,
) -> Timeline:
    """One attempt, from its row, the log, and what is known of the moment.

    Args:
        present: where it stands, if it is open.
        live: what the leading process has told of late; None if nothing, or long ago.
    """
    key, report, roster = tried.key, tried.report, plan.names
    walk = _walked(course, tried.opened)
    if course is None:
        _without_times(walk, report, roster)
    _add_relayed(walk, report, present)
    if report is not None:
        for span in walk.spans:
            span.ended = span.ended if span.ended is not None else _end_of(tried, course)
    held = None if live is None or report is not None else live.plans.get(plan.id)
    held = held if held is not None and (held.round, held.attempt) == (key.round, key.attempt) else None
    setting = setting_for(plan, number=key.round, attempt=key.attempt, kind=tried.kind, model=b"")
    return Timeline(
        plan=plan.id,
        study=plan.study.name,
        round=key.round,
        rounds=plan.study.training.rounds + 1,
        attempt=key.attempt,
        kind=tried.kind,
        opened=tried.opened if course is None else course.opened,
        ended=None if report is None else _end_of(tried, course),
        outcome="open" if report is None else report.outcome,
        reason=(report.reason or "") if report is not None else "",
        failed_in=None if report is None else report.failed_in,
        quorum=setting.smallest,
        phases=tuple(_span(plan, setting, walk, span, held) for span in walk.spans),
        lanes=tuple(_lane(walk, name, plan, tried, course, held, live) for name in roster),
        times_known=course is not None,
        as_of=now,
        live_as_of=None if live is None else live.written,
    )


def _walked(course: Course | None, opened: float) -> _Walk:
    walk = _Walk()
    if course is None:
        return walk
    span = _Span(Phase.ADVERTISE, course.opened)
    walk.spans.append(span)
    for message in course.messages:
        if message.kind in (CLOSE, GIVE_UP):
            span.ended = message.at
            following = NEXT.get(span.phase, Phase.DONE) if message.kind == CLOSE else Phase.ABORT
            span = _Span(following, message.at)
            walk.spans.append(span)
        elif message.kind == RELAYED:
            walk.relayed_at = message.at
        elif message.kind in PHASES:
            walk.answered.setdefault(PHASES[message.kind], {}).setdefault(message.actor, message.at)
    return walk


def _without_times(walk: _Walk, report: AttemptReport | None, roster: list[str]) -> None:
    """Who got how far, by the report alone; every time is 0 and none is shown."""
    if report is not None:
        walk.answered[Phase.ADVERTISE] = dict.fromkeys(report.advertised, 0.0)
        walk.answered[Phase.SHARE] = dict.fromkeys(report.advertised, 0.0)
        walk.answered[Phase.COMMIT] = dict.fromkeys(report.committed, 0.0)
        walk.answered[Phase.UPLOAD] = dict.fromkeys(report.survivors, 0.0)


def _add_relayed(walk: _Walk, report: AttemptReport | None, present: OpenAttempt | None) -> None:
    """A region's hospitals have no message of their own for their vectors."""
    if walk.relayed_at is None:
        return
    there: Collection[str] = ()
    if report is not None:
        there = report.survivors
    elif present is not None and present.phase is Phase.UPLOAD:
        there = present.answered
    elif present is not None and present.phase in (Phase.AGREE, Phase.UNMASK):
        there = present.invited
    walk.relayed = frozenset(there) - set(walk.of(Phase.UPLOAD))
    walk.answered.setdefault(Phase.UPLOAD, {}).update(dict.fromkeys(walk.relayed, walk.relayed_at))


def _end_of(tried: Tried, course: Course | None) -> float:
    if course is not None and course.ended is not None:
        return course.ended
    return tried.opened + (0.0 if tried.report is None else tried.report.seconds)


def _need(setting: Setting, phase: Phase, advertised: int) -> int:
    if phase is Phase.ADVERTISE:
        return setting.smallest
    return {
        Phase.AGREE: setting.quorum(advertised),
        Phase.UNMASK: setting.threshold(advertised),
        Phase.ABORT: setting.closing(advertised),
        Phase.DONE: 0,
        Phase.FAILED: 0,
    }.get(phase, setting.least(advertised))


def _span(plan: Plan, setting: Setting, walk: _Walk, span: _Span, held: PlanHeld | None) -> PhaseSpan:
    phase, ends_by = span.phase, None
    limit = phase_limit_s(plan.study.deadlines, phase)
    if math.isfinite(limit):
        ends_by = span.began + limit
        if span.ended is None and held is not None and held.phase is phase and held.phase_ends is not None:
            ends_by = held.phase_ends
    return PhaseSpan(
        phase=phase,
        began=span.began,
        ended=span.ended,
        ends_by=ends_by,
        answered=len(walk.of(phase)),
        invited=0 if phase.ended else len(walk.invited(phase, plan.names)),
        need=_need(setting, phase, len(walk.of(Phase.ADVERTISE))),
    )


def _lane(
    walk: _Walk,
    name: str,
    plan: Plan,
    tried: Tried,
    course: Course | None,
    held: PlanHeld | None,
    live: Live | None,
) -> Lane:
    reached = [Reached(step="invited", at=course.opened)] if course is not None else []
    if course is not None:
        for phase, step in STEPS.items():
            if (at := walk.of(phase).get(name)) is not None:
                reached.append(Reached(step=step, at=at))
    dropped_in = _dropped_in(walk, name, plan.names, tried.report)
    heard = None if live is None else live.hospitals.get(name)
    return Lane(
        hospital=name,
        stand=_stand(walk, name, dropped_in, tried.report, held),
        reached=tuple(reached),
        dropped_in=dropped_in,
        last_heard=None if heard is None else heard.at,
        in_reach=None if held is None else name in held.in_reach,
        through_relay=name in walk.relayed,
    )


def _dropped_in(walk: _Walk, name: str, roster: list[str], report: AttemptReport | None) -> Phase | None:
    """The first phase that is over and that a hospital could have answered and did not."""
    over = {span.phase for span in walk.spans if span.ended is not None}
    if not walk.spans and report is not None:
        over = set(NARROWING)
        if report.failed_in in NARROWING:
            over = set(NARROWING[: NARROWING.index(report.failed_in) + 1])
    for phase in NARROWING:
        if phase in over and name in walk.invited(phase, roster) and name not in walk.of(phase):
            return phase
    return None


def _stand(
    walk: _Walk, name: str, dropped_in: Phase | None, report: AttemptReport | None, held: PlanHeld | None
) -> Stand:
    if dropped_in is not None:
        return "absent" if dropped_in is Phase.ADVERTISE else "dropped"
    if report is not None:
        return "in-the-sum" if report.done and name in report.survivors else "ended"
    phase = walk.spans[-1].phase if walk.spans else Phase.ADVERTISE
    if phase is Phase.DONE or name in walk.of(phase):
        return "answered"
    if phase is Phase.ABORT and name in walk.of(Phase.UNMASK):
        return "answered"
    return "left" if held is not None and name in held.left else "asked"
