"""A hospital's side of one attempt: one frozen state per phase, one function per step.

    advertise → share → (ready) → commit → [mask, upload] → agree → unmask

An attempt that fails after ``upload`` is given up instead (``privacy.secagg.closing``).

A function takes a state of exactly the phase it belongs to, so a step out of order cannot be written. What
the caller owes: it records the upload, ``Agreed`` and ``Unmasking`` durably *before* it sends the message
that came with it, never unmasks in an attempt that it has given up, never runs a step twice with different
input, and forgets every state when the attempt is over.

Source: Bonawitz et al., CCS 2017, figure 4, active-adversary variant, with late commit and agreement by all
survivors (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from medveil.errors import RemoteProtocolError
from medveil.identity import Identity, Secret
from medveil.ids import join
from privacy.secagg import shamir
from privacy.secagg.graph import edge_limit, pair_masks
from privacy.secagg.keys import (
    SecondSpelling,
    Setting,
    WeakKey,
    channel_key,
    check_commitment,
    check_key,
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

    def __init__(self, *, reason: str, dealer: int | None = None) -> None:
        super().__init__(
            what=f"The aggregator's message was refused: {reason}"
            + ("." if dealer is None else f" (hospital {dealer})."),
            meaning="Going on could reveal a hospital's update; this node leaves the attempt.",
            remedy="Tell the consortium's admin; this node's log says when.",
        )
        self.reason, self.dealer = reason, dealer


class Dealt(NamedTuple):
    """What one hospital holds of another's secrets, or of its own."""

    self_share: Secret
    key_share: Secret
    contribution: Secret
    """To the check key; the same for everybody."""


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
    own: Dealt


@dataclass(frozen=True)
class CommittedState:
    """The mask set is fixed; ``masks`` belong on the encoded update, after its check word."""

    party: Party
    peers: Mapping[int, Advertise]
    transcript: bytes
    members: Members
    committed_hash: bytes
    masks: tuple[Mask, ...]
    neighbours: frozenset[int]
    """Members with whom this node shares a mask; nobody else may know them."""
    check_key: Secret
    """Of all members, unknown to the aggregator: makes and checks check words."""
    held: Mapping[int, Dealt]


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
    """2. Check everybody's keys; deal my two secrets and my part of the check key to all of them.

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
    contribution = Secret(random_bytes(32))
    dealt = {j: Dealt(self_shares[j], key_shares[j], contribution) for j in peers}
    commitments = {j: _commitments(party, transcript, mine, party.index, j) for j, mine in dealt.items()}
    of_contribution = check_commitment(contribution, setting.context, transcript, party.index)
    sealed, channel = {}, new_key(state.channel_secret)
    for j, peer in peers.items():
        if j != party.index:
            key = channel_key(
                channel,
                peer.channel_key,
                setting.context,
                transcript,
                sender=party.index,
                receiver=j,
            )
            signed = dealt_hash(
                commitments[j], of_contribution, setting.context, transcript, dealer=party.index, holder=j
            )
            plain = b"".join(part.reveal() for part in dealt[j])
            sealed[j] = ChaCha20Poly1305(key).encrypt(bytes(12), plain, _sealing(party, transcript, signed))
    message = Shares(
        sender=party.index,
        commitment=self_commitment(self_secret, setting.context, transcript, party.index),
        check_commitment=of_contribution,
        share_commitments=commitments,
        sealed=sealed,
    ).signed_by(party.identity, setting.context, transcript)
    own = dealt[party.index]
    shared = SharedState(party, state.channel_secret, state.mask_secret, self_secret, peers, transcript, own)
    return shared, message


def ready(state: SharedState) -> Ready:
    """3. Training has ended."""
    party = state.party
    return Ready(sender=party.index).signed_by(party.identity, party.setting.context, state.transcript)


def commit(state: SharedState, seen: Committed) -> CommittedState:
    """4a. Check the committed set and derive this node's masks and the check key.

    Raises: Refused if the set is too small, not within U1, without me or without a neighbour of mine in the
        mask graph, or what a member dealt to me is missing, does not open or is not what it committed to.
    """
    party, setting, members = state.party, state.party.setting, tuple(sorted(set(seen.members)))
    if len(members) != len(seen.members) or not set(members) <= set(state.peers):
        raise Refused(reason="the committed set holds strangers or repeats")
    if party.index not in members:
        raise Refused(reason="the committed set leaves this hospital out")
    if len(members) < setting.least(len(state.peers)):
        raise Refused(reason="the committed set is too small")
    channel = new_key(state.channel_secret)
    held = {j: _open(state, channel, j, seen) for j in members if j != party.index}
    held[party.index] = state.own
    shared = pair_masks(
        new_key(state.mask_secret),
        {j: state.peers[j].mask_key for j in members if j != party.index},
        setting.context,
        state.transcript,
        own=party.index,
        limit=edge_limit(setting, len(state.peers)),
    )
    if not shared:
        raise Refused(reason="this hospital would share a mask with nobody")
    u2_hash = committed_hash(setting.context, state.transcript, members)
    contributions = {j: mine.contribution for j, mine in held.items()}
    return CommittedState(
        party,
        state.peers,
        state.transcript,
        members,
        u2_hash,
        (self_mask(state.self_secret, setting.context, state.transcript), *shared.values()),
        frozenset(shared),
        check_key(contributions, setting.context, state.transcript, u2_hash),
        held,
    )


def upload(state: CommittedState, segment_hashes: Sequence[bytes], *, relay: bytes = b"") -> Upload:
    """4b. Sign the masked vector that the segments hold.

    Args:
        relay: public key of the relay that has the segments, if they are not at the aggregator.
    """
    party = state.party
    return Upload(
        sender=party.index, committed_hash=state.committed_hash, segments=tuple(segment_hashes), relay=relay
    ).signed_by(party.identity, party.setting.context, state.transcript)


def agree(state: CommittedState, seen: Survivors) -> tuple[AgreedState, Agree]:
    """5. Check the survivor set and sign it. The caller records it before sending.

    Raises: Refused if it is too small, not within U2, without me or without a neighbour of mine.
    """
    party, survivors = state.party, tuple(sorted(set(seen.members)))
    if len(survivors) != len(seen.members) or not set(survivors) <= set(state.members):
        raise Refused(reason="the survivor set holds strangers or repeats")
    if party.index not in survivors:
        raise Refused(reason="the survivor set leaves this hospital out")
    if len(survivors) < party.setting.least(len(state.peers)):
        raise Refused(reason="the survivor set is too small")
    if not state.neighbours & set(survivors):
        raise Refused(reason="nobody who shares a mask with this hospital has survived")
    message = Agree(sender=party.index, committed_hash=state.committed_hash, survivors=survivors).signed_by(
        party.identity, party.setting.context, state.transcript
    )
    return AgreedState(state, survivors), message


def unmask(state: AgreedState, seen: Quorum) -> Unmask:
    """6. Check the quorum, then give one kind of share for each hospital. The caller records it before.

    Raises: Refused unless at least q different survivors signed exactly my committed and survivor sets.
    """
    committed, party = state.committed, state.committed.party
    setting = party.setting
    if not set(seen.signatures) <= set(state.survivors):
        raise Refused(reason="somebody outside the survivor set signed it")
    own = Agree(sender=party.index, committed_hash=committed.committed_hash, survivors=state.survivors)
    for signer, signature in seen.signatures.items():
        same = own.model_copy(update={"sender": signer, "signature": signature})
        _verify(same, setting, committed.transcript)
    if len(seen.signatures) < setting.quorum(len(committed.peers)):
        raise Refused(reason="too few hospitals signed the survivor set")
    alive = set(state.survivors)
    return Unmask(
        sender=party.index,
        self_shares={j: committed.held[j].self_share.reveal() for j in committed.members if j in alive},
        key_shares={j: committed.held[j].key_share.reveal() for j in committed.members if j not in alive},
    ).signed_by(party.identity, setting.context, committed.transcript)


def _checked_peers(state: AdvertisedState, seen: Advertised) -> dict[int, Advertise]:
    party, setting = state.party, state.party.setting
    peers = {m.sender: m for m in sorted(seen.messages, key=lambda m: m.sender)}
    if len(peers) != len(seen.messages):
        raise Refused(reason="a hospital appears twice among the advertised keys")
    if peers.get(party.index) != state.own:
        raise Refused(reason="this hospital's own keys are missing or changed")
    if len(peers) < setting.smallest:
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
    except SecondSpelling as error:
        raise Refused(reason="an advertised key is a second spelling of a point") from error
    return peers


def _verify(message: Advertise | Agree, setting: Setting, transcript: bytes) -> None:
    key = setting.roster.get(message.sender)
    if key is None:
        raise Refused(reason="a sender is not on the roster")
    try:
        message.check(key, setting.context, transcript)
    except RemoteProtocolError as error:
        raise Refused(reason="a signature is not valid for this plan, round and model") from error


def _open(state: SharedState, channel: X25519PrivateKey, dealer: int, seen: Committed) -> Dealt:
    """Open what a member dealt to this node, and hold it against what the member committed to.

    The hash of the commitments is associated data of the box, so a box that opens shows that its dealer, and
    nobody else, meant exactly these commitments to go with it: a box with another content is the dealer's
    doing. A box that does not open may be the dealer's or the aggregator's.
    """
    party, context = state.party, state.party.setting.context
    signed = seen.dealt.get(dealer, b"")
    key = channel_key(
        channel,
        state.peers[dealer].channel_key,
        context,
        state.transcript,
        sender=dealer,
        receiver=party.index,
    )
    try:
        plain = ChaCha20Poly1305(key).decrypt(
            bytes(12), seen.inbox.get(dealer, b""), _sealing(party, state.transcript, signed)
        )
    except (InvalidTag, ValueError) as error:
        raise Refused(reason="what a member dealt is missing or does not open", dealer=dealer) from error
    share = shamir.SHARE_BYTES
    dealt = Dealt(Secret(plain[:share]), Secret(plain[share : 2 * share]), Secret(plain[2 * share :]))
    found = dealt_hash(
        _commitments(party, state.transcript, dealt, dealer, party.index),
        check_commitment(dealt.contribution, context, state.transcript, dealer),
        context,
        state.transcript,
        dealer=dealer,
        holder=party.index,
    )
    if found != signed:
        raise Refused(reason="a member dealt something else than it committed to", dealer=dealer)
    return dealt


def _commitments(party: Party, transcript: bytes, dealt: Dealt, dealer: int, holder: int) -> bytes:
    """To the self-mask share, then to the mask-key share."""
    context = party.setting.context
    return share_commitment(
        dealt.self_share, "self-share", context, transcript, dealer=dealer, holder=holder
    ) + share_commitment(dealt.key_share, "key-share", context, transcript, dealer=dealer, holder=holder)


def _sealing(party: Party, transcript: bytes, signed: bytes) -> bytes:
    return join(b"share", party.setting.context.bytes, transcript, signed)
