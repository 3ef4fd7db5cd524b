"""How much `make test` does of what `make test-all` does whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings

ALL = "all"
"""The profile of `make test-all`."""
sqlite_first = pytest.mark.parametrize(
    "where", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
"""For what the store's own tests promise of PostgreSQL, and this test of what stands on the store."""


def tries(number: int) -> int:
    """Examples of hypothesis: so many in `make test-all`, a quarter in `make test`, which draws anew."""
    return number if settings.get_current_profile_name() == ALL else max(10, number // 4)


def leading(cases: Iterable[Any], number: int) -> list[Any]:
    """Parameters of a test: the first so many for `make test`, the others as well in `make test-all`."""
    found = list(cases)
    later = (case if isinstance(case, tuple) else (case,) for case in found[number:])
    return [*found[:number], *(pytest.param(*case, marks=pytest.mark.slow) for case in later)]
