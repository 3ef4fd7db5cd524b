"""A hospital may vanish at any step: the result is the exact sum of the survivors, or a clean abort."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from linked import NEVER, Consortium
from privacy.secagg.server import BelowThreshold


def _alive_at(step: int, silent_from: Mapping[int, int]) -> int:
    return sum(s > step for s in silent_from.values())


def _should_succeed(silent_from: Mapping[int, int], minimum: int, colluders: int) -> bool:
    """The liveness rule as PROTOCOL states it, written independently of the server."""
    advertised = _alive_at(0, silent_from)
    threshold = (advertised + colluders) // 2 + 1
    enough_early = all(_alive_at(step, silent_from) >= max(threshold, minimum) for step in (1, 2, 3))
    return advertised >= minimum and enough_early and _alive_at(5, silent_from) >= threshold


def _check(world: Consortium, silent_from: Mapping[int, int], minimum: int, colluders: int) -> None:
    if _should_succeed(silent_from, minimum, colluders):
        total = world.run(silent_from)
        assert np.array_equal(total, world.plain_sum())
        assert len(world.server.survivors) >= minimum
    else:
        with pytest.raises(BelowThreshold):
            world.run(silent_from)


@pytest.mark.parametrize("hospitals", [3, 4])
def test_every_dropout_pattern_gives_the_exact_sum_or_an_abort(
    consortium: Callable[..., Consortium], hospitals: int
) -> None:
    patterns = list(itertools.product(range(NEVER + 1), repeat=hospitals))
    assert len(patterns) == 7**hospitals
    for pattern in patterns:
        silent_from = dict(enumerate(pattern, start=1))
        _check(consortium(hospitals), silent_from, 3, 0)


@pytest.mark.parametrize(("hospitals", "colluders"), [(5, 0), (5, 1), (6, 2), (7, 1), (8, 3)])
def test_sampled_dropout_patterns_of_larger_rounds(
    consortium: Callable[..., Consortium], hospitals: int, colluders: int
) -> None:
    draw = random.Random(1000 * hospitals + colluders)
    for _ in range(60):
        silent_from = {i: draw.choice([0, 1, 2, 3, 4, 5, 6, 6, 6, 6]) for i in range(1, hospitals + 1)}
        minimum = max(3, colluders + 2)
        world = consortium(hospitals, colluders=colluders, min_hospitals=minimum)
        _check(world, silent_from, minimum, colluders)


def test_without_the_last_share_the_sum_stays_masked(consortium: Callable[..., Consortium]) -> None:
    world = consortium(3)
    with pytest.raises(BelowThreshold):
        world.run({1: NEVER, 2: 5, 3: 5})
    total = sum(h.masked.words for h in world.hospitals.values() if h.masked is not None)
    assert not np.array_equal(total, world.plain_sum())
