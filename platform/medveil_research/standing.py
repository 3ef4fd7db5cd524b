"""What a study is doing or waiting for, in words: from what its aggregator tells, and nothing else."""

from __future__ import annotations

from medveil.plan import Plan
from medveil.reports import OpenAttempt, PlanStatus, Waiting
from medveil.rounds import Phase, RoundKind

DOES = {
    Phase.ADVERTISE: "keys are exchanged",
    Phase.SHARE: "shares are exchanged",
    Phase.COMMIT: "hospitals compute",
    Phase.UPLOAD: "masked vectors are uploaded",
    Phase.AGREE: "survivors are agreed on",
    Phase.UNMASK: "the sum is unmasked",
    Phase.ABORT: "the attempt is given up",
}
WAITS = {
    "too-few-hospitals": "too few hospitals are in reach",
    "early-failures": "attempts fail at their beginning, and the next waits longer",
    "earlier-roster": "the roster before it still works",
    "abort-certificate": "hospitals are asked to give up an attempt that failed",
}
NAMED = 8
"""Most hospitals that are named in a sentence."""


def standing_words(plan: Plan, status: PlanStatus) -> str:
    """One sentence without its full stop."""
    if status.followed_by is not None:
        return f"goes on with another roster, plan {status.followed_by[:8]}"
    if status.finished:
        done = any(a.kind is RoundKind.EVALUATE and a.done for a in status.attempts)
        return "finished" if done else "ended before its last round"
    if len(status.approved) < plan.approvals_needed:
        missing = [name for name in plan.names if name not in status.approved]
        return (
            f"waits for approvals: {len(status.approved)} of the {plan.approvals_needed} needed; "
            f"not yet {named(missing)}"
        )
    if status.open is not None:
        return f"{round_words(plan, status.open)}: {open_words(status.open)}{_why(status.waiting_for)}"
    if status.waiting_for is not None:
        return f"waits: {_why(status.waiting_for).removeprefix('; ')}"
    ended = max((a.round for a in status.attempts if a.done), default=0)
    return f"{ended} of {plan.study.training.rounds + 1} rounds done, the next one opens soon"


def round_words(plan: Plan, attempt: OpenAttempt) -> str:
    """Which round is open."""
    again = f", attempt {attempt.attempt}" if attempt.attempt > 1 else ""
    kind = " (evaluation)" if attempt.kind is RoundKind.EVALUATE else ""
    return f"round {attempt.round} of {plan.study.training.rounds + 1}{kind}{again}"


def open_words(attempt: OpenAttempt) -> str:
    """Its phase, how many have answered, who is waited for."""
    missing = [name for name in attempt.invited if name not in attempt.answered]
    waited = f", waiting for {named(missing)}" if missing and attempt.answered else ""
    return (
        f"{DOES.get(attempt.phase, attempt.phase.value)}, {len(attempt.answered)} of "
        f"{len(attempt.invited)} answered{waited}"
    )


def named(names: list[str]) -> str:
    """A few names, and how many more."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _why(waiting: Waiting | None) -> str:
    if waiting is None:
        return ""
    count = waiting.given_up if waiting.in_reach is None else waiting.in_reach
    counted = "" if count is None or waiting.need is None else f" ({count} of {waiting.need})"
    by = f", after {waiting.failed_by}" if waiting.failed_by else ""
    where = f" in {waiting.failed_in.value}" if waiting.failed_in else ""
    return f"; {WAITS.get(waiting.reason, waiting.reason)}{where}{counted}{by}"
