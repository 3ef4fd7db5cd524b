"""An attempt that fails after uploads ends with its sum or with a certificate, and nothing starts before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.rounds import schedule
from medveil.rounds import RoundKind
from medveil.tensors import model_hash
from privacy.secagg.closing import check_certificate
from privacy.secagg.keys import setting_for
from tries import sqlite_first
from world import SPEC, START, Site, World, finish, make_sites, make_world, play

Build = Callable[..., World]


@pytest.fixture
def on_both(folder: Path, where: Path | str) -> Iterator[World]:
    """A world on a database of either kind."""
    world = make_world(folder / "world", database=where)
    yield world
    world.store.close()


def until_phase(world: World, sites: list[Site], phase: str) -> None:
    play(world, sites, until=lambda: world.phase == phase)


def crash(*sites: Site) -> None:
    """They are started again."""
    for site in sites:
        site.crash()


def outcomes(world: World) -> list[tuple[int, int, str]]:
    return [(a["round"], a["attempt"], a["outcome"]) for a in world.status["attempts"]]


@pytest.mark.parametrize(
    ("phase", "restart"),
    [
        pytest.param(phase, restart, marks=[pytest.mark.slow] * (restart != (phase == "agree")))
        for phase in ("upload", "agree", "unmask")
        for restart in (False, True)
    ],
)
@sqlite_first
def test_hospitals_lost_after_the_commit_cost_an_attempt_at_most_on_both_databases(
    on_both: World, phase: str, restart: bool
) -> None:
    world = on_both
    sites = make_sites(world)
    until_phase(world, sites, phase)
    crash(sites[2])
    if phase != "upload":
        crash(sites[1])
    play(world, sites, until=lambda: world.phase in ("abort", "advertise"))
    if restart:
        world.restart()
    status = finish(world, sites)
    assert outcomes(world) == [(1, 1, "failed"), (1, 2, "done"), (2, 1, "done"), (3, 1, "done")]
    assert (status["attempts"][0]["failed_in"], bool(status["attempts"][0]["certificate"])) == (phase, True)


def test_without_a_certificate_the_plan_waits_by_name_and_opens_nothing(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    until_phase(world, sites, "agree")
    until_phase(world, sites[:1], "abort")
    for _ in range(50):
        sites[0].act()
        world.coordinator.tick()
        world.clock.now += 10_000.0
    assert outcomes(world) == []
    assert world.status["waiting_for"] == {
        "reason": "abort-certificate",
        "failed_by": "below-threshold",
        "given_up": 1,
        "need": 2,
    }
    world.restart()
    assert world.status["waiting_for"]["given_up"] == 1
    finish(world, sites[:1] + sites[1:])
    assert outcomes(world) == [(1, 1, "failed"), (1, 2, "done"), (2, 1, "done"), (3, 1, "done")]


def test_shares_that_come_late_open_the_sum_after_all(build: Build) -> None:
    world = build(hospitals=5)
    sites = make_sites(world)
    until_phase(world, sites, "unmask")
    until_phase(world, sites[:1], "abort")  # the others are cut off for a while, and keep their keys
    status = finish(world, sites)
    assert outcomes(world)[0] == (1, 1, "done")
    assert len(status["attempts"][0]["survivors"]) == 5


def test_whoever_has_lost_its_keys_gives_up_and_the_others_still_open_the_sum(build: Build) -> None:
    world = build(hospitals=5)
    sites = make_sites(world)
    until_phase(world, sites, "unmask")
    until_phase(world, sites[:1], "abort")
    crash(sites[4])
    sites[4].act()
    assert world.status["waiting_for"]["given_up"] == 1
    finish(world, sites)
    assert outcomes(world)[0] == (1, 1, "done")


def test_the_certificate_is_served_for_ever_and_holds(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    until_phase(world, sites, "agree")
    crash(*sites[1:])
    finish(world, sites)
    world.restart()
    (found,) = world.certificates(1).certificates
    setting = setting_for(
        world.plan, number=1, attempt=1, kind=RoundKind.TRAIN, model=model_hash(START, SPEC)
    )
    check_certificate(found, setting, (1, 2, 3))
    assert world.certificates(2).certificates == ()


def test_a_roster_of_ten_with_five_in_reach_opens_nothing_and_says_why(build: Build) -> None:
    world = build(hospitals=10)
    sites = make_sites(world)
    for _ in range(20):
        for site in sites[:5]:
            site.act()
        world.coordinator.tick()
        world.clock.now += 1.0
    assert (world.status["open"], outcomes(world)) == (None, [])
    assert world.status["waiting_for"] == {"reason": "too-few-hospitals", "in_reach": 5, "need": 6}
    assert schedule.fewest(world.plan) == 6
    finish(world, sites[:6])
    assert [a[2] for a in outcomes(world)] == ["done"] * 3


def test_a_round_whose_attempts_are_all_given_up_is_followed_by_the_next_from_the_same_model(
    build: Build,
) -> None:
    world = build(attempts=2)
    sites = make_sites(world)
    for attempt in (1, 2):
        until_phase(world, sites, "agree")
        assert world.status["open"]["attempt"] == attempt
        crash(*sites[1:])
        play(world, sites, until=lambda n=attempt: len(world.status["attempts"]) == n)  # type: ignore[misc]
    status = finish(world, sites)
    assert outcomes(world) == [(1, 1, "failed"), (1, 2, "failed"), (2, 1, "done"), (3, 1, "done")]
    assert status["versions"][1]["parent"] == model_hash(START, SPEC).hex()


def test_a_round_that_leaves_the_model_as_it_was_ends_the_plan(build: Build) -> None:
    world = build()
    sites = make_sites(world, update=lambda i, r: START * 0)
    status = finish(world, sites)
    assert outcomes(world) == [(1, 1, "done")]
    assert status["versions"][1]["model"] == status["versions"][0]["model"]
