"""Keys and context: everything derived or signed in a round is bound to what the round is.

``Context`` names the plan (study, roster, epoch), the round, the attempt, the kind of round and the exact
model; the *transcript* is the hash of the signed Advertise messages. Every HKDF info, every associated data
and every signature carries its own label, the context and, once it exists, the transcript.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from medveil.errors import LocalProtocolError, RemoteProtocolError
from medveil.identity import Secret
from medveil.ids import digest, join
from medveil.plan import Plan
from medveil.rounds import RoundKind
from medveil.values import MaskGraph
from privacy.secagg.masks import Mask

PROTOCOL = b"medveil-secagg-v2"
PROTOCOL_1 = b"medveil-secagg-v1"
"""Before abort certificates and the quorum over the roster (docs/decisions/0021-one-sum-per-model.md). What
was published under it can still be verified; nothing is signed under it any more."""
SHARE_COMMITMENT_BYTES = 16
"""Half a SHA-256. A dealer gains nothing from two shares with one commitment, since it may deal anything; a
holder would have to find another share for a given commitment: 2^128 tries."""


ShareKind = Literal["self-share", "key-share"]


class UnsafeCohort(LocalProtocolError):
    """The numbers of a round would not protect a hospital."""

    code = "unsafe-cohort"

    def __init__(self, *, got: int, need: int) -> None:
        super().__init__(
            what=f"A sum of {got} hospitals was asked for; {need} is the least.",
            meaning="A smaller sum would show too much of each hospital in it.",
            remedy="Wait until more hospitals take part.",
        )


@dataclass(frozen=True)
class Context:
    """What one attempt at a secure sum is about."""

    plan: bytes
    round: int
    attempt: int
    kind: RoundKind
    model: bytes
    protocol: bytes = PROTOCOL

    @cached_property
    def bytes(self) -> bytes:
        """Canonical, length-prefixed form."""
        numbers = (str(self.round).encode(), str(self.attempt).encode())
        return join(self.protocol, self.plan, *numbers, self.kind.encode(), self.model)


@dataclass(frozen=True)
class Setting:
    """What every party of an attempt knows from the start."""

    context: Context
    roster: Mapping[int, bytes]
    """Index → Ed25519 public key, from the approved plan."""
    min_hospitals: int
    colluders: int
    mask_graph: MaskGraph = "complete"

    def __post_init__(self) -> None:
        if self.min_hospitals < max(3, self.colluders + 2):
            raise UnsafeCohort(got=self.min_hospitals, need=max(3, self.colluders + 2))

    def threshold(self, advertised: int) -> int:
        """t = floor((m + c) / 2) + 1: shares to rebuild a secret.

        Guarantees: 2t > m + c, so m holders, c of whom answer twice, can never give out both of one
        hospital's secrets.
        """
        return (advertised + self.colluders) // 2 + 1

    def quorum(self, advertised: int) -> int:
        """q = floor((n + c) / 2) + 1 of the roster's n: signatures under a survivor set, to unmask.

        Guarantees: 2q > n + c, so two different survivor sets of one attempt can never both find q
        signatures, whatever sets of keys (U1) the hospitals were shown. The first version of the protocol
        counted from the advertised, so that two disjoint U1 could both be opened.
        """
        if self.context.protocol == PROTOCOL_1:
            return self.threshold(advertised)
        return (len(self.roster) + self.colluders) // 2 + 1

    def closing(self, advertised: int) -> int:
        """m + c - t + 1: so many members of U1 that never unmask keep a sum shut for ever.

        Guarantees: with c of them lying, at most m + c - closing = t - 1 members can ever give shares.
        It is t or t - 1; with c = 0, hospitals that have all either unmasked or vowed not to always make
        one of the two.
        """
        return advertised + self.colluders - self.threshold(advertised) + 1

    def least(self, advertised: int) -> int:
        """Fewest members of any later set, once ``advertised`` hospitals have sent keys."""
        return max(self.threshold(advertised), self.quorum(advertised), self.min_hospitals)

    @property
    def smallest(self) -> int:
        """Fewest hospitals with which an attempt can succeed: fewer cannot sign, or would hide too little."""
        return max(self.quorum(0), self.min_hospitals)


def setting_for(
    plan: Plan, *, number: int, attempt: int, kind: RoundKind, model: bytes, protocol: bytes = PROTOCOL
) -> Setting:
    """The setting of one attempt of a plan."""
    return Setting(
        context=Context(plan.hash, number, attempt, kind, model, protocol),
        roster={m.index: m.key for m in plan.roster},
        min_hospitals=plan.study.cohort.min_hospitals,
        colluders=plan.study.secure_aggregation.colluders,
        mask_graph=plan.study.secure_aggregation.mask_graph,
    )


class WeakKey(RemoteProtocolError):
    """A public key with which no secret can be agreed."""

    code = "weak-key"

    def __init__(self) -> None:
        super().__init__(
            what="An advertised key is one of the few with which every exchange gives zero.",
            meaning="A mask made with it would be known to everybody, so nothing was derived from it.",
            remedy="No honest node makes such a key by accident; look at the hospital that signed it.",
        )


_PRIME = 2**255 - 19
_SMALL_ORDER = frozenset(
    {
        0,
        1,
        _PRIME - 1,
        0xB8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    }
)
"""The x-coordinates with which every exchange gives zero (Bernstein, "Curve25519", 2006, section 3)."""


class SecondSpelling(RemoteProtocolError):
    """A public key that is not written in the one way that every honest node writes it."""

    code = "key-second-spelling"

    def __init__(self) -> None:
        super().__init__(
            what="An advertised key is written in another way than the one for its point.",
            meaning="It could be another hospital's key in disguise, so nothing was derived from it.",
            remedy="No honest node makes such a key; look at the hospital that signed it.",
        )


def check_public_key(key: bytes) -> None:
    """One spelling for each point, and none of small order (RFC 7748, sections 5 and 6.1).

    Raises: WeakKey, SecondSpelling.
    """
    x = int.from_bytes(key, "little")
    if x % 2**255 % _PRIME in _SMALL_ORDER:
        raise WeakKey()
    if x >= _PRIME:
        raise SecondSpelling()


def new_key(seed: Secret) -> X25519PrivateKey:
    """An X25519 private key from 32 bytes. It costs as much as an exchange, so it is made once for many."""
    return X25519PrivateKey.from_private_bytes(seed.reveal())


def public_bytes(seed: Secret) -> bytes:
    """The 32-byte public key that belongs to a private one."""
    return new_key(seed).public_key().public_bytes_raw()


def channel_key(
    private: X25519PrivateKey, peer: bytes, context: Context, transcript: bytes, *, sender: int, receiver: int
) -> bytes:
    """Key for the one message from ``sender`` to ``receiver``; each direction has its own."""
    ends = (_number(sender), _number(receiver))
    return _hkdf(_exchange(private, peer), "channel", context, transcript, *ends)


def pair_secret(private: X25519PrivateKey, peer: bytes) -> Secret:
    """What two hospitals' mask keys give together. Raises: WeakKey."""
    return Secret(_exchange(private, peer))


def pair_mask(pair: Secret, context: Context, transcript: bytes, *, own: int, other: int) -> Mask:
    """The mask that two hospitals share; the one with the lower index adds, the other subtracts."""
    ends = (_number(min(own, other)), _number(max(own, other)))
    return Mask(Secret(_hkdf(pair.reveal(), "pair", context, transcript, *ends)), 1 if own < other else -1)


def edge_number(pair: Secret, context: Context, transcript: bytes, *, own: int, other: int) -> int:
    """A number below 2^64 that only these two know; it decides whether they share a mask."""
    ends = (_number(min(own, other)), _number(max(own, other)))
    return int.from_bytes(_hkdf(pair.reveal(), "edge", context, transcript, *ends)[:8], "big")


def self_mask(secret: Secret, context: Context, transcript: bytes) -> Mask:
    """A hospital's own mask, which only the survivors' shares can remove."""
    return Mask(Secret(_hkdf(secret.reveal(), "self", context, transcript)), 1)


def self_commitment(secret: Secret, context: Context, transcript: bytes, index: int) -> bytes:
    """Binds a hospital to its self-mask secret (32 uniform bytes, so the hash hides it)."""
    return digest("self-mask", context.bytes, transcript, _number(index), secret.reveal())


def share_commitment(
    share: Secret, kind: ShareKind, context: Context, transcript: bytes, *, dealer: int, holder: int
) -> bytes:
    """Binds a dealer to one share of one holder.

    The commitments to all shares hide them: each share is uniform in a field of 2^256 elements, also for
    somebody who holds fewer than the threshold.
    """
    place = (kind.encode(), _number(dealer), _number(holder))
    return digest("share", context.bytes, transcript, *place, share.reveal())[:SHARE_COMMITMENT_BYTES]


def check_commitment(contribution: Secret, context: Context, transcript: bytes, index: int) -> bytes:
    """Binds a hospital to one contribution to the check key, the same for everybody (32 uniform bytes)."""
    return digest("check-contribution", context.bytes, transcript, _number(index), contribution.reveal())


def dealt_hash(
    commitments: bytes,
    of_contribution: bytes,
    context: Context,
    transcript: bytes,
    *,
    dealer: int,
    holder: int,
) -> bytes:
    """What a dealer signed that it dealt to one holder: associated data of the sealed box."""
    ends = (_number(dealer), _number(holder))
    return digest("dealt", context.bytes, transcript, *ends, commitments, of_contribution)


def check_key(
    contributions: Mapping[int, Secret], context: Context, transcript: bytes, committed_hash: bytes
) -> Secret:
    """The key of the check words, from the contributions of the whole committed set.

    Every member of the set can make it; the aggregator alone cannot, as long as all of them keep it.
    """
    together = b"".join(contributions[i].reveal() for i in sorted(contributions))
    return Secret(_hkdf(together, "check", context, transcript, committed_hash))


def _exchange(private: X25519PrivateKey, peer: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError as error:  # the result is all zeros
        raise WeakKey() from error


def _hkdf(secret: bytes, label: str, context: Context, transcript: bytes, *parts: bytes) -> bytes:
    info = join(label.encode(), context.bytes, transcript, *parts)
    return HKDF(hashes.SHA256(), 32, None, info).derive(secret)


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")
