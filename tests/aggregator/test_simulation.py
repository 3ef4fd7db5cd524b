"""Whatever happens, no hospital counts twice, nothing acknowledged is lost, and a round gets its result."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from simulation import WEIGHTS, WEIGHTS_OF_THE_APP, Op, Sequence, simulate

QUICK, ALL, SHARD = 40, 5_000, 120
QUICK_THROUGH_THE_APP, ALL_THROUGH_THE_APP = 10, 500
FIRST, FIRST_THROUGH_THE_APP = 6, 2
"""So many of the quick ones in ``make test``."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No log lines: a sequence makes dozens, and pytest would keep them all."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


@pytest.mark.parametrize(
    "seeds", [range(FIRST), pytest.param(range(FIRST, QUICK), marks=pytest.mark.slow)], ids=["first", "more"]
)
def test_seeded_sequences_of_faults_end_with_the_exact_mean(seeds: range) -> None:
    """Sequences of 10 to 120 operations at the coordinator; one takes about 0.1 s of a core."""
    for seed in seeds:
        simulate(seed, thorough=seed % 9 == 0)


@pytest.mark.parametrize(
    "seeds",
    [
        range(FIRST_THROUGH_THE_APP),
        pytest.param(range(FIRST_THROUGH_THE_APP, QUICK_THROUGH_THE_APP), marks=pytest.mark.slow),
    ],
    ids=["first", "more"],
)
def test_seeded_sequences_of_signed_requests_end_with_the_exact_mean(seeds: range) -> None:
    """Through the application, with replays, broken lines, forgers and wrong clocks; 0.25 s each."""
    for seed in seeds:
        simulate(seed, thorough=seed % 9 == 0, app=True)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range((ALL - QUICK) // SHARD + 1))
def test_five_thousand_seeded_sequences_end_with_the_exact_mean(shard: int) -> None:
    """In shards, so that ``--numprocesses`` divides them: a sequence takes 0.1 to 0.2 s of one core."""
    first = QUICK + shard * SHARD
    for seed in range(first, min(first + SHARD, ALL)):
        simulate(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK_THROUGH_THE_APP, ALL_THROUGH_THE_APP, 70))
def test_five_hundred_seeded_sequences_of_signed_requests_end_with_the_exact_mean(first: int) -> None:
    for seed in range(first, min(first + 70, ALL_THROUGH_THE_APP)):
        simulate(seed, app=True)


def test_a_seed_is_the_same_sequence_for_ever_and_every_operation_is_drawn() -> None:
    first = Sequence.drawn(7)
    assert first == Sequence.drawn(7) != Sequence.drawn(8)
    assert (first.hospitals, len(first.operations)) == (4, 29)
    assert first.operations[1] == Op("act", 1, 131678)
    for app, weights, seeds in ((False, WEIGHTS, QUICK), (True, WEIGHTS_OF_THE_APP, QUICK_THROUGH_THE_APP)):
        names = {op.name for seed in range(seeds) for op in Sequence.drawn(seed, app=app).operations}
        assert names == set(weights)
