"""The page's password: kept as an argon2id hash in the node's folder, readable by its owner only."""

from __future__ import annotations

from pathlib import Path

import argon2

from hospital_node.page.errors import WeakPassword
from hospital_node.settings import Node
from medveil.files import replace_durably
from medveil.passwords import LONGEST, weakness

HASHER = argon2.PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=1)
"""People choose passwords, so a guess costs 64 MiB and three passes (RFC 9106, second choice)."""


def path_of(node: Node) -> Path:
    """Where its hash lies."""
    return node.folder / "page-password"


def set_password(node: Node, typed: str, again: str) -> None:
    """Take a new password; an earlier one does not count any more. Raises: WeakPassword."""
    if problem := weakness(typed, again):
        raise WeakPassword(problem=problem)
    replace_durably(path_of(node), HASHER.hash(typed).encode(), private=True)


def is_set(node: Node) -> bool:
    """Whether there is one."""
    return path_of(node).is_file()


def is_right(node: Node, typed: str) -> bool:
    """Whether this is the password; False if none is set. Takes about a tenth of a second."""
    try:
        kept = path_of(node).read_text("ascii")
        return HASHER.verify(kept, typed[: LONGEST + 1])
    except (
        OSError,
        UnicodeDecodeError,
        argon2.exceptions.VerificationError,
        argon2.exceptions.InvalidHashError,
    ):
        return False
