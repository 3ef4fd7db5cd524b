"""The aggregator may be killed after any step: it goes on where it was, with the exact same result."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator.storage.blobs import Blobs, StorageFailed
from world import Site, World, finish, make_sites

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


@pytest.mark.slow
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
                world.receive(site.name, *site.sent[-1])
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
