"""A public map shortens every hospital's update alike, adds up, and gives the same bits everywhere."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medveil.compression import MAPS, Compression, PublicMap, map_of
from medveil.strategies import BadStrategy, spread, strategy_of
from medveil.tensors import ModelSpec, TensorSpec
from world import make_study

SEED = bytes(range(32))
SPEC = ModelSpec(
    (
        TensorSpec(name="conv", shape=(6, 4, 3, 3)),
        TensorSpec(name="norm", shape=(5,)),
        TensorSpec(name="head", shape=(1, 70)),
        TensorSpec(name="scale", shape=()),
    )
)
KINDS = [
    Compression(kind="sparse", share=0.125),
    Compression(kind="sparse", share=0.3),
    Compression(kind="low_rank", rank=4),
    Compression(kind="low_rank", rank=35),
]


def made(chosen: Compression, number: int = 1, spec: ModelSpec = SPEC) -> PublicMap:
    return map_of(chosen, spec, seed=SEED, number=number)


def back(public: PublicMap, sent: Any, size: int = SPEC.size) -> Any:
    return public.backward(sent, 0, size)


def numbers(size: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@pytest.mark.parametrize(
    ("chosen", "length", "digest"),
    [
        (KINDS[0], 36, "202e6b16be4b12c06823b63daf9ba7645161ed51d368cb89e1d458e066d87bf6"),
        (KINDS[2], 100, "b2329bcd68a26fb89562c4e00802b1f6bd0786fc9b82d664f84c32d6e4b6d1e4"),
    ],
)
def test_a_map_is_the_one_that_was_written_down(chosen: Compression, length: int, digest: str) -> None:
    hasher, public = hashlib.sha256(), made(chosen, 3)
    assert public.length == length
    for number in (1, 2, 9):
        hasher.update(back(made(chosen, number), np.arange(1, length + 1, dtype=np.float32)).astype("<f4"))
    assert hasher.hexdigest() == digest


@pytest.mark.parametrize("chosen", KINDS, ids=str)
def test_backward_is_the_transpose_and_what_is_sent_comes_back(chosen: Compression) -> None:
    for number in (1, 2):
        public = made(chosen, number)
        update, sent = numbers(SPEC.size), numbers(public.length, 1)
        assert public.forward(update).dtype == back(public, sent).dtype == np.float32
        assert public.forward(update) @ sent == pytest.approx(update @ back(public, sent), rel=1e-4)
        assert public.forward(back(public, sent)) == pytest.approx(sent, abs=1e-5)
        rest = update - back(public, public.forward(update))
        assert public.forward(rest) == pytest.approx(0, abs=1e-5)
        assert np.linalg.norm(rest) < np.linalg.norm(update)


@pytest.mark.parametrize("chosen", KINDS, ids=str)
def test_what_is_made_of_a_sum_is_the_sum_of_what_is_made(chosen: Compression) -> None:
    public, updates = made(chosen), [numbers(SPEC.size, i) for i in range(3)]
    total = np.sum([public.forward(u) for u in updates], axis=0)
    assert public.forward(np.sum(updates, axis=0)) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("chosen", KINDS, ids=str)
def test_pieces_have_the_bits_of_the_whole(chosen: Compression) -> None:
    sent = numbers(made(chosen).length)
    whole = back(made(chosen), sent)
    for step in (1, 7, 64, 1000):
        public = made(chosen)
        parts = [public.backward(sent, k, min(k + step, SPEC.size)) for k in range(0, SPEC.size, step)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("share", [0.5, 0.3, 0.125, 1 / 30])
def test_sparse_sends_each_coordinate_once_in_the_rounds_of_its_run(share: float) -> None:
    chosen = Compression(kind="sparse", share=share)
    assert made(chosen).length <= share * SPEC.size < made(chosen).length + 4
    rounds = [back(made(chosen, n), np.ones(made(chosen).length, np.float32)) for n in range(5, 155)]
    assert all(ones.sum() == made(chosen).length for ones in rounds)
    start = 0
    for tensor in SPEC.root:
        mine = [ones[start : start + tensor.size] for ones in rounds]
        run = -(-tensor.size // int(mine[0].sum()))
        assert run < 150
        for place in range(tensor.size):
            turns = np.flatnonzero([ones[place] for ones in mine])
            assert set(np.diff(turns)) <= {run - 1, run}
        start += tensor.size


@pytest.mark.parametrize("chosen", KINDS, ids=str)
def test_what_no_later_round_sends_is_not_kept(chosen: Compression) -> None:
    rest, last = numbers(SPEC.size), 30
    for number in (1, 12, 27, 29, 30):
        later = np.zeros(SPEC.size)
        for other in range(number + 1, last + 1):
            public = made(chosen, other)
            later += back(public, np.ones(public.length, np.float32)) != 0
        assert np.array_equal(made(chosen, number).still(rest, last), np.where(later > 0, rest, 0))


def test_small_tensors_send_more_of_themselves() -> None:
    ones = back(made(KINDS[0]), np.ones(made(KINDS[0]).length, np.float32))
    conv, norm, head, scale = (ones[a:b].mean() for a, b in ((0, 216), (216, 221), (221, 291), (291, 292)))
    assert 0.05 < conv < head < norm < scale == 1


def test_what_low_rank_sends_has_that_rank_and_other_rounds_have_other_groups() -> None:
    sent = numbers(made(KINDS[2]).length)
    first, second = (back(made(KINDS[2], n), sent)[: 6 * 36].reshape(6, 36) for n in (1, 2))
    assert np.linalg.matrix_rank(first) == np.linalg.matrix_rank(second) == 4
    assert not np.array_equal(first, second)


def test_tensors_without_more_columns_than_the_rank_are_sent_whole() -> None:
    public, update = made(KINDS[2]), numbers(SPEC.size)
    kept = back(public, public.forward(update))
    assert np.array_equal(kept[216:221], update[216:221])
    assert kept[-1] == update[-1]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"kind": "sparse", "share": 0.6}, "between 0.00390625 and 0.5"),
        ({"kind": "sparse", "share": 0.001}, "between 0.00390625 and 0.5"),
        ({"kind": "sparse", "share": float("nan")}, "between 0.00390625 and 0.5"),
        ({"kind": "sparse", "share": 0.1}, "a share of 1 numbers leaves out some of the 2 tensors"),
        ({"kind": "sparse", "share": 0.3}, "4 numbers or more, not 3"),
        ({"kind": "sparse", "share": 0.34}, "length in 3 rounds, there are 2"),
        ({"kind": "sparse"}, "wants the option 'share' and no other"),
        ({"kind": "sparse", "share": 0.5, "rank": 2}, "wants the option 'share' and no other"),
        ({"kind": "low_rank", "rank": 0}, "between 1 and 4096"),
        ({"kind": "low_rank", "rank": 5}, "no tensor has more than 5 columns"),
        ({"kind": "low_rank", "share": 0.5}, "wants the option 'rank' and no other"),
        ({"kind": "top_k", "share": 0.5}, "there is no 'top_k' here, it must be one of low_rank, sparse"),
        ({"kind": "sparse", "share": 0.5, "feedback": False}, "Extra inputs"),
    ],
)
def test_what_does_not_suit_is_refused_in_words(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make_study(compression=section)


def test_it_is_refused_where_its_proof_or_its_sense_is_missing() -> None:
    half = {"kind": "sparse", "share": 0.5}
    noise = {"clip_norm": 1.0, "noise_multiplier": 5.0, "evaluation_multiplier": 5.0, "epsilon": 9.0}
    with pytest.raises(ValidationError, match="not for joint noise"):
        make_study(compression=half, privacy={"kind": "joint", "honest_hospitals": 3} | noise)
    centred = make_study().model.model_dump() | {"options": {"centred": True}}
    with pytest.raises(ValidationError, match="not for a centred model"):
        make_study(compression=half, model=centred)
    with pytest.raises(BadStrategy, match="which compression cannot bear"):
        strategy_of(make_study(compression=half, strategy={"name": "fedprox"}))
    assert make_study(compression=half, privacy={"kind": "local"} | noise).uploaded == 6


def test_a_study_without_it_has_the_hash_it_had_and_one_with_it_another() -> None:
    plain, half = make_study(), make_study(compression={"kind": "sparse", "share": 0.5})
    assert "compression" not in plain.model_dump(mode="json")
    assert half.model_dump(mode="json")["compression"] == {"kind": "sparse", "share": 0.5}
    assert plain.hash != half.hash
    assert (plain.uploaded, half.uploaded) == (12, 6)
    mean = np.arange(6, dtype=np.float32) + 1
    assert sorted(spread(half, mean, number=1)) == [0] * 6 + [1, 2, 3, 4, 5, 6]
    assert spread(plain, mean, number=1) is mean


def test_every_kind_is_in_these_tests() -> None:
    assert {chosen.kind for chosen in KINDS} == set(MAPS)
