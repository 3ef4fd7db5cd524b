"""A sum that a lying hospital has spoiled moves no node's model, whoever publishes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chain import Chain
from hospital_node.journal import Journal
from hospital_node.lineage import BrokenLineage, Lineage, OwnVersion
from medveil.rounds import RoundKind
from medveil.tensors import model_hash
from privacy.encoding import EncodingParams, SpoiledSum, Words, params_for
from world import SPEC, START

Lie = Callable[[Words, EncodingParams], Words]


def weighing(change: int) -> Lie:
    """The words of a hospital that says another weight than it encoded with."""

    def lie(words: Words, p: EncodingParams) -> Words:
        words[p.packed_words : p.packed_words + 1] += np.uint64(change % 2**64)
        return words

    return lie


def shifting(words: Words, p: EncodingParams) -> Words:
    words[:1] += np.uint64(p.steps)
    return words


LIES = {
    "no weight at all": weighing(-10),
    "one less than the least": weighing(-1),
    "more than the greatest": weighing(400),
    "a coordinate beyond the clip": shifting,
}


@pytest.mark.parametrize("members", [(1, 2, 3, 4), (2, 3, 4)], ids=["in the sum", "not in the sum"])
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_node_refuses_a_spoiled_sum_and_raises_an_alarm(
    tmp_path: Path, lie: Lie, members: tuple[int, ...]
) -> None:
    chain = Chain()
    updates = {i: np.full(SPEC.size, 1.9, np.float32) for i in members}
    made = chain.attempt(1, members=members, lies={3: lie}, updates=updates)  # with the check word that fits
    p, total = params_for(chain.plan.study, RoundKind.TRAIN, 4), np.frombuffer(made.data, "<u8")
    assert (total[: p.packed_words] & np.uint64(2**21 - 1)).max() <= 2 * p.steps * len(
        members
    )  # fits the lane
    vector = START + np.float32(1)
    chain.sums[1] = made  # a lying aggregator, or one of an earlier version, goes on with it
    chain.versions.append(OwnVersion(1, 1, vector, {}, model_hash(vector, SPEC)))
    journal = Journal(tmp_path / "journal.db")
    lineage = Lineage(chain.plan, tmp_path, journal, chain)
    if 1 in members:
        context = made.checks[1].context
        asyncio.run(lineage.reach(context.model, number=1, attempt=1))
        lineage.remember(made.checks[1])
    with pytest.raises(BrokenLineage, match="no honest hospitals can add up") as refused:
        asyncio.run(lineage.reach(chain.newest.model, number=2, attempt=1))
    assert isinstance(refused.value.__cause__, SpoiledSum)
    alarm = journal.alarm(chain.plan.id)
    assert alarm is not None
    assert (alarm.code, alarm.version) == ("broken-lineage", 0)
    journal.close()
