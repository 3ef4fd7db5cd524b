"""An attempt in memory, made anew from what the store has of it: the list of its messages and closings."""

from __future__ import annotations

from aggregator.rounds.runs import Attempt, Run
from aggregator.storage.store import CLOSE, GIVE_UP, RESTORED
from medveil.identity import BadSignature
from medveil.rounds import AttemptKey, RoundKind
from privacy.encoding import params_for
from privacy.secagg import server
from privacy.secagg.keys import PROTOCOL, PROTOCOL_1, setting_for
from privacy.secagg.messages import MESSAGES, HospitalMessage


def new_attempt(
    run: Run, key: AttemptKey, kind: RoundKind, model: str, *, now: float, protocol: bytes = PROTOCOL
) -> Attempt:
    """An attempt of which nothing has come in yet.

    Args:
        model: that it starts from, in hexadecimal. now: monotonic seconds.
    """
    setting = setting_for(
        run.plan,
        number=key.round,
        attempt=key.attempt,
        kind=kind,
        model=bytes.fromhex(model),
        protocol=protocol,
    )
    params = params_for(run.plan.study, kind, len(run.plan.roster))
    return Attempt(key, kind, params, server.ServerState(setting), now, now)


def replayed(attempt: Attempt, run: Run, events: list[tuple[str, bytes]]) -> Attempt:
    """The attempt after these events; under the first protocol version if it was open at the exchange.

    Args:
        attempt: a new one.
    Raises: BadSignature if the events are neither version's.
    """
    try:
        return _after(attempt, events)
    except BadSignature:
        model = attempt.state.setting.context.model.hex()
        before = new_attempt(run, attempt.key, attempt.kind, model, now=attempt.opened, protocol=PROTOCOL_1)
        return _after(before, events)


def _after(attempt: Attempt, events: list[tuple[str, bytes]]) -> Attempt:
    for kind, body in events:
        if kind == CLOSE:
            attempt.state = server.close_phase(attempt.state)
        elif kind == GIVE_UP:
            attempt.reason = body.decode()
            attempt.state = server.give_up(attempt.state, vectors_lost=attempt.reason == RESTORED)
        else:
            message: HospitalMessage = MESSAGES[kind].from_bytes(body)
            attempt.state = server.receive(attempt.state, message)
        attempt.events += 1
    return attempt
