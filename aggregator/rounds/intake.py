"""What hospitals send: approvals, protocol messages and the segments of their masked vectors.

A message is checked, changes the state, and is stored; or it is refused and changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from aggregator.errors import NotFound
from aggregator.rounds.attempt import Attempt
from aggregator.rounds.relayed import WrongRelay, source_of, take
from aggregator.rounds.runs import Run, Runs, WrongRound, mark_of
from aggregator.storage.plans import RELAYED
from aggregator.storage.register import Party
from aggregator.work.unmasking import WrongLength, check_length, segment_lengths
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import verify
from medveil.log import get_logger
from medveil.messages import Refusal
from medveil.plan import check_refusal
from medveil.relaying import RelayedUploads, RelayWork, Uploader
from medveil.rounds import AttemptKey, Phase
from privacy.secagg import server
from privacy.secagg.messages import MESSAGES, HospitalMessage, Upload

log = get_logger()
_PHASE_OF = {message: phase for phase, message in server.EXPECTS.items()}


class StillWriting(RemoteProtocolError):
    """A segment that an earlier request of the same hospital is still writing."""

    code = "still-writing"
    retry_after_s = 1.0

    def __init__(self) -> None:
        super().__init__(
            what="An earlier request of this hospital is still writing a segment of its upload.",
            meaning="Nothing was changed by this one.",
            remedy="Nothing to do; the node sends it again. If it lasts, the aggregator's storage is slow.",
        )


@dataclass(frozen=True)
class Received:
    """A hospital's message as it has come, and where its ledger ended when it was sent (empty: not told)."""

    key: AttemptKey
    sender: Party
    kind: str
    body: bytes
    ledger: str = ""


@dataclass(frozen=True)
class SegmentClaim:
    """The right of one request to write one segment of a masked vector."""

    key: AttemptKey
    source: int | str
    """The hospital's index, or what a relay's sum is stored under."""
    segment: int


class Intake:
    """Takes what hospitals send, on the coordinator's thread but where a method says otherwise."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._claims: set[SegmentClaim] = set()

    def approve(self, plan_id: str, name: str, signature: bytes) -> bool:
        """Keep a hospital's approval; whether it is the plan's first. Raises: NotFound, BadSignature."""
        run = self._runs.of(plan_id, name)
        member = run.plan.member(name)
        assert member is not None  # Runs.of has checked it
        verify(member.key, signature, "approve-plan", run.plan.hash)
        self._runs.store.plans.add_approval(plan_id, name, signature)
        run.approvals[name] = signature
        run.refusals.pop(name, None)
        log.info("plan.approved", plan=plan_id, node=name)
        return len(run.approvals) == 1

    def refuse(self, plan_id: str, name: str, told: Refusal) -> None:
        """Keep a hospital's word that it takes no part, or no more. Raises: NotFound, BadSignature.

        Nobody waits for it from now on. Only its own next approval lifts it.
        """
        run = self._runs.of(plan_id, name)
        member = run.plan.member(name)
        assert member is not None  # Runs.of has checked it
        check_refusal(run.plan, member, told.kind, told.reason, told.signature)
        self._runs.store.plans.add_refusal(plan_id, name, told, self._runs.wall_clock())
        run.approvals.pop(name, None)
        run.refusals = self._runs.store.plans.refusals(plan_id)
        log.info("plan.refused", plan=plan_id, node=name, kind=told.kind)

    def is_away(self, plan_id: str, name: str, away: bool) -> None:
        """This hospital joins no attempt for now, or does again. Raises: NotFound."""
        run = self._runs.of(plan_id, name)
        (run.away.add if away else run.away.discard)(name)

    def sits_out(self, key: AttemptKey, name: str) -> None:
        """This hospital has left this attempt: nobody waits for it. Raises: NotFound."""
        current = self._runs.of(key.plan, name).attempt
        if current is not None and current.key == key:
            current.sitting_out.add(name)

    def longest_message(self, plan_id: str) -> int:
        """Most bytes of a hospital's message in this plan. Any thread may ask."""
        run = self._runs.get(plan_id)
        return 0 if run is None else run.longest_message

    def receive(self, key: AttemptKey, name: str, kind: str, body: bytes) -> str:
        """Take a protocol message: check, change the state, store it; or raise and change nothing.

        A hospital may repeat its last message even when the attempt has ended since: it has lost the answer.

        Returns: the mark of the phase that was answered; any other is news to the sender.
        Raises: NotFound, WrongRound, BadMessage, WrongLength and what ``privacy.secagg.server`` raises.
        """
        run = self._runs.of(key.plan, name)
        if kind not in MESSAGES:
            raise NotFound()
        answered = mark_of(key, _PHASE_OF[MESSAGES[kind]])
        received = answered, hashlib.sha256(body).digest()
        if run.received.get(name) == received:
            return answered
        current = _current(run, key)
        message = MESSAGES[kind].from_bytes(body)
        member = run.plan.member(name)
        if member is None or message.sender != member.index:
            raise server.NotAMember()
        if not _is_repeat(current.state, message):
            state = server.receive(current.state, message)
            if isinstance(message, Upload):
                self._check_upload(current, message)
            self._runs.record(current, kind, body, state, actor=name)
            run.received[name] = received
        return answered

    def claim_segment(
        self, key: AttemptKey, name: str, segment: int, *, size: int, relay: bool = False
    ) -> SegmentClaim | None:
        """The right to write a segment of a masked vector; None if the upload is signed and stays as it is.

        Until it is kept, nobody else may write this segment and its sender's upload is not taken.

        Args:
            relay: whether the sender is a relay, and the vector the sum that it has made of its region's.
        Raises: NotFound, WrongRound, WrongLength, OutOfPhase, StillWriting.
        """
        claim = self.look_at_segment(key, name, segment, size=size, relay=relay)
        if claim is not None:
            self._open(key).claims[claim.source] += 1
            self._claims.add(claim)
        return claim

    def look_at_segment(
        self, key: AttemptKey, name: str, segment: int, *, size: int, relay: bool = False
    ) -> SegmentClaim | None:
        """What :meth:`claim_segment` would say; it changes nothing and is asked before a body is read."""
        source = self._of_relay(key, name) if relay else self._of_hospital(key, name)
        if source is None:
            return None
        check_length(segment_lengths(self._open(key).params.words), segment, size)
        claim = SegmentClaim(key, source, segment)
        if claim in self._claims:
            raise StillWriting()
        return claim

    def _of_hospital(self, key: AttemptKey, name: str) -> int | None:
        """What a hospital's segments are stored under; None if its upload is signed already."""
        run = self._runs.of(key.plan, name)
        current, member = _current(run, key), run.plan.member(name)
        if member is None:
            raise NotFound()
        return current.source_of(member.index)

    def _of_relay(self, key: AttemptKey, name: str) -> str | None:
        """What a relay's segments are stored under; None if its sum is taken already."""
        current = self._open(key)
        if current.state.phase is not Phase.UPLOAD:
            raise server.OutOfPhase(phase=current.state.phase)
        return None if any(one.relay == name for one in current.relayed) else source_of(name)

    def keep_segment(self, claim: SegmentClaim, data: bytes) -> None:
        """Write a claimed segment durably; once for each claim, on any thread. Raises: StorageFailed."""
        try:
            self._runs.blobs.put_segment(claim.key.folder, claim.source, claim.segment, data)
        finally:
            self._claims.discard(claim)

    def settle_segment(self, claim: SegmentClaim) -> None:
        """After the write, and after one that failed. Raises: WrongRound if the attempt has ended meanwhile.

        Then nothing of it is left behind.
        """
        run = self._runs.get(claim.key.plan)
        if run is None or run.attempt is None or run.attempt.key != claim.key:
            self._runs.blobs.forget_uploads(claim.key.folder)
            raise WrongRound()

    def read_back(self, plan_id: str, name: str, body: bytes) -> None:
        """Check on any thread, before :meth:`receive`, that what an upload names is stored: it may take long.

        What is wrong with the upload is left to :meth:`receive`, which then looks at its segments itself.
        """
        run = self._runs.get(plan_id)
        attempt, member = (run.attempt, run.plan.member(name)) if run is not None else (None, None)
        if attempt is None or member is None or attempt.state.phase is not Phase.UPLOAD:
            return
        with suppress(Error):
            message, claims = Upload.from_bytes(body), attempt.claims[member.index]
            if message.sender == member.index:
                self._check_upload(attempt, message)
                attempt.read_back[member.index] = claims, message.segments

    def read_back_relayed(self, key: AttemptKey, relay: str, body: bytes) -> None:
        """As :meth:`read_back`, before :meth:`receive_relayed`."""
        with suppress(Error):
            attempt, told, source = self._open(key), RelayedUploads.from_bytes(body), source_of(relay)
            if len(told.segments) == len(segment_lengths(attempt.params.words)):
                claims = attempt.claims[source]
                self._check_stored(attempt, source, told.segments)
                attempt.read_back[source] = claims, told.segments

    def relay_work(self, key: AttemptKey) -> RelayWork:
        """What a relay has to know to add its region's masked vectors.

        Raises: NotFound, WrongRound, OutOfPhase.
        """
        current, run = self._open(key), self._runs.get(key.plan)
        state = current.state
        if state.phase is not Phase.UPLOAD or run is None:
            raise server.OutOfPhase(phase=state.phase)
        missing = [m for m in run.plan.roster if m.index in state.invited - set(state.uploaded)]
        away, passed = current.sitting_out, self._runs.now() - current.phase_opened
        return RelayWork(
            words=current.params.words,
            missing=tuple(Uploader(index=m.index, name=m.name, key=m.key) for m in missing),
            in_reach=tuple(
                m.name for m in missing if m.name not in away and self._runs.is_in_reach(run, m.name)
            ),
            seconds_left=max(0.0, run.plan.study.deadlines.upload_s - passed),
        )

    def receive_relayed(self, key: AttemptKey, relay: Party, body: bytes) -> None:
        """Take a region's uploads that came as one sum: all of them, or raise and change nothing.

        The same message may come again: its sender has lost the answer.
        Raises: NotFound, WrongRound, BadMessage, WrongRelay, StillWriting, DamagedBlob, what
            :func:`aggregator.rounds.relayed.take` raises.
        """
        current, told = self._open(key), RelayedUploads.from_bytes(body)
        if (told.relay.name, told.relay.key) != (relay.name, relay.public_key):
            raise WrongRelay()
        if any(one.relay == relay.name and one.segments == told.segments for one in current.relayed):
            return
        state, group = take(current.state, told, words=current.params.words)
        self._check_stored(current, group.source, group.segments)
        self._runs.record(current, RELAYED, body, state, actor=relay.name)
        current.relayed = (*current.relayed, group)

    def _open(self, key: AttemptKey) -> Attempt:
        run = self._runs.get(key.plan)
        if run is None:
            raise NotFound()
        return _current(run, key)

    def _check_upload(self, attempt: Attempt, message: Upload) -> None:
        if len(message.segments) != len(segment_lengths(attempt.params.words)):
            raise WrongLength()
        self._check_stored(attempt, message.sender, message.segments)

    def _check_stored(self, attempt: Attempt, source: int | str, segments: tuple[bytes, ...]) -> None:
        """Raises: StillWriting, DamagedBlob unless exactly these segments are stored."""
        if any((c.key, c.source) == (attempt.key, source) for c in self._claims.copy()):
            raise StillWriting()
        if attempt.read_back.get(source) == (attempt.claims[source], segments):
            return
        for number, digest in enumerate(segments):
            self._runs.blobs.segment(attempt.key.folder, source, number, digest)


def _current(run: Run, key: AttemptKey) -> Attempt:
    if run.attempt is None or run.attempt.key != key:
        raise WrongRound()
    return run.attempt


def _is_repeat(state: server.ServerState, message: HospitalMessage) -> bool:
    """Whether exactly this message was taken before, in any phase: the answer to it may have been lost."""
    phase = next(p for p, kind in server.EXPECTS.items() if isinstance(message, kind))
    taken: Mapping[int, HospitalMessage] = getattr(state, server.ANSWERS[phase])
    before = taken.get(message.sender)
    if isinstance(message, Upload) and isinstance(before, Upload) and before.relay and not message.relay:
        # Its relay has handed this vector in, and the hospital does not know.
        return (before.committed_hash, before.segments) == (message.committed_hash, message.segments)
    return before == message
