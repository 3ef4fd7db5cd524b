"""Admin keys, one after another, and entries of an audit log under them, right or wrong as a test says."""

from __future__ import annotations

from typing import Any

from aggregator.auditlog import NOTHING, Entry, seal
from medveil.identity import Identity
from medveil.messages import HANDED_OVER, hand_over_details, sign_hand_over

OLD, NEW, THIRD, THIEF = (Identity.generate("admin") for _ in range(4))


def told(signer: Identity, before: Entry | None, **changes: Any) -> Entry:
    """The next entry."""
    values: dict[str, Any] = {"actor": "a", "action": "b", "subject": "c", "details": {}} | changes
    return seal(signer, NOTHING if before is None else before.head, time_ms=1, **values)


def changed(
    before: Entry, by: Identity, to: Identity, *, signer: Identity | None = None, **wrong: str
) -> Entry:
    """The entry of a hand-over; what is ``wrong`` replaces what should be in it."""
    word = sign_hand_over(by, before.number + 1, before.hash, to.public_key)
    details = hand_over_details(by.public_key, to.public_key, word) | wrong
    return told(signer or to, before, actor="admin", action=HANDED_OVER, subject="admin-key", details=details)
