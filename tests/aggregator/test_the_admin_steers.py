"""Whatever the admin says and whoever leads: nothing opens while a halt stands, and one model has one sum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from steered import WEIGHTS, steer

QUICK, ALL, SHARD = 1, 401, 20


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("seed", range(QUICK))
def test_seeded_sequences_with_an_admin_keep_one_sum_a_model(folder: Path, seed: int) -> None:
    steer(seed, folder / str(seed))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, ALL, SHARD))
def test_four_hundred_sequences_with_an_admin_keep_one_sum_a_model(folder: Path, first: int) -> None:
    ends = [steer(seed, folder / str(seed)) for seed in range(first, min(first + SHARD, ALL))]
    assert any(taken for taken, _ in ends)  # some changes of the roster have really taken over
    assert {stopped for _, stopped in ends} == {True, False}


def test_every_word_of_the_admin_is_drawn() -> None:
    assert {"pause", "resume", "stop", "amend", "restart"} < set(WEIGHTS)
