"""A hospital may vanish at any step: the result is the exact sum of the survivors, or a clean abort."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest

from linked import NEVER, Consortium
from privacy.secagg.server import BelowThreshold


def _alive_at(step: int, silent_from: Mapping[int, int]) -> int:
    return sum(s > step for s in silent_from.values())


def _should_succeed(silent_from: Mapping[int, int], minimum: int, colluders: int) -> bool:
    """The liveness rule as docs/protocol.md states it, written independently of the server."""
    quorum = (len(silent_from) + colluders) // 2 + 1
    threshold = (_alive_at(0, silent_from) + colluders) // 2 + 1
    enough_early = all(_alive_at(step, silent_from) >= max(quorum, minimum) for step in (0, 1, 2, 3))
    return enough_early and _alive_at(4, silent_from) >= quorum and _alive_at(5, silent_from) >= threshold


def _check(world: Consortium, silent_from: Mapping[int, int], minimum: int, colluders: int) -> None:
    if _should_succeed(silent_from, minimum, colluders):
        total = world.run(silent_from)
        assert np.array_equal(total, world.plain_sum())
        assert len(world.server.survivors) >= minimum
    else:
        with pytest.raises(BelowThreshold):
            world.run(silent_from)


def _every_pattern(
    world: Consortium, step: int, alive: tuple[int, ...], silent_from: dict[int, int]
) -> Iterator[tuple[dict[int, int], Consortium | None]]:
    """Each way to fall silent from ``step`` on, with the world at its end, or None where it was aborted.

    Patterns that begin alike share that beginning, which is played once.
    """
    for answering in (s for k in range(len(alive) + 1) for s in itertools.combinations(alive, k)):
        branch = world.copy()
        now = silent_from | {i: step for i in alive if i not in answering}
        try:
            branch.play(step, answering)
            if step == NEVER - 1:
                branch.unmasked_sum()
        except BelowThreshold:
            for later in itertools.product(range(step + 1, NEVER + 1), repeat=len(answering)):
                yield now | dict(zip(answering, later, strict=True)), None
            continue
        if step == NEVER - 1:
            yield now | dict.fromkeys(answering, NEVER), branch
        else:
            yield from _every_pattern(branch, step + 1, answering, now)


@pytest.mark.parametrize("hospitals", [3, 4, pytest.param(5, marks=pytest.mark.slow)])
def test_every_dropout_pattern_gives_the_exact_sum_or_an_abort(
    consortium: Callable[..., Consortium], hospitals: int
) -> None:
    seen, succeeded = set(), 0
    everybody = tuple(range(1, hospitals + 1))
    for silent_from, world in _every_pattern(consortium(hospitals), 0, everybody, {}):
        seen.add(tuple(silent_from[i] for i in everybody))
        assert (world is not None) == _should_succeed(silent_from, 3, 0)
        if world is not None:
            succeeded += 1
            assert np.array_equal(world.unmasked_sum(), world.plain_sum())
            assert len(world.server.survivors) >= 3
    assert len(seen) == (NEVER + 1) ** hospitals
    assert succeeded > 0


@pytest.mark.parametrize("patterns", [3, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("hospitals", "colluders"), [(5, 1), (6, 2), (7, 1), (8, 3)])
def test_sampled_dropout_patterns_of_larger_rounds(
    consortium: Callable[..., Consortium], hospitals: int, colluders: int, patterns: int
) -> None:
    draw = random.Random(1000 * hospitals + colluders)
    for _ in range(patterns):
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
