"""The messages of one attempt, as they are signed and as they cross the wire.

Every message of a hospital carries its index and an Ed25519 signature over a label of its own, the context,
the transcript (from Share on) and the body. Messages are deterministic CBOR; anything else is refused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, ClassVar, Self

from pydantic import Field

from medveil.identity import Identity, verify
from medveil.ids import canonical, digest
from medveil.messages import Wire
from privacy.secagg.keys import Context

Index = Annotated[int, Field(ge=1, le=10_000)]
Key = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature = Annotated[bytes, Field(min_length=64, max_length=64)]
Sealed = Annotated[bytes, Field(min_length=114, max_length=114)]
"""Two shares of 33 bytes, a contribution to the check key of 32 and the tag of 16."""
Commitments = Annotated[bytes, Field(min_length=32, max_length=32)]
"""To a self-mask share and a mask-key share, 16 bytes each."""
Share = Annotated[bytes, Field(min_length=33, max_length=33)]
Relay = Annotated[bytes, Field(max_length=32, exclude_if=lambda key: not key)]
Members = tuple[Index, ...]


class Signed(Wire):
    """A hospital's message: who, what, and the signature over it."""

    label: ClassVar[str]
    sender: Index
    signature: Signature = bytes(64)

    def signed_by(self, identity: Identity, context: Context, transcript: bytes) -> Self:
        """The same message with its signature."""
        signature = identity.sign(self.label, *self._signed_parts(context, transcript))
        return self.model_copy(update={"signature": signature})

    def check(self, key: bytes, context: Context, transcript: bytes) -> None:
        """Raises: BadSignature."""
        verify(key, self.signature, self.label, *self._signed_parts(context, transcript))

    def _signed_parts(self, context: Context, transcript: bytes) -> tuple[bytes, ...]:
        body = self.model_dump(exclude={"signature"})
        return (context.bytes, transcript, canonical(body))


class Advertise(Signed):
    """1. Two fresh X25519 public keys: one for the channels, one for the masks."""

    label: ClassVar[str] = "secagg-advertise"
    channel_key: Key
    mask_key: Key


class Shares(Signed):
    """2. For every other hospital, sealed: its shares of my two secrets and my part of the check key."""

    label: ClassVar[str] = "secagg-shares"
    commitment: Key
    """Hash of the self-mask secret, so that wrong shares are found out."""
    check_commitment: Key
    """Hash of the contribution to the check key, so that all receive the same."""
    share_commitments: dict[Index, Commitments]
    """Hashes of the two shares of each hospital, my own too, so that whoever changes one is found out."""
    sealed: dict[Index, Sealed]


class Ready(Signed):
    """3. Training has ended; I could upload now."""

    label: ClassVar[str] = "secagg-ready"


class Upload(Signed):
    """4. The masked vector lies at the aggregator in these segments."""

    label: ClassVar[str] = "secagg-upload"
    committed_hash: Key
    segments: tuple[Key, ...]
    """SHA-256 of each segment of 16 MiB."""
    relay: Relay = b""
    """Public key of the relay that has the segments and adds them to its region's; empty without one."""


class Agree(Signed):
    """5. I saw this committed set and this survivor set, and no other."""

    label: ClassVar[str] = "secagg-agree"
    committed_hash: Key
    survivors: Members

    def _signed_parts(self, context: Context, transcript: bytes) -> tuple[bytes, ...]:
        """As of every message, but the members are spelled once for all who have signed the same."""
        parts = (_SENDER, canonical(self.sender), _spelled(self.survivors), canonical(self.committed_hash))
        return (context.bytes, transcript, b"".join(parts))


_SENDER = b"\xa3" + canonical("sender")
"""A map of three, in the order of canonical CBOR: ``sender``, ``survivors``, ``committed_hash``."""


@lru_cache(4)
def _spelled(survivors: Members) -> bytes:
    return canonical("survivors") + canonical(survivors) + canonical("committed_hash")


class Unmask(Signed):
    """6. For each survivor its self-mask share, for each dropped hospital its mask-key share."""

    label: ClassVar[str] = "secagg-unmask"
    self_shares: dict[Index, Share] = Field(repr=False)
    key_shares: dict[Index, Share] = Field(repr=False)


class Abort(Signed):
    """7. Only if it failed: I have not unmasked in this attempt and never will, whatever set I am shown."""

    label: ClassVar[str] = "secagg-abort"

    def _signed_parts(self, context: Context, transcript: bytes) -> tuple[bytes, ...]:
        """Of the whole attempt, whichever set of keys was shown: so a node can vow that has forgotten it."""
        return super()._signed_parts(context, b"")


HospitalMessage = Advertise | Shares | Ready | Upload | Agree | Unmask | Abort
MESSAGES: dict[str, type[HospitalMessage]] = {
    "advertise": Advertise,
    "shares": Shares,
    "ready": Ready,
    "upload": Upload,
    "agree": Agree,
    "unmask": Unmask,
    "abort": Abort,
}


class Advertised(Wire):
    """U1: every signed Advertise message of the attempt."""

    messages: tuple[Advertise, ...]


class Committed(Wire):
    """U2: who is masked together, what was dealt to the receiver and what the dealers signed of it."""

    members: Members
    inbox: dict[Index, Sealed]
    dealt: dict[Index, Key]


class Survivors(Wire):
    """U3: whose upload arrived in full."""

    members: Members


class Quorum(Wire):
    """Signatures under the survivor set that the receiver has signed itself: as many as it needs."""

    signatures: dict[Index, Signature]


class Published(Wire):
    """Where a model version comes from: the attempt, its sets, the survivors' signatures, the sum's hash."""

    round: Annotated[int, Field(ge=1, le=100_000)]
    attempt: Annotated[int, Field(ge=1, le=100_000)]
    transcript: Key
    members: Members
    """U2, in ascending order."""
    survivors: Members
    """U3, in ascending order."""
    signatures: dict[Index, Signature]
    """Of at least q survivors under their ``agree`` messages, which hold nothing but the sets above."""
    sum_hash: Key
    """SHA-256 of the sum as it is served: 64-bit words, little-endian."""


class Certificate(Wire):
    """The abort certificate of one attempt: signatures of hospitals under their ``abort`` messages."""

    round: Annotated[int, Field(ge=1, le=100_000)]
    attempt: Annotated[int, Field(ge=1, le=100_000)]
    signatures: dict[Index, Signature]


class Certificates(Wire):
    """Every abort certificate of one round."""

    certificates: tuple[Certificate, ...]


AggregatorMessage = Advertised | Committed | Survivors | Quorum


def transcript_of(messages: tuple[Advertise, ...]) -> bytes:
    """Hash of the sorted, signed Advertise messages of U1."""
    ordered = sorted(messages, key=lambda m: m.sender)
    return digest("transcript", *(m.to_bytes() for m in ordered))


def committed_hash(context: Context, transcript: bytes, members: Members) -> bytes:
    """Hash of the committed set U2."""
    return digest("committed", context.bytes, transcript, canonical(sorted(members)))
