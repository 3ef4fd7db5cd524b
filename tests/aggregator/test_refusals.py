"""A hospital takes no part in a plan, or no more: the admin sees why, the others go on, or the plan ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.cli import app
from aggregator.settings import Settings
from aggregator.storage.store import Store
from door import Door
from medveil.identity import Identity
from medveil.messages import Approval, BadMessage, PlanOffer, PlanOffers, Refusal, RefusalKind
from medveil.plan import sign_approval, sign_refusal
from world import World, finish, make_sites, make_world, play

Build = Callable[..., World]
WHY = "The ethics board meets on 3 June."


def word(
    world: World,
    one: Identity,
    kind: RefusalKind = "withdrawn",
    reason: str = WHY,
    by: Identity | None = None,
) -> Refusal:
    signature = sign_refusal(world.plan, by or one, kind, reason)
    return Refusal(kind=kind, reason=reason, signature=signature)


def refuse(world: World, index: int, kind: RefusalKind = "withdrawn") -> None:
    one = world.identities[index - 1]
    world.coordinator.intake.refuse(world.plan.id, one.name, word(world, one, kind))


def test_a_second_thought_that_another_process_has_written_is_taken_up(build: Build) -> None:
    world = build()
    refuse(world, 1)
    one, elsewhere = world.identities[0], Store(world.database, world.admin)
    elsewhere.plans.add_approval(world.plan.id, one.name, sign_approval(world.plan, one))
    elsewhere.close()
    world.coordinator.tick()
    assert world.status["refusals"] == []
    assert not world.status["finished"]
    finish(world, make_sites(world))


def test_the_word_is_signed_kept_and_told(build: Build) -> None:
    world = build(approvals=0)
    door, one = Door(world), world.identities[0]
    forged = word(world, one, by=world.identities[1])
    other = word(world, one, "refused").model_copy(update={"kind": "withdrawn"})  # signed for another word
    before = world.dump()
    for bad in (forged, other):
        door.refused(door.ask(one, "POST", f"{door.at}/refusal", bad.to_bytes()), 401, "bad-signature")
    assert world.dump() == before
    for _ in range(2):
        good = word(world, one, "refused").to_bytes()
        assert door.ask(one, "POST", f"{door.at}/refusal", good).status_code == 204
    (told,) = world.status["refusals"]
    assert told == {"hospital": one.name, "kind": "refused", "reason": WHY, "at": 1_700_000_000.0}
    entries = [e for e in world.store.log.entries() if e.action == "plan.refused"]
    assert [(e.actor, e.details["reason"]) for e in entries] == [(one.name, WHY)]
    world.restart()
    assert world.status["refusals"] == [told]
    world.store.log.verify()
    door.service.close()


@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "\x1b[2J", "\u202ereversed", "x" * 301])
def test_a_reason_that_cannot_be_shown_is_no_message(reason: str) -> None:
    good = Refusal(kind="refused", reason="x", signature=bytes(64))
    with pytest.raises(BadMessage):
        Refusal.from_bytes(good.model_copy(update={"reason": reason}).to_bytes())


@pytest.mark.parametrize("phase", ["advertise", "commit", "upload", "unmask"])
def test_the_others_go_on_without_a_hospital_that_withdraws(build: Build, phase: str) -> None:
    world = build(hospitals=4)
    sites, began = make_sites(world), world.clock.now
    play(world, sites, until=lambda: world.phase == phase)
    refuse(world, 4)
    world.coordinator.runs.touch("hospital-4")  # it still works on other plans
    status = finish(world, sites[:3])
    assert status["finished"]
    assert [a["outcome"] for a in status["attempts"]].count("done") == 3
    assert world.clock.now - began < 120, "nobody waits for it"
    later = [a for a in status["attempts"] if (a["round"], a["attempt"]) != (1, 1)]
    assert all("hospital-4" not in a["survivors"] for a in later)
    assert status["approved"] == ["hospital-1", "hospital-2", "hospital-3"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_plan_ends_when_too_few_remain(build: Build, begun: bool) -> None:
    world = build(hospitals=4, approvals=None if begun else 1)
    sites = make_sites(world)
    if begun:
        play(world, sites, until=lambda: world.phase == "share")
    refuse(world, 4)
    world.coordinator.tick()
    assert not world.status["finished"]
    refuse(world, 3, "withdrawn" if begun else "refused")
    world.coordinator.tick()
    status = finish(world, sites[:2]) if begun else world.status
    assert status["finished"]
    assert [told["hospital"] for told in status["refusals"]] == ["hospital-3", "hospital-4"]


def test_only_a_new_approval_of_the_hospital_itself_lifts_its_word(build: Build) -> None:
    world = build(hospitals=4)
    door, one = Door(world), world.identities[3]
    refuse(world, 4)
    (offer,) = PlanOffers.from_bytes(door.ask(one, "GET", "/v1/plans").content).offers
    assert isinstance(offer, PlanOffer)
    assert one.name not in offer.approvals
    assert one.name not in world.store.plans.approvals(world.plan.id)
    assert world.store.plans.approval_counts() == {world.plan.id: 3}
    world.restart()
    assert one.name not in world.status["approved"]
    signature = Approval(signature=sign_approval(world.plan, one)).to_bytes()
    thief = world.identities[0]
    door = Door(world)
    door.refused(door.ask(thief, "POST", f"{door.at}/approval", signature), 401, "bad-signature")
    assert one.name not in world.status["approved"]
    assert door.ask(one, "POST", f"{door.at}/approval", signature).status_code == 204
    assert one.name in world.status["approved"]
    assert world.status["refusals"] == []
    refuse(world, 4)  # and once more
    assert one.name not in world.store.plans.approvals(world.plan.id)
    world.store.log.verify()
    door.service.close()


def test_nobody_waits_for_a_hospital_that_is_away_and_no_round_counts_on_it(build: Build) -> None:
    world = build(hospitals=3)
    door, one = Door(world), world.identities[2]
    door.service.stopping = True
    for index in (1, 2):
        world.coordinator.runs.touch(f"hospital-{index}")
    assert door.ask(one, "GET", f"{door.at}/work?away=1").status_code == 200
    world.coordinator.tick()
    assert (world.phase, world.status["away"]) == ("", [one.name])
    assert world.status["waiting_for"]["in_reach"] == 2
    assert door.ask(one, "GET", f"{door.at}/work").status_code == 200  # it is back
    world.coordinator.tick()
    assert (world.phase, world.status["away"]) == ("advertise", [])
    door.service.close()


def test_study_status_shows_who_takes_no_part_and_why(tmp_path: Path) -> None:
    world = make_world(tmp_path, hospitals=4)
    world.admin.save(tmp_path / "admin.key")
    Settings(tmp_path).save()
    refuse(world, 4)
    refuse(world, 3, "refused")
    world.store.close()
    Store(world.database, world.admin).close()
    result = CliRunner().invoke(app, ["study", "status", "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert f"withdrawn by hospital-4, 2023-11-14: {WHY}" in shown
    assert f"refused by hospital-3, 2023-11-14: {WHY}" in shown
