"""What a study waits for, as typed parts."""

from __future__ import annotations

from aggregator.rounds.schedule import are_too_few, fewest
from aggregator.watching.values import Awaited, Lane, Live, PlanHeld, Timeline, WaitsFor
from medveil.plan import Plan
from medveil.reports import Directive, PlanStatus
from medveil.rounds import Phase, kind_of


def waits_for(
    plan: Plan,
    present: PlanStatus,
    timeline: Timeline | None,
    live: Live | None,
    *,
    word: Directive | None = None,
    last_round: int = 0,
    ended: str | None = None,
    now: float,
) -> WaitsFor:
    """What a study waits for now.

    Args:
        present: from the store, without history.
        timeline: of the attempt that is open, if one is.
        live: what the leading process has told of late; None if nothing, or long ago.
        word: the admin's last word on the plan.
        last_round: the last round of which an attempt has ended.
        ended: of a study that ended before its last round why its last attempt failed; None of any other.
    """
    rounds = plan.study.training.rounds + 1
    known = WaitsFor(why="finished", rounds=rounds, round=last_round, live_known=live is not None)
    held = None if live is None else live.plans.get(plan.id)
    halted = word is not None and word.order != "resume"
    if halted and word is not None and (present.finished or timeline is None):
        why = {"pause": "paused", "stop": "stopped", "withdraw": "withdrawn"}[word.order]
        return WaitsFor.model_validate({**dict(known), "why": why, "reason": word.reason})
    if present.finished:
        return known if ended is None else _ended_early(plan, present, known, ended)
    if timeline is not None:
        found = _open(plan, present, timeline, held, known, now=now)
        if halted and word is not None:
            return found.model_copy(update={"why": "stopping", "reason": word.reason})
        return found
    if len(present.approved) < plan.approvals_needed:
        missing = _approvals_missing(plan, present, live, now=now)
        return known.model_copy(update={**missing, "why": "approvals"})
    return _between(plan, present, live, held, known, now=now)


def _ended_early(plan: Plan, present: PlanStatus, known: WaitsFor, failed_by: str) -> WaitsFor:
    """Why a study is over before its last round."""
    if are_too_few(plan, len(present.refusals)):
        return known.model_copy(update={**_without(plan, present), "why": "too-few-left"})
    return known.model_copy(update={"why": "ended-early", "reason": failed_by})


def roster_waits_for(
    plan: Plan, present: PlanStatus, live: Live | None, *, word: Directive | None, now: float
) -> WaitsFor:
    """What an amendment waits for whose roster does not work yet.

    Args:
        word: the admin's last word on the plan before it.
    """
    assert plan.before is not None
    before = plan.before.id
    known = WaitsFor(
        why="set-aside",
        rounds=plan.study.training.rounds + 1,
        epoch=plan.epoch,
        other=before,
        live_known=live is not None,
    )
    if present.finished:
        return known
    if are_too_few(plan, len(present.refusals)):  # a new approval of theirs would lift their word
        return known.model_copy(update={**_without(plan, present), "why": "takeover-refused"})
    if len(present.approved) < plan.approvals_needed:
        missing = _approvals_missing(plan, present, live, now=now)
        return known.model_copy(update={**missing, "why": "roster-approvals"})
    if word is not None and word.halts:
        return known.model_copy(update={"why": "takeover-halted", "reason": word.reason})
    held = None if live is None else live.plans.get(plan.id)
    works = None if live is None else live.plans.get(before)
    away = () if works is None else works.away
    ready, need = [] if held is None else [n for n in held.ready if n not in away], fewest(plan)
    if held is None or len(ready) >= need:
        return known.model_copy(update={"why": "takeover", "need": need, "answered": len(ready)})
    silent = [n for n in plan.names if n in present.approved and n not in (*ready, *away)]
    awaited = tuple(_awaited(name, live, held, now) for name in silent)
    same = {"awaited": awaited, "answered": len(ready), "invited": len(plan.roster), "need": need}
    return known.model_copy(update={**same, "why": "takeover-reach"})


def _without(plan: Plan, present: PlanStatus) -> dict[str, object]:
    """Who takes no part, and how many it takes."""
    out = tuple(one.hospital for one in present.refusals)
    return {"without": out, "invited": len(plan.roster), "need": fewest(plan)}


def _approvals_missing(
    plan: Plan, present: PlanStatus, live: Live | None, *, now: float
) -> dict[str, object]:
    """Of a :class:`WaitsFor`: who has not decided yet, and how many approvals it takes."""
    held = None if live is None else live.plans.get(plan.id)
    refused = {one.hospital for one in present.refusals}
    missing = [n for n in plan.names if n not in present.approved and n not in refused]
    return {
        "awaited": tuple(_awaited(name, live, held, now) for name in missing),
        "answered": len(present.approved),
        "invited": len(plan.roster),
        "need": plan.approvals_needed,
    }


def _open(
    plan: Plan,
    present: PlanStatus,
    timeline: Timeline,
    held: PlanHeld | None,
    known: WaitsFor,
    *,
    now: float,
) -> WaitsFor:
    out = {one.hospital for one in present.refusals} | set(() if held is None else held.away)
    awaited = [lane for lane in timeline.lanes if _is_awaited(lane, out)]
    span = timeline.phases[-1] if timeline.phases else None
    phase = span.phase if span is not None else None if present.open is None else present.open.phase
    same = {
        "round": timeline.round,
        "attempt": timeline.attempt,
        "kind": timeline.kind,
        "phase": phase,
        "awaited": tuple(
            Awaited(
                hospital=lane.hospital,
                heard_s=None if lane.last_heard is None else max(0.0, now - lane.last_heard),
                in_reach=lane.in_reach,
            )
            for lane in awaited
        ),
        "since": None if span is None else span.began,
        "left_s": None if span is None or span.ends_by is None else max(0.0, span.ends_by - now),
        "answered": 0 if span is None else span.answered,
        "invited": 0 if span is None else span.invited,
        "need": timeline.quorum if span is None else span.need,
    }
    why, reason = "hospitals" if awaited else "phase-end", ""
    if phase is Phase.DONE:
        reason = "" if held is None else held.reason
        why = "trouble" if reason else "sum"
        same |= {"awaited": (), "left_s": None}
    elif phase is Phase.ABORT:
        why, reason = "giving-up", "" if held is None else held.reason
    return known.model_copy(update={**same, "why": why, "reason": reason})


def _is_awaited(lane: Lane, out: set[str]) -> bool:
    return lane.stand == "asked" and lane.hospital not in out and lane.in_reach is not False


def _between(
    plan: Plan,
    present: PlanStatus,
    live: Live | None,
    held: PlanHeld | None,
    known: WaitsFor,
    *,
    now: float,
) -> WaitsFor:
    """No attempt is open, and nothing forbids one."""
    need, next_round = fewest(plan), min(known.round + 1, known.rounds)
    same = {"round": next_round, "kind": kind_of(plan.study, next_round), "need": need}
    if held is None:
        return known.model_copy(update={**same, "why": "next-round"})
    if held.next_at is not None:
        left = max(0.0, held.next_at - now)
        return known.model_copy(update={**same, "why": "failures", "left_s": left, "reason": held.reason})
    if len(held.ready) < need:
        refused = {one.hospital for one in present.refusals}
        absent = [n for n in plan.names if n not in held.ready and n not in refused]
        missing = [n for n in absent if n not in held.away] or absent  # an approval more would help, too
        return known.model_copy(
            update={
                **same,
                "why": "reach",
                "awaited": tuple(_awaited(name, live, held, now) for name in missing),
                "answered": len(held.ready),
                "invited": len(plan.roster),
            }
        )
    return known.model_copy(update={**same, "why": "next-round"})


def _awaited(name: str, live: Live | None, held: PlanHeld | None, now: float) -> Awaited:
    heard = None if live is None else live.hospitals.get(name)
    return Awaited(
        hospital=name,
        heard_s=None if heard is None else max(0.0, now - heard.at),
        in_reach=None if held is None else name in held.in_reach,
    )
