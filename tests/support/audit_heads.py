"""Heads and hand-overs of an audit log, signed by whoever a test says."""

from __future__ import annotations

import hashlib

from medveil.identity import Identity
from medveil.messages import AuditHead, HandOver, sign_hand_over


def _name(number: int, log: str) -> bytes:
    return hashlib.sha256(f"{log} {number}".encode()).digest()


def _sign(admin: Identity, number: int, name: bytes) -> bytes:
    return admin.sign("audit-entry", number.to_bytes(8, "big"), name)


def head_of(
    admin: Identity, number: int, log: str = "the log", succession: tuple[HandOver, ...] = ()
) -> AuditHead:
    """Head ``number`` of the log of that name; logs of two names have no entry in common."""
    name = _name(number, log)
    signature = _sign(admin, number, name)
    return AuditHead(
        number=number, hash=name, key=admin.public_key, signature=signature, succession=succession
    )


def hand_over(old: Identity, new: Identity, number: int, log: str = "the log") -> HandOver:
    """The hand-over at entry ``number``, which follows ``number - 1`` of that log."""
    previous = _name(number - 1, log)
    step = HandOver(
        number=number,
        time_ms=1_700_000_000_000,
        previous=previous,
        old_key=old.public_key,
        new_key=new.public_key,
        word=sign_hand_over(old, number, previous, new.public_key),
        signature=bytes(64),
    )
    return signed_by(new, step)


def signed_by(new: Identity, step: HandOver) -> HandOver:
    """The same entry with the signature that shows that somebody has the new key."""
    return step.model_copy(update={"signature": _sign(new, step.number, step.hash)})


def head_at(step: HandOver, *before: HandOver) -> AuditHead:
    """The log's head while the hand-over is its newest entry."""
    return AuditHead(
        number=step.number,
        hash=step.hash,
        key=step.new_key,
        signature=step.signature,
        succession=(*before, step),
    )
