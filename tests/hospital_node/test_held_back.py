"""What a hospital has learned and not yet sent: sent once or forgotten, and no more for being left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chain import Chain
from follower import Hospital
from hospital_node.held_back import HeldBack
from medveil.identity import Secret
from medveil.strategies import spread
from medveil.tensors import Float32, Update
from world import START

HALF = {"kind": "sparse", "share": 0.5}
RANK = {"kind": "low_rank", "rank": 2}
MODEL = bytes(32)


def chain_of(section: dict[str, Any]) -> Chain:
    training = {"rounds": 9, "local_steps": 1, "learning_rate": 1.0}
    return Chain(options={"compression": section, "training": training})


@pytest.fixture
def chain() -> Chain:
    return chain_of(HALF)


@pytest.fixture
def held(chain: Chain, tmp_path: Path) -> HeldBack:
    return HeldBack(tmp_path, chain.plan, Secret(bytes(32)))


def learned(seed: int) -> Float32:
    return np.random.default_rng(seed).uniform(-0.2, 0.2, len(START)).astype(np.float32)


def holds(held: HeldBack) -> Float32:
    return held.start(np.zeros_like(START))


def sends(chain: Chain, number: int) -> Float32:
    """Ones where round ``number`` sends."""
    public = chain.plan.study.public_map(number)
    assert public is not None
    return public.backward(np.ones(public.length, np.float32), 0, len(START))


def play(chain: Chain, nodes: list[Hospital], number: int, updates: dict[int, Float32], **sets: Any) -> None:
    """One round: everybody adds to what it holds, and follows to the version that is made."""
    sent = {}
    for node in nodes:
        assert node.held is not None
        node.reach(number)
        model = chain.newest.model
        sent[node.index] = node.held.shorten(number, model, Update(updates[node.index])).values
    made = chain.attempt(number, updates=sent, **sets)
    for node in nodes:
        if node.index in made.checks:
            node.join(made)
    chain.publish(made)
    for node in nodes:
        assert node.reach(number + 1).tobytes() == chain.newest.vector.tobytes()


@pytest.mark.parametrize("section", [HALF, RANK], ids=str)
def test_all_that_is_learned_is_in_the_model_or_held_back(section: dict[str, Any], tmp_path: Path) -> None:
    plan = chain_of(section).plan
    sites = [HeldBack(tmp_path / str(i), plan, Secret(bytes(32))) for i in range(3)]
    total, moved = np.zeros_like(START), np.zeros_like(START)
    for number in range(1, 6):
        updates = [learned(10 * number + i) for i in range(3)]
        both = zip(sites, updates, strict=True)
        sent = [site.shorten(number, MODEL, Update(update)).values for site, update in both]
        for site in sites:
            site.passed(number, MODEL, summed=True)
        total += np.mean(updates, axis=0)
        moved += spread(plan.study, np.mean(sent, axis=0).astype(np.float32), number=number)
    unsent = np.mean([holds(site) for site in sites], axis=0)
    assert np.abs(unsent).max() > 0.05
    assert moved + unsent == pytest.approx(total, abs=1e-5)


def test_a_hospital_outside_the_sum_forgets_that_training_and_what_was_its_turn(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "sent", lambda number, values: Update(values))
    nodes = [Hospital(chain, tmp_path / str(i), i) for i in (1, 2, 3, 4)]
    play(chain, nodes, 1, {i: learned(i) for i in (1, 2, 3, 4)})
    assert nodes[3].held is not None
    before = holds(nodes[3].held)
    assert before == pytest.approx(learned(4) * (1 - sends(chain, 1)), abs=1e-6)
    play(chain, nodes, 2, {i: learned(20 + i) for i in (1, 2, 3, 4)}, survivors=(1, 2, 3))
    assert np.array_equal(holds(nodes[3].held), before * (1 - sends(chain, 2)))
    others = np.mean([learned(i) * (1 - sends(chain, 1)) + learned(20 + i) for i in (1, 2, 3)], axis=0)
    moved = chain.newest.vector - chain.versions[1].vector
    assert moved == pytest.approx(others * sends(chain, 2), abs=1e-4)


def test_after_a_cycle_without_this_hospital_it_holds_nothing(chain: Chain, held: HeldBack) -> None:
    held.shorten(1, MODEL, Update(learned(1)))
    held.passed(1, MODEL, summed=True)
    assert np.count_nonzero(holds(held)) == 6
    for number in (2, 3):
        held.passed(number, b"another".ljust(32), summed=False)
    assert not holds(held).any()


def test_a_round_without_a_version_changes_nothing(held: HeldBack) -> None:
    held.shorten(1, MODEL, Update(learned(1)))
    held.passed(1, MODEL, summed=True)
    before = holds(held)
    held.shorten(2, MODEL, Update(learned(2)))
    assert np.array_equal(holds(held), before)
    again = held.shorten(3, MODEL, Update(learned(3))).values
    assert np.count_nonzero(again) == 6
    assert np.array_equal(holds(held), before)


def test_told_twice_of_a_version_it_sends_nothing_twice(chain: Chain, held: HeldBack) -> None:
    held.shorten(1, MODEL, Update(learned(1)))
    for _ in range(2):
        held.passed(1, MODEL, summed=True)
        assert np.array_equal(holds(held), learned(1) * (1 - sends(chain, 1)))


def test_a_version_of_another_model_settles_nothing(chain: Chain, held: HeldBack) -> None:
    held.shorten(1, MODEL, Update(learned(1)))
    held.passed(1, b"another".ljust(32), summed=True)
    assert not holds(held).any()


def test_what_is_beyond_the_clip_is_sent_later(chain: Chain, held: HeldBack) -> None:
    clip = chain.plan.study.secure_aggregation.update_clip
    update = np.full_like(START, 1.5 * clip)
    assert set(held.shorten(1, MODEL, Update(update)).values) == {np.float32(clip)}
    held.passed(1, MODEL, summed=True)
    assert holds(held) == pytest.approx(update - clip * sends(chain, 1))


def test_no_copy_of_the_files_alone_shows_it_and_a_damaged_one_is_nothing(
    chain: Chain, held: HeldBack, tmp_path: Path
) -> None:
    held.shorten(1, MODEL, Update(learned(1)))
    held.passed(1, MODEL, summed=True)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert not any(value.tobytes() in whole for value in learned(1))
    assert not holds(HeldBack(tmp_path, chain.plan, Secret(b"\1" * 32))).any()
    assert not holds(HeldBack(tmp_path, Chain().plan, Secret(bytes(32)))).any()
    for damaged in (whole[:-1], whole[:20], b"", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        path.write_bytes(damaged)
        assert not holds(held).any()
    held.shorten(2, MODEL, Update(learned(2)))
    held.forget()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_leaves_nothing_that_could_be_sent_twice(
    held: HeldBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    held.shorten(1, MODEL, Update(learned(1)))
    monkeypatch.setattr("hospital_node.held_back.put_in_place", full)
    held.passed(1, MODEL, summed=True)
    assert not holds(held).any()


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam"])
def test_a_node_makes_every_version_of_a_compressed_study_itself(strategy: str, tmp_path: Path) -> None:
    training = {"rounds": 9, "local_steps": 1, "learning_rate": 1.0}
    section = {"compression": RANK, "training": training, "strategy": {"name": strategy, "average": 0.5}}
    chain = Chain(options=section)
    hospital = Hospital(chain, tmp_path)
    for number in range(1, 4):
        hospital.join(chain.grow(number))
        assert hospital.reach(number + 1).tobytes() == chain.newest.vector.tobytes()
    assert len(chain.sums[1].data) < len(Chain().grow(1).data)
