"""A hospital's side of one attempt: one frozen state per phase, one function per step.

    advertise → share → (ready) → commit → [mask, upload] → agree → unmask

A function takes a state of exactly the phase it belongs to, so a step out of order cannot be written. What
the caller owes: it records ``Agreed`` and ``Unmasking`` durably *before* it sends the message that came with
it, never runs a step twice with different input, and forgets every state when the attempt is over.

Source: Bonawitz et al., CCS 2017, figure 4, active-adversary variant, with late commit and agreement by all
survivors (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from medveil.errors import RemoteProtocolError
from medveil.identity import Identity, Secret
from medveil.ids import join
from privacy.secagg import shamir
from privacy.secagg.keys import (
    Setting,
    WeakKey,
    channel_key,
    check_public_key,
    pair_mask,
    public_bytes,
    self_commitment,
    self_mask,
)
from privacy.secagg.masks import Mask
from privacy.secagg.messages import (
    Advertise,
    Advertised,
    Agree,
    Committed,
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

RandomBytes = Callable[[int], bytes]


class Refused(RemoteProtocolError):
    """The aggregator showed something an honest one never shows; this node leaves the attempt."""

    code = "secagg-refused"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The aggregator's message was refused: {reason}.",
            meaning="Going on could reveal a hospital's update; this node leaves the attempt.",
            remedy="Tell the consortium's admin; this node's log says when.",
        )
        self.reason = reason


@dataclass(frozen=True)
class Party:
    """This hospital in this attempt."""

    setting: Setting
    index: int
    identity: Identity


@dataclass(frozen=True)
class AdvertisedState:
    """Fresh keys are out."""

    party: Party
    channel_secret: Secret
    mask_secret: Secret
    own: Advertise


@dataclass(frozen=True)
class SharedState:
    """Secrets are dealt; training may go on."""

    party: Party
    channel_secret: Secret
    mask_secret: Secret
    self_secret: Secret
    peers: Mapping[int, Advertise]
    transcript: bytes
    own_shares: tuple[Secret, Secret]


@dataclass(frozen=True)
class CommittedState:
    """The mask set is fixed; ``masks`` belong on the encoded update."""

    party: Party
    peers: Mapping[int, Advertise]
    transcript: bytes
    members: Members
    committed_hash: bytes
    masks: tuple[Mask, ...]
    held: Mapping[int, tuple[Secret, Secret]]


@dataclass(frozen=True)
class AgreedState:
    """One survivor set is signed; there will be no second."""

    committed: CommittedState
    survivors: Members


def advertise(party: Party, random_bytes: RandomBytes) -> tuple[AdvertisedState, Advertise]:
    """1. Make fresh keys and sign them."""
    channel_secret, mask_secret = Secret(random_bytes(32)), Secret(random_bytes(32))
    message = Advertise(
        sender=party.index, channel_key=public_bytes(channel_secret), mask_key=public_bytes(mask_secret)
    ).signed_by(party.identity, party.setting.context, b"")
    return AdvertisedState(party, channel_secret, mask_secret, message), message


def share(state: AdvertisedState, seen: Advertised, random_bytes: RandomBytes) -> tuple[SharedState, Shares]:
    """2. Check everybody's keys and deal my two secrets to all of them.

    Raises: Refused if a key is unsigned, repeated, from outside the roster or for another context (another
        model, round, plan), if my own is missing or changed, or if there are too few.
    """
    party, setting = state.party, state.party.setting
    peers = _checked_peers(state, seen)
    threshold = setting.threshold(len(peers))
    transcript = transcript_of(seen.messages)
    self_secret = Secret(random_bytes(32))
    self_shares = shamir.split(self_secret, threshold, peers, random_bytes)
    key_shares = shamir.split(state.mask_secret, threshold, peers, random_bytes)
    sealed = {}
    for j, peer in peers.items():
        if j != party.index:
            key = channel_key(
                state.channel_secret,
                peer.channel_key,
                setting.context,
                transcript,
                sender=party.index,
                receiver=j,
            )
            plain = self_shares[j].reveal() + key_shares[j].reveal()
            sealed[j] = ChaCha20Poly1305(key).encrypt(bytes(12), plain, _sealing(party, transcript))
    message = Shares(
        sender=party.index,
        commitment=self_commitment(self_secret, setting.context, transcript, party.index),
        sealed=sealed,
    ).signed_by(party.identity, setting.context, transcript)
    own = (self_shares[party.index], key_shares[party.index])
    shared = SharedState(party, state.channel_secret, state.mask_secret, self_secret, peers, transcript, own)
    return shared, message


def ready(state: SharedState) -> Ready:
    """3. Training has ended."""
    party = state.party
    return Ready(sender=party.index).signed_by(party.identity, party.setting.context, state.transcript)


def commit(state: SharedState, seen: Committed) -> CommittedState:
    """4a. Check the committed set and derive this node's masks.

    Raises: Refused if the set is too small, not within U1, without me, or a member's share to me is missing
        or does not open.
    """
    party, setting, members = state.party, state.party.setting, tuple(sorted(set(seen.members)))
    if len(members) != len(seen.members) or not set(members) <= set(state.peers):
        raise Refused(reason="the committed set holds strangers or repeats")
    if party.index not in members:
        raise Refused(reason="the committed set leaves this hospital out")
    if len(members) < setting.least(len(state.peers)):
        raise Refused(reason="the committed set is too small")
    held = {j: _open(state, j, seen.inbox) for j in members if j != party.index}
    held[party.index] = state.own_shares
    masks = [self_mask(state.self_secret, setting.context, state.transcript)]
    for j in members:
        if j != party.index:
            masks.append(
                pair_mask(
                    state.mask_secret,
                    state.peers[j].mask_key,
                    setting.context,
                    state.transcript,
                    own=party.index,
                    other=j,
                )
            )
    u2_hash = committed_hash(setting.context, state.transcript, members)
    return CommittedState(party, state.peers, state.transcript, members, u2_hash, tuple(masks), held)


def upload(state: CommittedState, segment_hashes: Sequence[bytes]) -> Upload:
    """4b. Sign the masked vector that the segments hold."""
    party = state.party
    return Upload(
        sender=party.index, committed_hash=state.committed_hash, segments=tuple(segment_hashes)
    ).signed_by(party.identity, party.setting.context, state.transcript)


def agree(state: CommittedState, seen: Survivors) -> tuple[AgreedState, Agree]:
    """5. Check the survivor set and sign it. The caller records it before sending.

    Raises: Refused if it is too small, not within U2 or without me.
    """
    party, survivors = state.party, tuple(sorted(set(seen.members)))
    if len(survivors) != len(seen.members) or not set(survivors) <= set(state.members):
        raise Refused(reason="the survivor set holds strangers or repeats")
    if party.index not in survivors:
        raise Refused(reason="the survivor set leaves this hospital out")
    if len(survivors) < party.setting.least(len(state.peers)):
        raise Refused(reason="the survivor set is too small")
    message = Agree(sender=party.index, committed_hash=state.committed_hash, survivors=survivors).signed_by(
        party.identity, party.setting.context, state.transcript
    )
    return AgreedState(state, survivors), message


def unmask(state: AgreedState, seen: Quorum) -> Unmask:
    """6. Check the quorum, then give one kind of share for each hospital. The caller records it before.

    Raises: Refused unless at least t different survivors signed exactly my committed and survivor sets.
    """
    committed, party = state.committed, state.committed.party
    setting = party.setting
    signers = set()
    for agreement in seen.agreements:
        same = (agreement.committed_hash, agreement.survivors) == (committed.committed_hash, state.survivors)
        if not same or agreement.sender not in state.survivors:
            raise Refused(reason="an agreement names another set or comes from a stranger")
        _verify(agreement, setting, committed.transcript)
        signers.add(agreement.sender)
    if len(signers) < setting.threshold(len(committed.peers)):
        raise Refused(reason="too few hospitals signed the survivor set")
    alive = set(state.survivors)
    return Unmask(
        sender=party.index,
        self_shares={j: committed.held[j][0].reveal() for j in committed.members if j in alive},
        key_shares={j: committed.held[j][1].reveal() for j in committed.members if j not in alive},
    ).signed_by(party.identity, setting.context, committed.transcript)


def _checked_peers(state: AdvertisedState, seen: Advertised) -> dict[int, Advertise]:
    party, setting = state.party, state.party.setting
    peers = {m.sender: m for m in sorted(seen.messages, key=lambda m: m.sender)}
    if len(peers) != len(seen.messages):
        raise Refused(reason="a hospital appears twice among the advertised keys")
    if peers.get(party.index) != state.own:
        raise Refused(reason="this hospital's own keys are missing or changed")
    if len(peers) < setting.min_hospitals:
        raise Refused(reason="too few hospitals advertised keys")
    for message in peers.values():
        _verify(message, setting, b"")
    keys = [k for m in peers.values() for k in (m.channel_key, m.mask_key)]
    if len(set(keys)) != len(keys):
        raise Refused(reason="two advertised keys are equal")
    try:
        for key in keys:
            check_public_key(key)
    except WeakKey as error:
        raise Refused(reason="an advertised key is of small order") from error
    return peers


def _verify(message: Advertise | Agree, setting: Setting, transcript: bytes) -> None:
    key = setting.roster.get(message.sender)
    if key is None:
        raise Refused(reason="a sender is not on the roster")
    try:
        message.check(key, setting.context, transcript)
    except RemoteProtocolError as error:
        raise Refused(reason="a signature is not valid for this plan, round and model") from error


def _open(state: SharedState, sender: int, inbox: Mapping[int, bytes]) -> tuple[Secret, Secret]:
    party = state.party
    key = channel_key(
        state.channel_secret,
        state.peers[sender].channel_key,
        party.setting.context,
        state.transcript,
        sender=sender,
        receiver=party.index,
    )
    try:
        plain = ChaCha20Poly1305(key).decrypt(
            bytes(12), inbox.get(sender, b""), _sealing(party, state.transcript)
        )
    except (InvalidTag, ValueError) as error:
        raise Refused(reason="a member's sealed shares are missing or do not open") from error
    half = shamir.SHARE_BYTES
    return Secret(plain[:half]), Secret(plain[half:])


def _sealing(party: Party, transcript: bytes) -> bytes:
    return join(b"share", party.setting.context.bytes, transcript)
