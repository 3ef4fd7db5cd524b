"""How many examples hypothesis draws: a quarter in `make test`, where every run draws others."""

from __future__ import annotations

from hypothesis import settings

ALL = "all"
"""The profile of `make test-all`."""


def tries(number: int) -> int:
    """So many in `make test-all`."""
    return number if settings.get_current_profile_name() == ALL else max(10, number // 4)
