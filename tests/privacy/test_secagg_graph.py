"""The mask graph: complete for small cohorts; else hidden, the same at both ends, and connected."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from linked import Consortium, Hospital
from medveil.cohort import Cohort
from medveil.identity import Identity, Secret
from medveil.rounds import Phase, RoundKind, most_attempts
from medveil.study import Study
from privacy.secagg import graph, node, server
from privacy.secagg.graph import EVERY_EDGE, GRID, disconnected, edge_limit, edge_steps, pair_masks
from privacy.secagg.keys import Context, Setting, new_key, public_bytes
from privacy.secagg.messages import Survivors
from secagg_vectors import fixed_bytes
from world import make_study

CONTEXT = Context(b"p" * 32, 7, 1, RoundKind.TRAIN, b"m" * 32)


def _setting(colluders: int = 0, *, hidden: bool = True, roster: Any = None) -> Setting:
    return Setting(
        CONTEXT,
        roster or {},
        min_hospitals=max(3, colluders + 2),
        colluders=colluders,
        mask_graph="hidden" if hidden else "complete",
    )


def _consortium(size: int, colluders: int = 0, label: str = "graph") -> Consortium:
    """Hospitals with real keys made from a fixed seed; the graph is hidden."""
    seeds = {i: fixed_bytes(f"{label}-identity-{i}")(32) for i in range(1, size + 1)}
    identities = {
        i: Identity(f"hospital-{i}", Ed25519PrivateKey.from_private_bytes(s)) for i, s in seeds.items()
    }
    setting = _setting(colluders, roster={i: one.public_key for i, one in identities.items()})
    hospitals = {}
    for i, one in identities.items():
        draw = fixed_bytes(f"{label}-{i}")
        words = np.frombuffer(draw(8 * 6), np.uint64)
        hospitals[i] = Hospital(node.Party(setting, i, one), words, random_bytes=draw)
    return Consortium(hospitals, server.ServerState(setting))


@pytest.fixture
def sparse(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Force a hidden graph of this edge probability, however few hospitals there are."""

    def force(probability: float) -> None:
        monkeypatch.setattr(graph, "COMPLETE_UP_TO", 0)
        monkeypatch.setattr(graph, "edge_steps", lambda honest: round(GRID * probability))

    return force


# How many edges.


@pytest.mark.parametrize("advertised", [3, 4, 20, 127, 128])
def test_up_to_128_hospitals_everybody_shares_a_mask_with_everybody(advertised: int) -> None:
    assert edge_limit(_setting(), advertised) == EVERY_EDGE
    assert edge_limit(_setting(hidden=False), advertised) == EVERY_EDGE


def test_a_plan_that_does_not_ask_for_it_never_gets_a_hidden_graph() -> None:
    assert edge_limit(_setting(hidden=False), 2000) == EVERY_EDGE
    assert edge_limit(_setting(), 129) < EVERY_EDGE


@pytest.mark.parametrize(
    ("advertised", "colluders", "neighbours"),
    [(129, 0, 51), (200, 0, 55), (200, 50, 69), (500, 0, 62), (1000, 0, 66), (1000, 200, 80), (2000, 0, 69)],
)
def test_the_number_of_neighbours_grows_slowly(advertised: int, colluders: int, neighbours: int) -> None:
    probability = edge_limit(_setting(colluders), advertised) / EVERY_EDGE
    assert probability * (advertised - 1) == pytest.approx(neighbours, abs=1)


@pytest.mark.parametrize("honest", [2, 3, 10, 65, 76, 101, 501])
def test_the_probability_is_the_smallest_that_keeps_the_bound(honest: int) -> None:
    steps, limit = edge_steps(honest), Decimal(2) ** -40
    assert disconnected(honest, steps) <= limit
    assert disconnected(honest, steps - 1) > limit


def test_all_attempts_that_a_node_takes_part_in_in_one_round_stay_below_two_to_the_minus_thirty() -> None:
    tries = most_attempts(make_study().model_copy(update={"attempts": 5}))  # 5 is the most a study can have
    assert tries * disconnected(65, edge_steps(65)) <= Decimal(2) ** -30
    with pytest.raises(ValidationError):
        Study.model_validate(make_study().model_dump() | {"attempts": 6})


@pytest.mark.parametrize("honest", [10, 65, 200])
def test_the_bound_is_the_formula_of_the_specification(honest: int) -> None:
    steps = edge_steps(honest)
    logs = [
        math.log(math.comb(honest, s)) + s * (honest - s) * math.log1p(-steps / GRID)
        for s in range(1, honest // 2 + 1)
    ]
    assert float(disconnected(honest, steps).ln()) == pytest.approx(
        math.log(sum(math.exp(x) for x in logs)), abs=1e-6
    )


def test_more_survivors_than_the_least_are_connected_still_more_surely() -> None:
    for least in (65, 120, 300):
        steps = edge_steps(least)
        chances = [disconnected(h, steps) for h in range(least, 2 * least, 7)]
        assert chances == sorted(chances, reverse=True)


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
@pytest.mark.parametrize("probability", [0.3, 0.5, 0.9])
def test_the_bound_holds_over_all_small_graphs(nodes: int, probability: float) -> None:
    pairs = list(itertools.combinations(range(nodes), 2))
    chance = 0.0
    for chosen in itertools.product((False, True), repeat=len(pairs)):
        edges = {pair for pair, there in zip(pairs, chosen, strict=True) if there}
        if len(_component(0, edges)) < nodes:
            chance += probability ** len(edges) * (1 - probability) ** (len(pairs) - len(edges))
    assert chance <= float(disconnected(nodes, round(probability * GRID))) * 1.001 + 1e-12


def _component(start: int, edges: set[tuple[int, int]]) -> set[int]:
    found, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        following = {b if a == here else a for a, b in edges if here in (a, b)} - found
        found |= following
        waiting += following
    return found


# Which edges.


def _keys(count: int, label: str = "keys") -> dict[int, Secret]:
    draw = fixed_bytes(label)
    return {i: Secret(draw(32)) for i in range(1, count + 1)}


def _neighbours(keys: dict[int, Secret], limit: int, context: Context = CONTEXT) -> dict[int, Any]:
    public = {i: public_bytes(k) for i, k in keys.items()}
    return {
        i: pair_masks(
            new_key(key), {j: p for j, p in public.items() if j != i}, context, b"t", own=i, limit=limit
        )
        for i, key in keys.items()
    }


def test_two_hospitals_find_the_same_edge_and_masks_that_cancel() -> None:
    found = _neighbours(_keys(24), EVERY_EDGE // 3)
    for i, masks in found.items():
        for j, mask in masks.items():
            assert (found[j][i].seed, found[j][i].sign) == (mask.seed, -mask.sign)
    count = sum(len(masks) for masks in found.values()) / 2
    assert abs(count - 276 / 3) < 5 * math.sqrt(276 * 2 / 9)


def test_a_larger_limit_only_adds_edges_and_no_limit_gives_all() -> None:
    keys = _keys(12)
    few, more, every = (_neighbours(keys, x) for x in (EVERY_EDGE // 4, EVERY_EDGE // 2, EVERY_EDGE))
    for i in keys:
        assert set(few[i]) <= set(more[i]) <= set(every[i]) == set(keys) - {i}
        assert all(more[i][j] == every[i][j] for j in more[i])
    assert all(not masks for masks in _neighbours(keys, 0).values())


def test_every_attempt_has_a_graph_of_its_own() -> None:
    keys = _keys(16)
    again = Context(b"p" * 32, 7, 2, RoundKind.TRAIN, b"m" * 32)
    one, other = _neighbours(keys, EVERY_EDGE // 2), _neighbours(keys, EVERY_EDGE // 2, again)
    same = sum(len(set(one[i]) & set(other[i])) for i in keys) / 2
    assert abs(same - 30) < 25  # of 120 pairs a quarter, as for independent graphs


# Whole attempts.


@pytest.mark.slow
def test_thirty_six_hospitals_with_a_hidden_graph_give_the_exact_sum(sparse: Callable[[float], None]) -> None:
    """Real cryptography, a fixed seed; a tenth drops out at each step after the keys."""
    sparse(0.4)
    draw = random.Random(3)
    world = _consortium(36, colluders=2)
    gone = draw.sample(range(1, 37), 10)
    silent = dict(zip(gone, (2, 2, 3, 3, 3, 3, 4, 5, 5, 5), strict=True))
    assert np.array_equal(world.run(silent), world.plain_sum())
    assert set(world.server.survivors) == set(range(1, 37)) - set(gone[:6])
    degrees = [len(world.hospitals[i].state.committed.neighbours) for i in world.server.unmasked]
    assert 8 < np.mean(degrees) < 19  # 0.4 of 33
    removed = len(server.masks_to_remove(world.server))
    assert removed < 30 + 4 * 30 * 0.7  # and the aggregator removes only the masks that there are


@pytest.mark.parametrize(
    "size", [5, pytest.param(6, marks=pytest.mark.slow), 7, pytest.param(8, marks=pytest.mark.slow)]
)
def test_sampled_dropouts_with_a_hidden_graph_give_the_exact_sum_or_an_abort(
    size: int, sparse: Callable[[float], None]
) -> None:
    sparse(0.7)
    draw, outcomes = random.Random(size), {"sum": 0, "abort": 0}
    for trial in range(12):
        world = _consortium(size, label=f"drop-{size}-{trial}")
        silent = {i: draw.choice((3, 4, 5, 6, 6, 6, 6)) for i in world.hospitals}
        try:
            total = world.run(silent)
        except (server.BelowThreshold, node.Refused):
            outcomes["abort"] += 1
            continue
        assert np.array_equal(total, world.plain_sum())
        outcomes["sum"] += 1
    assert outcomes["sum"] > 2


def test_a_hospital_without_a_neighbour_sends_nothing(sparse: Callable[[float], None]) -> None:
    """Its self mask alone would come off at the end."""
    sparse(0.0)
    world = _consortium(4).play_until(Phase.UPLOAD)
    with pytest.raises(node.Refused, match="nobody"):
        world.hospitals[1].answer(Phase.UPLOAD, server.view(world.server, 1))
    assert world.hospitals[1].masked is None


def test_a_hospital_whose_neighbours_are_all_gone_signs_nothing(sparse: Callable[[float], None]) -> None:
    sparse(0.35)
    for trial in range(40):
        world = _consortium(6, label=f"gone-{trial}").play_until(Phase.COMMIT)
        world.play(2, world.hospitals)
        try:
            world.play(3, world.hospitals)
        except node.Refused:
            continue  # somebody has no neighbour at all in this graph
        for i, hospital in world.hospitals.items():
            neighbours = hospital.state.neighbours
            others = set(world.hospitals) - neighbours
            if len(others) >= 4:
                with pytest.raises(node.Refused, match="has survived"):
                    hospital.answer(Phase.AGREE, Survivors(members=tuple(sorted(others))))
                some = tuple(sorted({*others, min(neighbours)}))
                assert hospital.answer(Phase.AGREE, Survivors(members=some)).sender == i
                return
    raise AssertionError("no graph had a hospital with one neighbour or two")


def test_a_hidden_graph_on_a_small_cohort_is_the_complete_one() -> None:
    world = _consortium(5).play_until(Phase.AGREE)
    assert all(h.state.neighbours == set(world.hospitals) - {i} for i, h in world.hospitals.items())


# The study says which.


def test_a_study_names_more_than_128_hospitals_only_with_the_hidden_graph() -> None:
    aggregation = {"update_clip": 2.0, "max_weight": 100}
    large = Cohort(max_hospitals=2000)
    assert make_study(cohort=Cohort(max_hospitals=128)).secure_aggregation.mask_graph == "complete"
    with pytest.raises(ValidationError, match="hidden"):
        make_study(cohort=Cohort(max_hospitals=129))
    study: Study = make_study(cohort=large, secure_aggregation=aggregation | {"mask_graph": "hidden"})
    assert study.cohort.max_hospitals == 2000
    with pytest.raises(ValidationError):
        Cohort(max_hospitals=2001)
    with pytest.raises(ValidationError):
        make_study(secure_aggregation=aggregation | {"mask_graph": "circulant"})
