"""A hospital that lies inside its masked vector spoils the attempt; nothing of it is published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from medveil.rounds import RoundKind
from privacy.encoding import EncodingParams, params_for
from world import START, World, finish, make_sites

Lie = Callable[[np.ndarray, EncodingParams], None]


def weight(change: int) -> Lie:
    """Another weight than the one that the update was encoded with."""

    def lie(words: np.ndarray, p: EncodingParams) -> None:
        words[p.packed_words : p.packed_words + 1] += np.uint64(change % 2**64)

    return lie


def metric(place: int, change: int) -> Lie:
    """Something added to one of the figures."""

    def lie(words: np.ndarray, p: EncodingParams) -> None:
        at = p.packed_words + 1 + place % p.metrics
        words[at : at + 1] += np.uint64(change * 2**20 % 2**64)

    return lie


def far(words: np.ndarray, p: EncodingParams) -> None:
    """A coordinate a little farther out than three weights of ten can reach."""
    words[:1] += np.uint64(int(0.05 * p.steps))


@dataclass
class Liar:
    """Changes a masked vector; masks are added mod 2^64, so the sum changes by as much."""

    lie: Lie
    world: World
    real: Callable[[int, RoundKind], list[bytes]]

    def __call__(self, number: int, kind: RoundKind) -> list[bytes]:
        segments = self.real(number, kind)
        if kind is not RoundKind.TRAIN or number != 1:
            return segments
        words = np.frombuffer(segments[0], "<u8").copy()
        self.lie(words, params_for(self.world.plan.study, kind, len(self.world.plan.roster)))
        return [words.tobytes()]


LIES = {
    "a weight that leaves a total of three": weight(-27),
    "a weight a little below the least": weight(-1),
    "a weight over the largest": weight(300),
    "a weight that wraps": weight(-31),
    "a coordinate beyond the clip": far,
    "a case too many": metric(3, 1),
    "a patient too many": metric(-1, 1),
    "fewer images than none": metric(-2, -4),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_what_a_lying_hospital_spoils_is_not_published_and_its_model_is_never_started_from_again(
    build: Callable[..., World], lie: Lie
) -> None:
    world = build(attempts=1)
    sites: Any = make_sites(world, update=lambda i, _: np.full(START.size, 1.9, np.float32))
    sites[2].masked = Liar(lie, world, sites[2].masked)
    status = finish(world, sites)
    (first,) = status["attempts"]  # the aggregator knows the sum: a second one would show a hospital
    assert (first["round"], first["reason"]) == (1, "spoiled-sum")
    assert "sum" not in first
    assert [v["round"] for v in status["versions"]] == [0]
