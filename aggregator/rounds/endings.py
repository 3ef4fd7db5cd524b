"""How an attempt ends that has no sum, what may follow it, and why a plan waits or goes no further.

Once masked vectors were sent, an attempt ends with its published sum or with an abort certificate: until then
no hospital starts anything from its model again (docs/decisions/0021-one-sum-per-model.md).
"""

from __future__ import annotations

import hashlib

from aggregator.rounds.runs import Run
from aggregator.storage.blobs import Blobs
from aggregator.storage.store import Store
from medveil.errors import Error
from medveil.plan import Plan
from medveil.reports import AttemptReport, Waiting
from medveil.rounds import MAX_EARLY_FAILURES, AttemptKey, Phase, RoundKind, kind_of
from medveil.strategies import Diverged
from privacy.encoding import SpoiledSum
from privacy.secagg import closing, server
from privacy.secagg.keys import setting_for
from privacy.secagg.messages import Certificate, Certificates

OPENED_IN_VAIN = (SpoiledSum.code, Diverged.code)
"""The sum is known and makes no model: trying again changes nothing."""
RETRY_S = 60.0
"""Pause before a sum that can be opened, and was not, is tried again."""


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
    return setting_for(plan, number=1, attempt=1, kind=RoundKind.TRAIN, model=b"").smallest


def following(run: Run) -> tuple[AttemptKey, RoundKind] | None:
    """The attempt that comes next; None when the last round is over.

    Raises: PlanStuck.
    """
    study, number, attempt = run.plan.study, 1, 1
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


def _check_closed(last: AttemptReport) -> None:
    """Raises: PlanStuck if masked vectors were sent, and nothing shows that their sum stays shut."""
    if not last.failed_early and last.certificate is None:
        raise PlanStuck(
            reason=f"attempt {last.round}.{last.attempt} has neither a sum that makes a model nor an "
            f"abort certificate ({last.reason})"
        )


def waiting_for(run: Run, reachable: int) -> Waiting | None:
    """Why a plan does not move, for people; None if it does.

    Args:
        reachable: hospitals that have approved and are in reach.
    """
    attempt = run.attempt
    if attempt is not None and attempt.trouble:
        return attempt.trouble
    if attempt is not None and attempt.state.phase is Phase.ABORT:
        state = attempt.state
        given_up = len(state.aborted)
        return Waiting(
            reason="abort-certificate", failed_by=attempt.reason, given_up=given_up, need=state.needed
        )
    if attempt is None and not run.finished and run.approved_at is not None and reachable < fewest(run.plan):
        return Waiting(reason="too-few-hospitals", in_reach=reachable, need=fewest(run.plan))
    return None


def keep_certificate(blobs: Blobs, state: server.ServerState) -> str:
    """Keep the certificate of an attempt that was given up; its name. Raises: StorageFailed."""
    data = closing.certificate(state.setting.context, state.aborted).to_bytes()
    name = hashlib.sha256(data).hexdigest()
    blobs.put_sum(name, data)
    return name


def certificates(store: Store, blobs: Blobs, plan: str, number: int) -> Certificates:
    """Every abort certificate of a round. Raises: DamagedBlob."""
    found = []
    for report in store.attempts(plan, round_number=number):
        if report.certificate is not None:
            with blobs.open_sum(report.certificate) as file:
                found.append(Certificate.from_bytes(file.read()))
    return Certificates(certificates=tuple(found))
