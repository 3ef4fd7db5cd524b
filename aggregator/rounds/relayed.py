"""Masked vectors that came as one sum, added by a region's relay: who is in it, and the state after it."""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.work.unmasking import WrongLength, segment_lengths
from medveil.errors import RemoteProtocolError
from medveil.relaying import RelayedUploads
from privacy.secagg import server
from privacy.secagg.messages import Members, Upload


class WrongRelay(RemoteProtocolError):
    """A relay hands in a vector that its hospital did not give to it."""

    code = "wrong-relay"

    def __init__(self) -> None:
        super().__init__(
            what="A hospital in this sum did not name this relay in what it signed.",
            meaning="Nothing of the sum was taken; nothing was changed.",
            remedy="The hospitals send their vectors themselves. Look at the relay's settings and its key.",
        )


@dataclass(frozen=True)
class Relayed:
    """One relay's sum in an attempt."""

    relay: str
    members: Members
    segments: tuple[bytes, ...]
    """SHA-256 of each segment of the sum."""

    @property
    def source(self) -> str:
        """What its segments are stored under."""
        return source_of(self.relay)


def source_of(relay: str) -> str:
    """What a relay's segments are stored under: no hospital's index, and no name has a dot."""
    return f"relay.{relay}"


def take(
    state: server.ServerState, told: RelayedUploads, *, words: int
) -> tuple[server.ServerState, Relayed]:
    """The state after all these uploads, or none of them. The sum itself lies outside.

    Args:
        words: length of a masked vector.
    Raises: WrongRelay; server.Conflict if one of them is there already; WrongLength, BadMessage, and what
        ``privacy.secagg.server.receive`` raises.
    """
    segments, members = len(segment_lengths(words)), []
    for body in told.uploads:
        message = Upload.from_bytes(body)
        if message.relay != told.relay.key:
            raise WrongRelay()
        if message.sender in state.uploaded:
            raise server.Conflict()
        if len(message.segments) != segments:
            raise WrongLength()
        state = server.receive(state, message)
        members.append(message.sender)
    if len(told.segments) != segments:
        raise WrongLength()
    return state, Relayed(told.relay.name, tuple(sorted(members)), told.segments)


def uploads_of(state: server.ServerState, relayed: tuple[Relayed, ...]) -> dict[int | str, tuple[bytes, ...]]:
    """Where the survivors' masked vectors lie: each source once, with its segments' hashes.

    A relay's hospitals survive together: their uploads came in one message, and whoever has uploaded by the
    end of the phase survives.
    """
    inside = {i for one in relayed for i in one.members}
    found: dict[int | str, tuple[bytes, ...]] = {
        i: state.uploaded[i].segments for i in state.survivors if i not in inside
    }
    found.update({one.source: one.segments for one in relayed})
    return found
