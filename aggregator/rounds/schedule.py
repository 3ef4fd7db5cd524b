"""Which attempt is next, when a phase is over, and what a plan waits for: nothing here reads or changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import takewhile

from aggregator.rounds.attempt import Attempt
from aggregator.rounds.runs import Run
from medveil.errors import Error
from medveil.plan import Plan
from medveil.reports import AttemptReport, Waiting
from medveil.rounds import MAX_EARLY_FAILURES, AttemptKey, Phase, RoundKind, kind_of
from medveil.study import Deadlines
from privacy.secagg.rosters import smallest_sum

AT_ONCE, LONGEST_PAUSE_S = 3, 60.0
"""After so many attempts in a row that failed at their beginning the next one waits, longer each time and at
most this long: what keeps all hospitals away (no patients, a full disk) rarely mends itself in a second."""


class PlanStuck(Error):
    """A plan that ends before its last round."""

    code = "plan-stuck"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The plan goes no further: {reason}.",
            meaning="Its versions so far stay as they are; its hospitals go on with their other plans.",
            remedy="See 'medveil aggregator study status', mend the cause, then create a plan with a fresh "
            "initial model ('medveil study new').",
        )
        self.reason = reason


def fewest(plan: Plan) -> int:
    """Hospitals that an attempt needs: a quorum of the roster, and at least ``cohort.min_hospitals``."""
    return smallest_sum(plan)


def are_too_few(plan: Plan, refused: int) -> bool:
    """Whether an attempt cannot be made any more, as so many hospitals take no part."""
    return len(plan.roster) - refused < fewest(plan)


def too_few_left(run: Run) -> str:
    """Why a plan can have no further attempt since hospitals take no part; empty if it can."""
    if not are_too_few(run.plan, len(run.refusals)):
        return ""
    of = len(run.plan.roster)
    return f"{len(run.refusals)} of {of} hospitals take no part; {fewest(run.plan)} are needed"


def following(run: Run) -> tuple[AttemptKey, RoundKind] | None:
    """The attempt that comes next; None when the last round is over.

    Raises: PlanStuck.
    """
    study, number, attempt = run.plan.study, run.first_round, 1
    if reason := too_few_left(run):
        raise PlanStuck(reason=reason)
    if run.last:
        last = run.last[-1]
        number, attempt = last.round + 1, 1
        newest, _ = run.newest
        if last.done:
            if newest.parent == newest.model:  # both rounds would start from one model
                raise PlanStuck(reason="the last round did not change the model")
        else:
            _check_closed(last)
            early = sum(r.failed_early for r in run.last)
            if early >= MAX_EARLY_FAILURES:
                raise PlanStuck(reason=f"{early} attempts at round {last.round} failed at their beginning")
            if len(run.last) - early < study.attempts:
                number, attempt = last.round, last.attempt + 1
    if number > study.training.rounds + 1:
        return None
    return AttemptKey(run.plan.id, number, attempt), kind_of(study, number)


def pause_left(run: Run, now: float) -> float:
    """Seconds until the next attempt may open; 0 unless the last ones failed at their beginning."""
    in_a_row = len(list(takewhile(lambda report: report.failed_early, reversed(run.last))))
    if in_a_row < AT_ONCE or run.ended_at is None:
        return 0.0
    doublings = min(in_a_row - AT_ONCE, 10)
    return max(0.0, run.ended_at + min(2.0**doublings, LONGEST_PAUSE_S) - now)


def _check_closed(last: AttemptReport) -> None:
    """Raises: PlanStuck if masked vectors were sent, and nothing shows that their sum stays shut."""
    if not last.failed_early and last.certificate is None:
        raise PlanStuck(
            reason=f"attempt {last.round}.{last.attempt} has neither a sum that makes a model nor an "
            f"abort certificate ({last.reason})"
        )


def is_over(run: Run, attempt: Attempt, is_waited_for: Callable[[str], bool], now: float) -> bool:
    """Whether a phase may be closed: its time is up, or everybody who is waited for has answered.

    Nobody waits for a hospital that has left the attempt or the plan, is away, or was not heard from lately.
    """
    state = attempt.state
    missing = run.names(state.invited - set(state.answers))
    if any(is_waited_for(name) for name in missing if name not in attempt.sitting_out):
        return now - attempt.phase_opened > phase_limit_s(run.plan.study.deadlines, state.phase)
    return True


def phase_limit_s(deadlines: Deadlines, phase: Phase) -> float:
    """How long a phase may last; infinite for one that waits as long as it takes, or for nobody."""
    if phase is Phase.ABORT or phase.ended:
        return math.inf
    name = "train_s" if phase is Phase.COMMIT else f"{phase.value}_s"
    return float(getattr(deadlines, name))


def waiting_for(run: Run, reachable: int | None, pause: float) -> Waiting | None:
    """Why a plan does not move, for people; None if it does.

    Args:
        reachable: hospitals that have approved and are in reach; None if nobody here knows.
        pause: as :func:`pause_left` has it.
    """
    attempt = run.attempt
    if attempt is not None and attempt.trouble is not None:
        return attempt.trouble
    if attempt is not None and attempt.state.phase is Phase.ABORT:
        return Waiting(
            reason="abort-certificate",
            failed_by=attempt.reason,
            given_up=len(attempt.state.aborted),
            need=attempt.state.needed,
        )
    if attempt is None and (run.finished or run.halted):
        return None
    if not run.begun:
        return Waiting(reason="earlier-roster")
    if attempt is not None or run.approved_at is None or reachable is None:
        return None
    if reachable < fewest(run.plan):
        return Waiting(reason="too-few-hospitals", in_reach=reachable, need=fewest(run.plan))
    if pause > 0:
        last = run.last[-1]
        return Waiting(reason="early-failures", failed_in=last.failed_in, failed_by=last.reason)
    return None
