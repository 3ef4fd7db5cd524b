"""Heads of an audit log, signed by whoever a test says."""

from __future__ import annotations

import hashlib

from medveil.identity import Identity
from medveil.messages import AuditHead


def head_of(admin: Identity, number: int, log: str = "the log") -> AuditHead:
    """Head ``number`` of the log of that name; logs of two names have no entry in common."""
    name = hashlib.sha256(f"{log} {number}".encode()).digest()
    signature = admin.sign("audit-entry", number.to_bytes(8, "big"), name)
    return AuditHead(number=number, hash=name, key=admin.public_key, signature=signature)
