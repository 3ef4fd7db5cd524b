"""What is asked of a password that a person has chosen, wherever it is for."""

from __future__ import annotations

SHORTEST, LONGEST = 12, 200
"""Characters. Length is all that is asked for (NIST SP 800-63B)."""


def weakness(typed: str, again: str) -> str:
    """Why this is not taken as a new password, in words; empty if it is.

    Args:
        again: what was typed the second time.
    """
    if typed != again:
        return "it was not the same the second time"
    if len(typed) < SHORTEST:
        return f"it is shorter than {SHORTEST} characters"
    if len(typed) > LONGEST:
        return f"it is longer than {LONGEST} characters"
    if len(set(typed)) < 4:
        return "it is one character over and over"
    return ""
