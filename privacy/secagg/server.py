"""The aggregator's side of one attempt: a frozen state, ``receive`` for messages, ``close_phase`` for time.

The state holds what the hospitals sent and nothing secret until the shares of the last step; vectors stay
outside (the caller keeps the segments). A stored state is the list of messages and closings that led to it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from medveil.errors import RemoteProtocolError
from medveil.identity import BadSignature, Secret
from medveil.rounds import Phase
from privacy.secagg import shamir
from privacy.secagg.graph import edge_limit, pair_masks
from privacy.secagg.keys import (
    SHARE_COMMITMENT_BYTES,
    Setting,
    ShareKind,
    check_public_key,
    dealt_hash,
    new_key,
    public_bytes,
    self_commitment,
    self_mask,
    share_commitment,
)
from privacy.secagg.masks import Mask
from privacy.secagg.messages import (
    Abort,
    Advertise,
    Advertised,
    AggregatorMessage,
    Agree,
    Committed,
    HospitalMessage,
    Members,
    Quorum,
    Ready,
    Shares,
    Survivors,
    Unmask,
    Upload,
    committed_hash,
    transcript_of,
)

NEXT = {
    Phase.ADVERTISE: Phase.SHARE,
    Phase.SHARE: Phase.COMMIT,
    Phase.COMMIT: Phase.UPLOAD,
    Phase.UPLOAD: Phase.AGREE,
    Phase.AGREE: Phase.UNMASK,
    Phase.UNMASK: Phase.DONE,
    Phase.ABORT: Phase.FAILED,
}
EXPECTS: dict[Phase, type[HospitalMessage]] = {
    Phase.ADVERTISE: Advertise,
    Phase.SHARE: Shares,
    Phase.COMMIT: Ready,
    Phase.UPLOAD: Upload,
    Phase.AGREE: Agree,
    Phase.UNMASK: Unmask,
    Phase.ABORT: Abort,
}
ANSWERS = {
    Phase.ADVERTISE: "advertised",
    Phase.SHARE: "shared",
    Phase.COMMIT: "ready",
    Phase.UPLOAD: "uploaded",
    Phase.AGREE: "agreed",
    Phase.UNMASK: "unmasked",
    Phase.ABORT: "aborted",
}
"""The field of :class:`ServerState` that collects a phase's answers."""


class BelowThreshold(RemoteProtocolError):
    """Too few hospitals answered; the attempt ends and nothing is revealed."""

    code = "below-threshold"

    def __init__(self, *, phase: Phase, got: int, need: int) -> None:
        super().__init__(
            what=f"{got} hospitals answered in phase '{phase}'; {need} are needed.",
            meaning="The sum would hide too few hospitals, so the attempt ends and nothing is revealed.",
            remedy="Check the missing nodes; the aggregator tries again by itself.",
        )


class OutOfPhase(RemoteProtocolError):
    """A message for another phase than the current one."""

    code = "out-of-phase"

    def __init__(self, *, phase: Phase) -> None:
        super().__init__(
            what=f"The attempt is in phase '{phase}' and does not take this message.",
            meaning="It came too early or too late; nothing was changed.",
            remedy="The node goes on with the phase it is told.",
        )


class NotAMember(RemoteProtocolError):
    """A message from a hospital that does not belong to this step."""

    code = "not-a-member"

    def __init__(self) -> None:
        super().__init__(
            what="The sender does not take part in this step of the attempt.",
            meaning="It is not on the roster or missed an earlier phase; nothing was changed.",
            remedy="It can take part again from the next round on.",
        )


class Conflict(RemoteProtocolError):
    """A second message that differs from the first."""

    code = "conflicting-message"

    def __init__(self) -> None:
        super().__init__(
            what="This hospital already sent a different message for this step.",
            meaning="The first one stands. A retry must repeat the same bytes.",
            remedy="If the node was restored from a copy, let it wait for the next round.",
        )


class RepeatedKey(RemoteProtocolError):
    """A hospital advertised a key that this attempt has already seen."""

    code = "repeated-key"

    def __init__(self) -> None:
        super().__init__(
            what="An advertised key is already in use in this attempt.",
            meaning="Every other node would refuse the whole set of keys, so this one was not taken.",
            remedy="A node makes fresh keys for every attempt; look at the hospital that signed this one.",
        )


class Spoiled(RemoteProtocolError):
    """A hospital dealt secrets that do not fit what it signed; the attempt ends without a result."""

    code = "spoiled-round"

    def __init__(self, *, index: int) -> None:
        super().__init__(
            what=f"The shares that hospital {index} dealt do not rebuild what it announced.",
            meaning="They are the ones it committed to, so it dealt wrong ones; the sum cannot be unmasked.",
            remedy="Its signed messages of this attempt prove it; leave that hospital out if it recurs.",
        )
        self.index = index


class WrongShares(RemoteProtocolError):
    """Hospitals returned other shares than they were dealt, and too few right ones are left."""

    code = "wrong-shares"

    def __init__(self, *, returned_by: Collection[int]) -> None:
        named = ", ".join(str(i) for i in sorted(returned_by))
        super().__init__(
            what=f"Shares that came back are not those that were dealt. Returned by hospital: {named}.",
            meaning="Without enough right shares the sum cannot be unmasked; the attempt ends.",
            remedy="The signed messages of this attempt prove it; leave those hospitals out if it recurs.",
        )
        self.returned_by = tuple(sorted(returned_by))


@dataclass(frozen=True)
class ServerState:
    """One attempt as the aggregator sees it."""

    setting: Setting
    phase: Phase = Phase.ADVERTISE
    advertised: Mapping[int, Advertise] = field(default_factory=dict)
    transcript: bytes = b""
    """Hash of U1's messages; empty until U1 is fixed."""
    shared: Mapping[int, Shares] = field(default_factory=dict)
    ready: Mapping[int, Ready] = field(default_factory=dict)
    committed: Members = ()
    uploaded: Mapping[int, Upload] = field(default_factory=dict)
    survivors: Members = ()
    agreed: Mapping[int, Agree] = field(default_factory=dict)
    unmasked: Mapping[int, Unmask] = field(default_factory=dict)
    aborted: Mapping[int, Abort] = field(default_factory=dict)
    failed_in: Phase | None = None
    """The phase that failed, once hospitals are asked to give the attempt up."""

    @property
    def answers(self) -> Mapping[int, HospitalMessage]:
        """Who has answered in the current phase, and how."""
        answers: Mapping[int, HospitalMessage] = {}
        return answers if self.phase.ended else getattr(self, ANSWERS[self.phase])

    @property
    def invited(self) -> frozenset[int]:
        """Who may answer in the current phase."""
        return self.invited_to(self.phase)

    def invited_to(self, phase: Phase) -> frozenset[int]:
        """Who may answer a phase: nobody both unmasks and gives up."""
        return frozenset(
            {
                Phase.ADVERTISE: set(self.setting.roster),
                Phase.SHARE: set(self.advertised),
                Phase.COMMIT: set(self.shared),
                Phase.UPLOAD: set(self.committed),
                Phase.AGREE: set(self.survivors),
                Phase.UNMASK: set(self.survivors) - set(self.aborted),
                Phase.ABORT: set(self.advertised) - set(self.unmasked),
            }.get(phase, ())
        )

    @property
    def needed(self) -> int:
        """Fewest answers with which the current phase may close."""
        advertised = len(self.advertised)
        if self.phase is Phase.ADVERTISE:
            return self.setting.smallest
        if self.phase is Phase.AGREE:
            return self.setting.quorum(advertised)
        if self.phase is Phase.UNMASK:
            return self.setting.threshold(advertised)
        if self.phase is Phase.ABORT:
            return self.setting.closing(advertised)
        return self.setting.least(advertised)


def receive(state: ServerState, message: HospitalMessage) -> ServerState:
    """Take one message; an exact repeat changes nothing.

    Raises: OutOfPhase, NotAMember, BadSignature, Conflict, RepeatedKey, WeakKey, SecondSpelling; the state is
        then unchanged.
    """
    step = state.phase
    if step is Phase.ABORT and isinstance(message, Unmask) and _agreed(state):
        step = Phase.UNMASK  # late, and still of use
    if step.ended or not isinstance(message, EXPECTS[step]):
        raise OutOfPhase(phase=state.phase)
    if message.sender not in state.invited_to(step):
        raise NotAMember()
    message.check(state.setting.roster[message.sender], state.setting.context, state.transcript)
    taken: Mapping[int, HospitalMessage] = getattr(state, ANSWERS[step])
    before = taken.get(message.sender)
    if before == message:
        return state
    if before is not None:
        raise Conflict()
    _check_content(state, message)
    changed: dict[str, Any] = {ANSWERS[step]: {**taken, message.sender: message}}
    return replace(state, **changed)


def give_up(state: ServerState, *, vectors_lost: bool = False) -> ServerState:
    """Ask the hospitals to give up an attempt in which masked vectors were sent and that has no sum.

    Who still can is asked to unmask nevertheless, as long as that may open the sum (:func:`asked`). Nobody is
    once the masked vectors are lost: shares would be spent on a sum that nobody can publish.
    """
    if state.phase not in (Phase.UPLOAD, Phase.AGREE, Phase.UNMASK, Phase.DONE):
        raise OutOfPhase(phase=state.phase)
    failed_in = Phase.UNMASK if state.phase is Phase.DONE else state.phase
    agreed = {} if vectors_lost else state.agreed
    return replace(state, phase=Phase.ABORT, failed_in=failed_in, agreed=agreed)


def asked(state: ServerState, index: int, *, away: Collection[int] = ()) -> Phase:
    """What one hospital is asked for: in a failed attempt to unmask, if it can and that may open the sum.

    Args:
        away: hospitals that have said that they have left the attempt, so they have no keys.
    """
    if state.phase is not Phase.ABORT or not _agreed(state):
        return state.phase
    able = set(state.survivors) - set(state.aborted) - set(state.unmasked) - set(away)
    enough = len(state.unmasked) + len(able) >= state.setting.threshold(len(state.advertised))
    return Phase.UNMASK if enough and index in able else Phase.ABORT


def hopeless(state: ServerState) -> bool:
    """Whether everybody has answered a failed attempt, and it can be neither closed nor opened."""
    answered = {*state.unmasked, *state.aborted}
    return state.phase is Phase.ABORT and set(state.advertised) <= answered


def _agreed(state: ServerState) -> bool:
    """Whether the survivors may be shown a quorum."""
    return len(state.agreed) >= state.setting.quorum(len(state.advertised))


def close_phase(state: ServerState) -> ServerState:
    """Go on with the hospitals that answered; stop the attempt when they are too few.

    A failed attempt ends when enough have given it up, or goes on to its sum if that can be opened after all.

    Raises: BelowThreshold.
    """
    if len(state.answers) < state.needed:
        if state.phase is Phase.ABORT and _openable(state):
            return replace(state, phase=Phase.DONE)
        raise BelowThreshold(phase=state.phase, got=len(state.answers), need=state.needed)
    closed = replace(state, phase=NEXT[state.phase])
    if state.phase is Phase.ADVERTISE:
        return replace(closed, transcript=transcript_of(tuple(state.advertised.values())))
    if state.phase is Phase.COMMIT:
        return replace(closed, committed=tuple(sorted(state.ready)))
    if state.phase is Phase.UPLOAD:
        return replace(closed, survivors=tuple(sorted(state.uploaded)))
    return closed


def view(state: ServerState, index: int) -> AggregatorMessage | None:
    """What one hospital is told in the current phase; None when there is nothing (or nothing for it)."""
    if index not in state.invited:
        return None
    if state.phase is Phase.SHARE:
        return Advertised(messages=tuple(state.advertised[j] for j in sorted(state.advertised)))
    if state.phase is Phase.UPLOAD:
        return _committed_view(state, index)
    if state.phase is Phase.AGREE:
        return Survivors(members=state.survivors)
    if state.phase is Phase.UNMASK:
        signers = sorted(state.agreed)[: state.setting.quorum(len(state.advertised))]
        return Quorum(signatures={j: state.agreed[j].signature for j in signers})
    return None


def _committed_view(state: ServerState, index: int) -> Committed:
    others = {j: state.shared[j] for j in state.committed if j != index}
    context, transcript = state.setting.context, state.transcript
    dealt = {
        j: dealt_hash(
            m.share_commitments[index], m.check_commitment, context, transcript, dealer=j, holder=index
        )
        for j, m in others.items()
    }
    return Committed(
        members=state.committed, inbox={j: m.sealed[index] for j, m in others.items()}, dealt=dealt
    )


def masks_to_remove(state: ServerState) -> list[Mask]:
    """Rebuild the secrets and list every mask that is still in the sum of the survivors' vectors.

    Adding these masks (their signs are already reversed) to the sum leaves the sum of the encoded updates.

    A wrong share is set aside; who returned it is in :func:`wrong_returns`.

    Raises: BelowThreshold before enough shares are here; WrongShares if too few of them are right; Spoiled if
        right ones rebuild a secret that does not fit the public key or the commitment its owner signed.
    """
    if len(state.unmasked) < state.needed:
        raise BelowThreshold(phase=state.phase, got=len(state.unmasked), need=state.needed)
    limit = edge_limit(state.setting, len(state.advertised))
    wrong, coefficients = wrong_returns(state), functools.cache(shamir.lagrange_at_zero)
    context, transcript = state.setting.context, state.transcript
    masks = []
    for j in state.committed:
        alive = j in state.survivors
        right = [v for v in sorted(state.unmasked) if j not in wrong.get(v, ())][: state.needed]
        if len(right) < state.needed:
            raise WrongShares(returned_by=wrong)
        dealt = {v: Secret(_share(state.unmasked[v], j, alive)) for v in right}
        secret = _rebuild(dealt, coefficients(tuple(right)), j)
        if alive:
            if self_commitment(secret, context, transcript, j) != state.shared[j].commitment:
                raise Spoiled(index=j)
            masks.append(self_mask(secret, context, transcript))
            continue
        if public_bytes(secret) != state.advertised[j].mask_key:
            raise Spoiled(index=j)
        # What the dropped hospital would have added is minus what the survivors added.
        peers = {v: state.advertised[v].mask_key for v in state.survivors}
        theirs = pair_masks(new_key(secret), peers, context, transcript, own=j, limit=limit)
        masks += [Mask(m.seed, -m.sign) for m in theirs.values()]
    return [Mask(m.seed, -m.sign) for m in masks]


def _openable(state: ServerState) -> bool:
    """Whether enough right shares of every secret are here."""
    need = state.setting.threshold(len(state.advertised))
    if len(state.unmasked) < need:
        return False
    wrong = wrong_returns(state)
    right = (sum(j not in wrong.get(v, ()) for v in state.unmasked) for j in state.committed)
    return min(right, default=0) >= need


def wrong_returns(state: ServerState) -> dict[int, tuple[int, ...]]:
    """Who returned shares that their dealers never gave: holder → the hospitals whose shares they are.

    A dealer has committed to every share, and the holder has seen that its own fit before it went on, so a
    share that does not fit now was changed by the holder, whose signature is under it.
    """
    context, transcript = state.setting.context, state.transcript
    wrong = {}
    for holder, message in state.unmasked.items():
        found = []
        for dealer in state.committed:
            alive = dealer in state.survivors
            share = Secret(_share(message, dealer, alive))
            kind: ShareKind = "self-share" if alive else "key-share"
            given = share_commitment(share, kind, context, transcript, dealer=dealer, holder=holder)
            pair = state.shared[dealer].share_commitments[holder]
            if given != (pair[:SHARE_COMMITMENT_BYTES] if alive else pair[SHARE_COMMITMENT_BYTES:]):
                found.append(dealer)
        if found:
            wrong[holder] = tuple(found)
    return wrong


def _rebuild(dealt: Mapping[int, Secret], coefficients: Mapping[int, int], index: int) -> Secret:
    try:
        return shamir.combine(dealt, coefficients)
    except shamir.BadShares as error:
        raise Spoiled(index=index) from error


def _share(message: Unmask, index: int, alive: bool) -> bytes:
    return (message.self_shares if alive else message.key_shares)[index]


def _check_keys(state: ServerState, message: Advertise) -> None:
    taken = {k for m in state.advertised.values() for k in (m.channel_key, m.mask_key)}
    if message.channel_key == message.mask_key or taken & {message.channel_key, message.mask_key}:
        raise RepeatedKey()
    check_public_key(message.channel_key)
    check_public_key(message.mask_key)


def _check_content(state: ServerState, message: HospitalMessage) -> None:
    """What a signature does not say: that the message speaks of the sets of this attempt."""
    transcript, context = state.transcript, state.setting.context
    good = True
    if isinstance(message, Advertise):
        _check_keys(state, message)
    elif isinstance(message, Shares):
        everybody = set(state.advertised)
        good = set(message.sealed) == everybody - {message.sender}
        good = good and set(message.share_commitments) == everybody
    elif isinstance(message, Upload):
        good = message.committed_hash == committed_hash(context, transcript, state.committed)
    elif isinstance(message, Agree):
        u2_hash = committed_hash(context, transcript, state.committed)
        good = (message.committed_hash, message.survivors) == (u2_hash, state.survivors)
    elif isinstance(message, Unmask):
        dropped = set(state.committed) - set(state.survivors)
        good = (set(message.self_shares), set(message.key_shares)) == (set(state.survivors), dropped)
    if not good:
        raise BadSignature(what="A signed message speaks of another set than this attempt's.")
