"""One attempt at a secure sum, in memory: made new, or made anew from the events that the store has of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from aggregator.rounds import relayed
from aggregator.storage.plans import CLOSE, GIVE_UP, RELAYED, RESTORED
from aggregator.work.versions import NextVersion
from aggregator.work.workers import Failure
from medveil.identity import BadSignature
from medveil.plan import Plan
from medveil.relaying import RelayedUploads
from medveil.reports import Waiting
from medveil.rounds import AttemptKey, Phase, RoundKind
from privacy.encoding import EncodingParams, params_for
from privacy.secagg import server
from privacy.secagg.keys import PROTOCOL, PROTOCOL_1, setting_for
from privacy.secagg.messages import MESSAGES, HospitalMessage

Event = tuple[str, bytes]
"""Kind and body of a message or closing; their list is the state of an attempt."""


@dataclass
class Publication:
    """A finished attempt on its way to a result: jobs in the hands of the workers."""

    started: float
    draft_id: str
    """Of this try: its drafts bear it."""
    parts: list[Future[Failure | None]] | list[Future[bytes | Failure]]
    """The segments of the sum; from a cluster the SHA-256 of each comes back."""
    made: Future[Failure | NextVersion] | None = None
    """What is made of the sum; handed in when all its segments are there."""


@dataclass
class Attempt:
    """One attempt at a secure sum."""

    key: AttemptKey
    kind: RoundKind
    params: EncodingParams
    state: server.ServerState
    opened: float
    phase_opened: float
    events: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    bytes_up: Counter[str] = field(default_factory=Counter)
    bytes_down: Counter[str] = field(default_factory=Counter)
    phase_up: Counter[str] = field(default_factory=Counter)
    phase_down: Counter[str] = field(default_factory=Counter)
    claims: Counter[int | str] = field(default_factory=Counter)
    """Hospital's index, or what a relay's sum is stored under → how often it might write a segment."""
    read_back: dict[int | str, tuple[int, tuple[bytes, ...]]] = field(default_factory=dict)
    """The same → the segments that were found stored as signed, and the claims by then."""
    aside: set[tuple[int, int, str]] = field(default_factory=set)
    """Segments that other processes have taken, as far as this one has heard: source, number, hash."""
    relayed: tuple[relayed.Relayed, ...] = ()
    """Sums of regions that have come in."""
    sitting_out: set[str] = field(default_factory=set)
    """Hospitals that said they have left this attempt; they say so with every poll."""
    wrong_shares: tuple[str, ...] = ()
    """Who returned other shares than it was dealt."""
    reason: str = ""
    """Why it has failed, once hospitals are asked to give it up."""
    trouble: Waiting | None = None
    """Why its sum, which can be opened, is not published yet."""
    retry_at: float = 0.0
    """When that is tried again (monotonic clock)."""
    publication: Publication | None = None
    lost: int = 0
    """How often a worker ended without the result of its job, or did not end."""

    def source_of(self, member: int) -> int | None:
        """What a hospital's segments are stored under; None if its upload is signed already (OutOfPhase)."""
        if self.state.phase is not Phase.UPLOAD or member not in self.state.invited:
            raise server.OutOfPhase(phase=self.state.phase)
        return None if member in self.state.uploaded else member


def new_attempt(
    plan: Plan, key: AttemptKey, kind: RoundKind, model: str, *, now: float, protocol: bytes = PROTOCOL
) -> Attempt:
    """An attempt of which nothing has come in yet.

    Args:
        model: that it starts from, in hexadecimal. now: monotonic seconds.
    """
    start = bytes.fromhex(model)
    setting = setting_for(
        plan, number=key.round, attempt=key.attempt, kind=kind, model=start, protocol=protocol
    )
    params = params_for(plan.study, kind, len(plan.roster), key.round)
    return Attempt(key, kind, params, server.ServerState(setting), now, now)


def replayed(attempt: Attempt, plan: Plan, events: Iterable[Event]) -> Attempt:
    """A new attempt after these events; under the first protocol version if it was open at the exchange.

    Raises: BadSignature if the events are neither version's.
    """
    events = list(events)
    try:
        return go_on(attempt, events)
    except BadSignature:
        model = attempt.state.setting.context.model.hex()
        before = new_attempt(plan, attempt.key, attempt.kind, model, now=attempt.opened, protocol=PROTOCOL_1)
        return go_on(before, events)


def go_on(attempt: Attempt, events: Iterable[Event]) -> Attempt:
    """The same attempt, after these further events."""
    for kind, body in events:
        if kind == CLOSE:
            attempt.state = server.close_phase(attempt.state)
        elif kind == GIVE_UP:
            attempt.reason = body.decode()
            attempt.state = server.give_up(attempt.state, vectors_lost=attempt.reason == RESTORED)
        elif kind == RELAYED:
            told = RelayedUploads.from_bytes(body)
            attempt.state, group = relayed.take(attempt.state, told, words=attempt.params.words)
            attempt.relayed = (*attempt.relayed, group)
        else:
            message: HospitalMessage = MESSAGES[kind].from_bytes(body)
            attempt.state = server.receive(attempt.state, message)
        attempt.events += 1
    return attempt
