"""Whatever happens, no hospital counts twice, nothing acknowledged is lost, and a round gets its result."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from simulation import WEIGHTS, Op, Sequence, simulate

QUICK, ALL, SHARD = 80, 20_000, 240


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No log lines: a sequence makes dozens, and pytest would keep them all."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("shard", range(4))
def test_seeded_sequences_of_faults_end_with_the_exact_mean(shard: int) -> None:
    """80 sequences of 10 to 120 operations; 200 would not fit into the time of `make test`."""
    for seed in range(shard, QUICK, 4):
        simulate(seed, thorough=seed % 9 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range((ALL - QUICK) // SHARD + 1))
def test_twenty_thousand_seeded_sequences_end_with_the_exact_mean(shard: int) -> None:
    """In shards, so that ``--numprocesses`` divides them: a sequence takes 0.1 to 0.2 s of one core."""
    first = QUICK + shard * SHARD
    for seed in range(first, min(first + SHARD, ALL)):
        simulate(seed)


def test_a_seed_is_the_same_sequence_for_ever_and_every_operation_is_drawn() -> None:
    first = Sequence.drawn(7)
    assert first == Sequence.drawn(7) != Sequence.drawn(8)
    assert (first.hospitals, len(first.operations)) == (4, 29)
    assert first.operations[1] == Op("act", 1, 131678)
    names = {op.name for seed in range(QUICK) for op in Sequence.drawn(seed).operations}
    assert names == set(WEIGHTS)
