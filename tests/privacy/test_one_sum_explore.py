"""No history of attempts, rounds, plans and split views from one model opens what the oracle forbids.

The rule is the journal's. With the rule of the version before, the same moves find every attack.
"""

from __future__ import annotations

import random
import sys

import pytest

from one_model import SLOTS, Scene, World, journal_lets, rule_before, rule_now

POLICIES = {"none": (3, 0), "local": (3, 0), "joint": (3, 1)}
"""``min_hospitals`` and colluders; joint noise counts on two honest hospitals in every sum here."""


@pytest.mark.parametrize("seeds", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_the_rule_that_is_explored_is_the_real_journals(seeds: int) -> None:
    """Histories as they come up, and every step that could follow them."""
    draw, checked = random.Random(1), 0
    for seed in range(seeds):
        world = World(4, 3, 0)
        scene, moves = world.start, random.Random(seed)
        for _ in range(20):
            scene = world.drawn(scene, moves)
        for history in scene.histories:
            kinds = ["join", "upload", "unmask", "abort"]
            for kind, slot in draw.sample([(k, s) for k in kinds for s in SLOTS], 6):
                note = (kind, slot, (1, 2, 3))
                assert rule_now(history, note) == journal_lets(history, note), (history, note)
                checked += 1
    assert checked == seeds * 4 * 6


def explored(world: World, depth: int) -> int:
    """Check every scene that at most so many moves lead to; how many there are."""
    seen, front = {world.start}, [world.start]
    for _ in range(depth):
        following: list[Scene] = []
        for scene in front:
            for after in world.moves(scene):
                if after not in seen:
                    seen.add(after)
                    following.append(after)
                    world.check(after)
        front = following
    return len(seen)


def wandered(world: World, seed: int, length: int) -> None:
    """One history, drawn from a seed."""
    draw, scene = random.Random(seed), world.start
    for _ in range(length):
        scene = world.drawn(scene, draw)
    world.check(scene)


def test_every_history_of_three_hospitals_under_this_rule_keeps_the_oracle(
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = World(3, 3, 0)
    scenes = explored(world, 5)
    assert world.found == set()
    with capsys.disabled():
        sys.stdout.write(f"\nthree hospitals, five moves: {scenes} scenes\n")
    assert scenes > 300


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_drawn_histories_of_six_hospitals_keep_the_oracle(policy: str) -> None:
    """A hundred; twenty thousand in ``make test-all``."""
    least, colluders = POLICIES[policy]
    world = World(6, least, colluders)
    for seed in range(100):
        wandered(world, seed, 25)
    assert world.found == set()


@pytest.mark.slow
@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("shard", range(10))  # 3 policies, 10 shards, 3 sizes, 230 seeds
def test_twenty_thousand_drawn_histories_keep_the_oracle(policy: str, shard: int) -> None:
    least, colluders = POLICIES[policy]
    for size in (4, 5, 6):
        world = World(size, least, colluders)
        for seed in range(1_000 + shard * 230, 1_000 + (shard + 1) * 230):
            wandered(world, seed, 30)
        assert world.found == set()


@pytest.mark.slow
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_history_of_four_hospitals_keeps_the_oracle(policy: str) -> None:
    least, colluders = POLICIES[policy]
    world = World(4, least, colluders)
    assert explored(world, 4) > 1_000
    assert world.found == set()


def test_under_the_rule_before_the_same_moves_find_every_attack() -> None:
    world = World(4, 3, 0, rule=rule_before, quorum_of_roster=False)
    for seed in range(400):
        wandered(world, seed, 30)
    split = World(6, 3, 0, rule=rule_before, quorum_of_roster=False)
    for seed in range(400):
        wandered(split, seed, 30)
    assert world.found | split.found == {"few-hospitals", "twice", "two-sets"}


def test_a_quorum_of_the_shown_keys_alone_lets_both_halves_of_a_split_view_be_opened() -> None:
    world = World(6, 3, 0, quorum_of_roster=False)
    for seed in range(400):
        wandered(world, seed, 30)
    assert world.found == {"two-sets"}
