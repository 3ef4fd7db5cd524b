"""A changed roster as the admin sees it: what it waits for, when it took over, and when it never will."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from aggregator import cli_watching
from aggregator.cli import app
from aggregator.settings import Settings
from aggregator.storage.register import Role
from aggregator.telling.notices import Lookout
from aggregator.watching.words import sentence
from aggregator.web.gauges import _state
from amended import amended, newcomer
from door import Door
from medveil.messages import Refusal
from medveil.plan import sign_approval, sign_refusal
from watched import watched
from world import World, make_sites, play

Build = Callable[..., World]
FOUR: dict[str, Any] = {"hospitals": 3, "training": {"rounds": 4, "local_steps": 1, "learning_rate": 1.0}}


def state_in_the_metrics(world: World, plan: str) -> str:
    runs = world.coordinator.runs
    run = runs.get(plan)
    assert run is not None
    return _state(runs, run)


def test_an_amendment_says_whose_approval_it_waits_for_and_who_works_until_then(build: Build) -> None:
    world, watching = watched(build, **FOUR)
    sites = make_sites(world)
    play(world, sites, until=lambda: len(world.status["versions"]) == 2)
    first = world.identities[0]
    after = amended(world, [*world.identities[:], newcomer(world, "joins")], approvals=[first])
    seen = watching.study(after.plan.id)
    assert (seen.state, seen.epoch, seen.follows, seen.joins) == ("amendment", 2, world.plan.id, ("joins",))
    assert seen.sentence == (
        "Roster 2 waits for 2 more approvals (1 of 4 have approved, 3 are needed); not yet: "
        "hospital-2 (last heard 0 s ago), hospital-3 (last heard 0 s ago) and joins; "
        f"until then the roster before it works (plan {world.plan.id[:12]})."
    )
    assert watching.study(world.plan.id).state == "running"
    assert state_in_the_metrics(world, after.plan.id) == "amendment"
    for one in after.identities[1:3]:
        world.coordinator.approve(after.plan.id, one.name, sign_approval(after.plan, one))
    waits = watching.waits_for(after.plan.id)
    assert (waits.why, waits.other) == ("takeover", world.plan.id)
    world.clock.now += 25.0  # who is silent is not in reach
    world.coordinator.runs.touch("hospital-1")
    waits = watching.waits_for(after.plan.id)
    assert (waits.why, waits.answered, waits.need) == ("takeover-reach", 1, 3)
    assert [one.hospital for one in waits.awaited] == ["hospital-2", "hospital-3"]


def test_a_plan_whose_roster_was_changed_has_not_ended_early(build: Build) -> None:
    world, watching = watched(build, **FOUR)
    sites = make_sites(world)
    play(world, sites, until=lambda: len(world.status["versions"]) == 2)
    people = [*world.identities, newcomer(world, "joins")]
    after = amended(world, people)
    other = amended(world, [*world.identities, newcomer(world, "another")], approvals=())
    play(after, [*sites, *make_sites(after)], until=lambda: bool(after.status["attempts"]))
    seen = watching.study(world.plan.id)
    assert (seen.state, seen.followed_by, seen.rounds_left) == ("amended", after.plan.id, 0)
    assert seen.sentence == (
        f"Roster 2 has taken over and goes on as plan {after.plan.id[:12]}; this plan waits for nothing."
    )
    states = {one.plan: one.state for one in watching.studies()}
    assert states == {world.plan.id: "amended", after.plan.id: "running", other.plan.id: "set-aside"}
    door = Door(world)
    told = door.show(door.token("auditor", Role.AUDITOR), "GET", "/v1/status").json()
    assert {one["plan"]: one["works"] for one in told} == {
        world.plan.id: False,
        after.plan.id: True,
        other.plan.id: False,
    }
    door.service.close()
    assert {plan: state_in_the_metrics(world, plan) for plan in states} == {
        world.plan.id: "amended",
        after.plan.id: "round",
        other.plan.id: "set_aside",
    }
    lookout = Lookout(
        world.coordinator.runs,
        watching.waits_for,
        consortium="",
        waiting_s=1e9,
        certificate_ends=lambda: None,
    )
    assert [one for one in lookout.look() if one.event == "study.finished"] == []  # it goes on


def test_an_amendment_waits_while_the_admin_has_halted_the_study(build: Build) -> None:
    world, watching = watched(build, **FOUR)
    play(world, make_sites(world), until=lambda: len(world.status["versions"]) == 2)
    after = amended(world, [*world.identities, newcomer(world, "joins")])
    world.store.directives.say(world.plan.id, "pause", "the ethics board asks", now=3.0)
    world.coordinator.tick()
    assert sentence(watching.waits_for(after.plan.id)).endswith("the ethics board asks")
    assert state_in_the_metrics(world, world.plan.id) == "paused"


def ask(world: World, *typed: str) -> Result:
    world.admin.save(world.folder / "admin.key") if not (world.folder / "admin.key").exists() else None
    Settings(world.folder).save()
    return CliRunner().invoke(app, [*typed, "--folder", str(world.folder)])


def test_the_terminal_follows_a_study_into_its_next_roster(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(hospitals=3, training={"rounds": 2, "local_steps": 1, "learning_rate": 1.0})
    world.wall = time.time
    world.restart()
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "commit")
    people = [*world.identities, newcomer(world, "joins")]
    after = amended(world, people, approvals=people[:1])
    assert "roster 2, not begun" in ask(world, "study", "status").stdout
    assert "Roster 2 waits for 2 more approvals" in ask(world, "study", "show", after.plan.id[:12]).stdout
    only = ask(world, "study", "status", after.plan.id[:12]).stdout
    assert "running" not in only
    for one in people[1:]:
        world.coordinator.approve(after.plan.id, one.name, sign_approval(after.plan, one))
    everybody = [*sites, *make_sites(after)]

    def pause(_: float) -> None:
        for site in everybody:
            site.act()
        world.coordinator.tick()

    monkeypatch.setattr(cli_watching.time, "sleep", pause)
    told = ask(world, "study", "watch")  # the one that works, though another one waits
    assert told.exit_code == 0, told.output
    assert f"goes on as plan {after.plan.id[:12]}" in told.stdout
    assert told.stdout.splitlines()[-1] == "tiny finished: The study is over and waits for nothing."


def test_a_roster_that_too_many_have_refused_says_that_it_cannot_take_over_and_who_refuses(
    build: Build,
) -> None:
    world, watching = watched(build, **FOUR)
    play(world, make_sites(world), until=lambda: len(world.status["versions"]) == 2)
    after = amended(world, world.identities[:3], approvals=())
    who = world.identities[1]
    told = Refusal(kind="refused", reason="no", signature=sign_refusal(after.plan, who, "refused", "no"))
    after.coordinator.intake.refuse(after.plan.id, who.name, told)
    waits = watching.waits_for(after.plan.id)
    assert (waits.why, waits.without, waits.need) == ("takeover-refused", ("hospital-2",), 3)
    said = "1 of 3 hospitals takes no part (hospital-2), and a round takes 3"
    assert sentence(waits).startswith(f"Roster 2 cannot take over: {said}; the roster before it works")
