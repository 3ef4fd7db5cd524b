"""A roster grows and shrinks while a study runs: the new one takes over between two attempts, or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.amending import BadAmendment, changed
from aggregator.rounds import epochs
from aggregator.rounds.schedule import fewest
from amended import amended, newcomer, next_plan, restart, roster_of
from medveil.identity import Identity
from medveil.messages import Refusal
from medveil.plan import BadPlan, Plan, parse_plan, sign_approval, sign_refusal
from medveil.tensors import from_safetensors
from world import (
    SPEC,
    START,
    Site,
    World,
    make_plan,
    make_sites,
    make_study,
    make_world,
    model_in,
    play,
    unit,
)

FOUR: dict[str, Any] = {"training": {"rounds": 4, "local_steps": 1, "learning_rate": 1.0}}


def vector(world: World, model: str) -> Any:
    return from_safetensors(model_in(world.blobs, model), SPEC)


def versions(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.status["versions"]
    return found


def played(old: World, new: World, sites: list[Site]) -> None:
    """To the end of both plans."""
    play(new, sites, until=lambda: bool(new.status["finished"] and old.status["finished"]))


def test_a_hospital_joins_and_another_one_leaves_and_the_model_goes_on(tmp_path: Path) -> None:
    """Versions, rounds and the model's own numbers go on; each round's mean is of the roster of its time."""
    world = make_world(tmp_path / "w", hospitals=4, **FOUR)
    old = make_sites(world)
    play(world, old, until=lambda: len(versions(world)) == 2)
    five = amended(world, [*world.identities, newcomer(world, "joins")], first_round=2)
    grown = make_sites(five)
    play(five, [*old, *grown], until=lambda: len(versions(five)) == 2)
    four = amended(five, five.identities[1:], first_round=five.status["versions"][-1]["round"] + 1)
    shrunk = make_sites(four)
    played(five, four, [*old, *grown, *shrunk])
    assert world.status["finished"]
    told = [version for one in (world, five, four) for version in versions(one)]
    numbers = [v["number"] for v in told]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 4
    assert [a["round"] for one in (world, five, four) for a in one.status["attempts"]] == [1, 2, 3, 4, 5]
    by_number = {v["number"]: v for v in told}
    at = START
    for number in range(1, 5):
        who = by_number[number]["survivors"]
        plan = next(p for p in (four, five, world) if any(v["number"] == number for v in versions(p)[1:]))
        mean = sum(unit(plan.plan.names.index(n) + 1) for n in who) / len(who)
        after = vector(world, by_number[number]["model"])
        assert np.allclose(after - at, mean, atol=1e-4)
        at = after


def test_the_old_roster_works_until_enough_of_the_new_one_have_approved(tmp_path: Path) -> None:
    world = make_world(tmp_path / "w", hospitals=3, **FOUR)
    sites, joins = make_sites(world), newcomer(world, "joins")
    four = [*world.identities, joins]
    after = amended(world, four, approvals=four[1:3])
    refusing = world.identities[0]
    told = Refusal(
        kind="refused", reason="too many", signature=sign_refusal(after.plan, refusing, "refused", "too many")
    )
    world.coordinator.intake.refuse(after.plan.id, refusing.name, told)
    play(world, sites, until=lambda: len(versions(world)) == 3)
    assert not world.status["finished"]
    assert after.status["waiting_for"]["reason"] == "earlier-roster"
    assert after.status["refusals"][0]["reason"] == "too many"
    assert fewest(after.plan) == 3
    world.coordinator.approve(after.plan.id, "joins", sign_approval(after.plan, joins))
    new = make_sites(after)[1:]  # who has refused is in no sum of the new roster, and holds up nobody
    played(world, after, [*sites, *new])
    assert [a["survivors"] for a in after.status["attempts"]] == [["hospital-2", "hospital-3", "joins"]] * 2
    assert after.status["versions"][-1]["number"] == 4


@pytest.mark.parametrize(
    "phase", [*(pytest.param(p, marks=pytest.mark.slow) for p in ("advertise", "unmask", "abort")), "upload"]
)
def test_an_attempt_in_hand_ends_before_the_new_roster_begins(tmp_path: Path, phase: str) -> None:
    """Also across a restart of the aggregator at every step: nothing is half done."""
    world = make_world(tmp_path / "w", hospitals=4, **FOUR)
    sites = make_sites(world)
    if phase == "abort":
        play(world, sites, until=lambda: world.phase == "upload")
        for site in sites[2:]:
            site.crash()
        play(world, sites[:2], until=lambda: world.phase == "abort")
    else:
        play(world, sites, until=lambda: world.phase == phase)
    before = world.status["open"]
    after = amended(world, [*world.identities, newcomer(world, "joins")])
    for site in sites:
        world.coordinator.runs.touch(site.name)
    world.coordinator.runs.touch("joins")
    world.coordinator.tick()
    assert world.status["open"] == before
    assert after.status["open"] is None
    restart(world, after)
    assert world.status["open"] == before
    assert after.status["open"] is None
    new = make_sites(after)

    def step() -> bool:
        restart(world, after)
        opened = [w.status["open"] is not None for w in (world, after)]
        assert not all(opened)
        return bool(after.status["attempts"])

    play(after, [*sites, *new], until=step)
    assert world.status["finished"]
    assert len(world.status["attempts"]) == 1
    models = {v["model"] for v in versions(world)} & {v["model"] for v in versions(after)}
    assert models == {versions(world)[-1]["model"]}  # the one that the new roster goes on from
    assert after.status["attempts"][0]["round"] == (1 if phase == "abort" else 2)


def test_nothing_is_taken_over_with_hospitals_that_are_away(tmp_path: Path) -> None:
    """They say so of the plan that works; the new roster would open an attempt that cannot succeed."""
    world = make_world(tmp_path / "w", hospitals=3, **FOUR)
    play(world, make_sites(world), until=lambda: len(versions(world)) == 2)
    after = amended(world, [*world.identities, newcomer(world, "joins")], approvals=world.identities)
    run = world.coordinator.runs.of(world.plan.id, "hospital-1")
    for away in (True, False):
        world.coordinator.intake.is_away(world.plan.id, "hospital-1", away)
        found = epochs.successor(world.coordinator.runs, replace(run, attempt=None), lambda _: True)
        assert (found is None) is away
    assert [line.works for line in world.reader.lines()] == [True, False]
    assert after.status["waiting_for"]["reason"] == "earlier-roster"


def test_only_one_amendment_of_a_plan_takes_over(tmp_path: Path) -> None:
    world = make_world(tmp_path / "w", hospitals=3, **FOUR)
    sites = make_sites(world)
    one = amended(world, [*world.identities, newcomer(world, "one")])
    two = amended(world, [*world.identities, newcomer(world, "two")])
    play(one, [*sites, *make_sites(one), *make_sites(two)], until=lambda: bool(one.status["finished"]))
    assert two.status["finished"]
    assert two.status["attempts"] == []
    assert {v["plan"] for v in versions(one)} == {one.plan.id}
    assert [line.works for line in world.reader.lines()] == [False, True, False]


def test_an_amendment_comes_too_late_when_the_study_is_over(tmp_path: Path) -> None:
    world = make_world(tmp_path / "w", hospitals=3)
    sites = make_sites(world)
    late = amended(world, [*world.identities, newcomer(world, "late")], approvals=())
    play(world, sites, until=lambda: bool(world.status["finished"]))
    world.coordinator.tick()
    assert late.status["finished"]
    assert late.status["attempts"] == []


def test_a_plan_that_too_many_have_left_goes_on_with_a_smaller_roster(tmp_path: Path) -> None:
    world = make_world(tmp_path / "w", hospitals=4, **FOUR)
    sites = make_sites(world)
    play(world, sites, until=lambda: len(versions(world)) == 2)
    leaves = world.identities[:2]
    for one in leaves:
        signature = sign_refusal(world.plan, one, "withdrawn", "no")
        world.coordinator.intake.refuse(
            world.plan.id, one.name, Refusal(kind="withdrawn", reason="no", signature=signature)
        )
    play(world, sites[2:], until=lambda: bool(world.status["finished"]))
    after = amended(world, world.identities[1:], first_round=2)
    new = make_sites(after)
    for site in new:
        world.coordinator.runs.touch(site.name)
    played(world, after, new)
    assert after.status["versions"][-1]["number"] == 4


@pytest.fixture
def people() -> list[Identity]:
    return [Identity.generate(f"hospital-{i}") for i in range(1, 9)]


def test_a_change_that_would_leave_no_honest_hospital_in_common_is_refused(people: list[Identity]) -> None:
    study = make_study()
    five = make_plan(people[:5], study)
    for roster in (people[:7], people[1:6], people[2:5] + people[5:7]):
        with pytest.raises(BadAmendment, match="no honest hospital in common"):
            changed(five, roster_of(roster), first_round=1)
    for roster in (people[:6], people[1:5]):
        assert changed(five, roster_of(roster), first_round=1).plan.before == five


def test_an_amended_plan_is_made_of_the_plan_before_it(people: list[Identity]) -> None:
    """So nobody can amend a plan and change its study, or name another plan as the one before."""
    study = make_study(cohort={"min_hospitals": 3, "max_hospitals": 4})
    first = make_plan(people[:4], study)
    second = next_plan(first, people[:5], first_round=2)
    third = next_plan(second, people[1:5], first_round=3)
    read = parse_plan(third.model_dump(mode="json"))
    assert [p.id for p in read.epochs] == [third.id, second.id, first.id]
    assert read.lineage == second.lineage == first.lineage == first.id
    assert second.study.cohort.max_hospitals == 5
    assert first.study.cohort.max_hospitals == 4
    assert read == third
    assert first == make_plan(people[:4], study)
    assert [third.since(p.public_key) for p in people[:5]] == [1, 1, 1, 1, 2]
    forged = third.model_copy(update={"study": make_study(name="other")})
    assert forged.before is not None
    assert forged.before.id != second.id


@pytest.mark.parametrize(
    "change",
    [{"epoch": 7}, {"first_round": 9}, {"roster": ()}, {"earlier": [{"roster": [], "max_hospitals": 3}]}],
)
def test_what_cannot_follow_is_no_plan(people: list[Identity], change: dict[str, Any]) -> None:
    good = next_plan(make_plan(people[:4], make_study()), people[:5]).model_dump(mode="json")
    assert isinstance(parse_plan(good), Plan)
    with pytest.raises(BadPlan):
        parse_plan(good | change)
