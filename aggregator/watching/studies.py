"""A study as it is seen: its state, roster, figure, and its attempts in pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from aggregator.storage.history import Tried
from aggregator.watching.values import FigureSeen, Live, RosterLine, RoundSeen, State
from medveil.ids import fingerprint
from medveil.metrics import headline, read_headline
from medveil.parts import in_round
from medveil.plan import Plan
from medveil.readings import CHINESE, interval_words
from medveil.reports import AttemptReport, Directive, HospitalsRefusal, PlanStatus
from medveil.rounds import RoundKind
from medveil.shown import plain
from medveil.tasks import TASKS

HALTED: dict[str, State] = {"pause": "paused", "stop": "stopped", "withdraw": "withdrawn"}


def state_of(
    plan: Plan, present: PlanStatus, word: Directive | None, *, evaluated: bool, begun: bool = True
) -> State:
    """Where a study stands, in a word.

    Args:
        evaluated: whether its last round has its sum. begun: whether its roster has taken over, if it amends.
    """
    if present.followed_by is not None:
        return "amended"
    if word is not None and word.order in HALTED:
        return HALTED[word.order]
    if not begun:
        return "set-aside" if present.finished else "amendment"
    if present.finished:
        return "finished" if evaluated else "ended-early"
    return "running" if len(present.approved) >= plan.approvals_needed else "approvals"


def changed_members(plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who joins by an amendment and who leaves, by name; nobody if it amends no plan."""
    if plan.before is None:
        return (), ()
    old, new = ({m.key: m.name for m in one.roster} for one in (plan.before, plan))
    return tuple(n for k, n in new.items() if k not in old), tuple(n for k, n in old.items() if k not in new)


def roster_of(plan: Plan, present: PlanStatus, live: Live | None) -> tuple[RosterLine, ...]:
    """Who takes part, who has said what, and who is there."""
    refusals = {one.hospital: one for one in present.refusals}
    held = None if live is None else live.plans.get(plan.id)
    lines = []
    for member in plan.roster:
        refusal = refusals.get(member.name)
        heard = None if live is None else live.hospitals.get(member.name)
        lines.append(
            RosterLine(
                index=member.index,
                hospital=member.name,
                key=fingerprint(member.key),
                stand=_stand(member.name, refusal, present),
                reason="" if refusal is None else refusal.reason,
                at=None if refusal is None else refusal.at,
                away=None if held is None else member.name in held.away,
                in_reach=None if held is None else member.name in held.in_reach,
                last_heard=None if heard is None else heard.at,
            )
        )
    return tuple(lines)


def _stand(
    name: str, refusal: HospitalsRefusal | None, present: PlanStatus
) -> Literal["waiting", "approved", "refused", "withdrawn"]:
    if refusal is not None:
        return "withdrawn" if refusal.kind == "withdrawn" else "refused"
    return "approved" if name in present.approved else "waiting"


def figure_of(plan: Plan, report: AttemptReport) -> FigureSeen | None:
    """The headline figure of an attempt, with its interval."""
    study = in_round(plan.study, report.kind)
    task, reading = TASKS[study.task], read_headline(study, report)
    if reading is None:
        return None
    unit = task.unit(study, headline(study))
    low, high = reading.interval or (None, None)
    return FigureSeen(
        name=plain(task.headline_name, 60),
        unit=plain(unit, 60),
        round=report.round,
        value=reading.value,
        low=low,
        high=high,
        by_noise_alone=reading.by_noise_alone,
        words=plain(interval_words(reading, unit)),
        words_zh=plain(interval_words(reading, unit, CHINESE)),
    )


def newest_figure(plan: Plan, reports: Sequence[AttemptReport]) -> FigureSeen | None:
    """That of the newest attempt that has one."""
    found = (figure_of(plan, report) for report in reports if report.done)
    return next((one for one in found if one is not None), None)


def round_seen(plan: Plan, tried: Tried) -> RoundSeen | None:
    """An attempt that has ended, for a list; None for one that is open."""
    report = tried.report
    if report is None:
        return None
    there = report.survivors if report.done else ()
    return RoundSeen(
        round=report.round,
        attempt=report.attempt,
        kind=report.kind,
        outcome=report.outcome,
        reason=report.reason or "",
        failed_in=report.failed_in,
        opened=tried.opened,
        seconds=report.seconds,
        in_the_sum=there,
        missing=tuple(name for name in plan.names if name not in there) if report.done else (),
        epsilon=report.epsilon,
        model=report.model,
        figure=figure_of(plan, report),
        bytes_up=sum(report.bytes_up.values()),
        bytes_down=sum(report.bytes_down.values()),
    )


class Attempted(Protocol):
    """An attempt that has ended."""

    @property
    def done(self) -> bool:
        """Whether it has its sum."""
        ...

    @property
    def kind(self) -> RoundKind:
        """Of its round."""
        ...


def is_evaluated(reports: Sequence[Attempted]) -> bool:
    """Whether the last round has its sum, by a study's newest attempts, the newest first."""
    return any(report.done and report.kind is RoundKind.EVALUATE for report in reports[:2])
