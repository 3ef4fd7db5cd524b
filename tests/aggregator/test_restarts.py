"""The aggregator may be killed after any step: it goes on where it was, with the exact same result."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.blobs import Blobs, StorageFailed
from medveil.errors import RemoteProtocolError
from medveil.tensors import from_safetensors
from world import SPEC, START, Site, World, finish, make_sites, unit

Build = Callable[..., World]
MOMENTUM = {"name": "fedavgm", "options": {"momentum": 0.5}}


def moves(world: World, sites: list[Site], *, attempts: int = 3) -> Iterator[None]:
    """The study, one step at a time (a hospital's answer or a tick), until that many attempts are over."""
    while len(world.status["attempts"]) < attempts:
        for site in sites:
            if site.act():
                yield
        world.coordinator.tick()
        yield


def outcome(world: World) -> list[Any]:
    """What a study leaves behind, without times and traffic."""
    kept = ("round", "attempt", "outcome", "survivors", "figures", "sums", "model", "reason")
    attempts = [{k: a.get(k) for k in kept} for a in world.status["attempts"]]
    return [attempts, [(v["number"], v["model"], v["parent"]) for v in world.status["versions"]]]


def test_a_restart_after_any_step_of_a_round_gives_the_exact_same_result(build: Build) -> None:
    world = build(strategy=MOMENTUM)
    steps = sum(1 for _ in moves(world, make_sites(world), attempts=1))
    expected = outcome(world)
    assert steps > 24  # three hospitals, six phases, and the ticks between
    for restart_after in range(steps):
        world = build(strategy=MOMENTUM)
        for step, _ in enumerate(moves(world, make_sites(world), attempts=1)):
            if step == restart_after:
                before = world.status["open"]
                world.restart()
                assert world.status["open"] == before
        assert outcome(world) == expected
        world.store.close()


def test_a_restart_after_every_step_gives_the_exact_same_result(build: Build) -> None:
    calm, shaken = build(strategy=MOMENTUM), build(strategy=MOMENTUM)
    finish(calm, make_sites(calm))
    for _ in moves(shaken, make_sites(shaken)):
        shaken.restart()
    assert outcome(shaken) == outcome(calm)


def test_a_lost_answer_is_repaired_by_a_repeat_whenever_it_comes(build: Build) -> None:
    """Accepted, then killed before the answer: the hospital repeats the same bytes to the new process."""
    world = build()
    sites = make_sites(world)
    for _ in moves(world, sites):
        if random.Random(len(sites[0].sent)).random() < 0.5:
            world.restart()
            world.coordinator.tick()  # the phase may close before the repeat is here
        for site in sites:
            opened = world.status["open"]
            if site.sent and opened and site.sent[-1][:2] == (opened["round"], opened["attempt"]):
                world.coordinator.receive(world.plan.id, site.name, *site.sent[-1])
    assert [a["outcome"] for a in world.status["attempts"]] == ["done"] * 3
    assert world.status["attempts"][0]["sums"]["patients"] == [3.0]


def test_a_full_disk_costs_a_retry_and_nothing_else(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second write of a file fails: no message is half taken, and the study ends as if none had."""
    calm, full = build(), build()
    finish(calm, make_sites(calm))
    failures = [0]
    real = Blobs.keep_model

    def keep_model(blobs: Blobs, name: str, draft: Path) -> None:
        failures[0] += 1
        if failures[0] % 2:
            raise StorageFailed()
        real(blobs, name, draft)

    monkeypatch.setattr(Blobs, "keep_model", keep_model)
    sites = make_sites(full)
    for _ in range(200):
        for site in sites:
            site.act()
        try:
            full.coordinator.tick()
        except StorageFailed:  # what was closed before is on the disk, and nothing else: start again from it
            before = full.dump()
            full.restart()
            assert full.dump() == before
    assert failures[0] == 4
    assert outcome(full) == outcome(calm)


@pytest.mark.parametrize("seed", range(16))
def test_whatever_happens_in_between_no_hospital_counts_twice_and_the_study_ends(
    build: Build, seed: int
) -> None:
    """Seeded storms: answers, drop-outs, repeats, restarts and waiting, in any order."""
    draw = random.Random(seed)
    world = build(hospitals=draw.choice([3, 4, 5]))
    sites = make_sites(world)
    asleep: set[int] = set()
    for _ in range(200):
        site = draw.choice(sites)
        action = draw.choices(
            ["act", "tick", "sleep", "wake", "repeat", "garble", "restart", "wait"],
            [40, 25, 2, 4, 8, 3, 2, 3],
        )[0]
        if action == "act" and site.index not in asleep:
            site.act()
        elif action == "sleep":
            asleep.add(site.index)
        elif action == "wake":
            asleep.discard(site.index)
        elif action == "tick":
            world.coordinator.tick()
        elif action == "restart":
            world.restart()
        elif action == "wait":
            world.clock.now += draw.choice([1.0, 25.0, 700.0])
        elif site.sent:
            send_again(world, site, draw, garbled=action == "garble")
        check(world)
    finish(world, sites)  # the faults have stopped
    check(world)


def send_again(world: World, site: Site, draw: random.Random, *, garbled: bool) -> None:
    """An old message of this hospital, perhaps with one byte changed; only its own last one may be taken."""
    number, attempt, kind, body = draw.choice(site.sent)
    if garbled:
        position = draw.randrange(len(body))
        body = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
    before = world.dump()
    with suppress(RemoteProtocolError):
        world.coordinator.receive(world.plan.id, site.name, number, attempt, kind, body)
    assert world.dump() == before


def check(world: World) -> None:
    """Each published model moved by exactly the mean of its survivors' unit vectors; nothing smaller."""
    status, vectors = world.status, []
    for version in status["versions"]:
        vectors.append(from_safetensors(world.blobs.model(version["model"]), SPEC))
    assert np.array_equal(vectors[0], START)
    for number, version in enumerate(status["versions"][1:], start=1):
        indices = [int(name.removeprefix("hospital-")) for name in version["survivors"]]
        assert len(indices) >= 3
        expected = sum(unit(i) for i in indices) / len(indices)
        assert np.allclose(vectors[number] - vectors[number - 1], expected, atol=1e-4)
        assert version["parent"] == status["versions"][number - 1]["model"]
    rounds = [a["round"] for a in status["attempts"] if a["outcome"] == "done"]
    assert len(set(rounds)) == len(rounds)
