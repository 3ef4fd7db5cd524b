"""How an attempt ends that has no sum.

Once masked vectors were sent, an attempt ends with its published sum or with an abort certificate: until then
no hospital starts anything from its model again (docs/decisions/0021-one-sum-per-model.md).
"""

from __future__ import annotations

import hashlib

from aggregator.rounds.attempt import Attempt
from aggregator.rounds.runs import Run, Runs
from aggregator.storage.blobs import Blobs
from aggregator.storage.plans import CLOSE, GIVE_UP
from medveil.log import get_logger
from medveil.reports import AttemptReport
from medveil.rounds import Phase
from privacy.secagg import closing, server
from privacy.secagg.keys import PROTOCOL

log = get_logger()


def fail(runs: Runs, run: Run, attempt: Attempt, reason: str, *, failed_in: Phase = Phase.UNMASK) -> None:
    """End an attempt that nothing more can come of."""
    told = AttemptReport(**runs.measured(run, attempt), outcome="failed", reason=reason, failed_in=failed_in)
    runs.end(run, attempt, told)


def give_up(runs: Runs, run: Run, attempt: Attempt, reason: str) -> None:
    """Masked vectors were sent: ask the hospitals to give the attempt up, and open nothing before."""
    state, key = attempt.state, attempt.key
    log.warning("attempt.failed", plan=key.plan, round=key.round, phase=state.phase.value, code=reason)
    if state.setting.context.protocol != PROTOCOL:  # nobody can give it up now
        fail(runs, run, attempt, "older-protocol")
        return
    attempt.reason, attempt.publication = reason, None
    runs.record(attempt, GIVE_UP, reason.encode(), server.give_up(state))


def settle(runs: Runs, run: Run, attempt: Attempt) -> None:
    """End an attempt that was given up, with its certificate; go on to its sum if that can be opened now."""
    try:
        closed = server.close_phase(attempt.state)
    except server.BelowThreshold:
        if server.hopeless(attempt.state):
            fail(runs, run, attempt, attempt.reason)
        return  # whoever comes back is asked, however late
    if closed.phase is Phase.DONE:
        runs.record(attempt, CLOSE, b"", closed)
        return
    told = AttemptReport(
        **runs.measured(run, attempt),
        outcome="failed",
        reason=attempt.reason,
        failed_in=closed.failed_in,
        certificate=_kept_certificate(runs.blobs, closed),
    )
    runs.end(run, attempt, told)


def _kept_certificate(blobs: Blobs, state: server.ServerState) -> str:
    """Keep the certificate of an attempt that was given up; its name. Raises: StorageFailed."""
    data = closing.certificate(state.setting.context, state.aborted).to_bytes()
    name = hashlib.sha256(data).hexdigest()
    blobs.put_sum(name, data)
    return name
