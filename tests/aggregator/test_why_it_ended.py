"""A study that ended before its last round says why, to the admin at the terminal and on the page."""

from __future__ import annotations

import pytest
from click.testing import Result
from typer.testing import CliRunner

from aggregator.cli import app
from aggregator.settings import Settings
from aggregator.storage.directives import WordRefused
from aggregator.watching.measures import Measures
from aggregator.watching.values import Timeline, WaitsFor
from aggregator.watching.words import sentence
from aggregator.web.dashboard import drawing, sentences
from aggregator.web.dashboard.screens import hospitals
from medveil.catalogue import Speaker
from medveil.catalogue.dashboard import DASHBOARD
from medveil.messages import Refusal
from medveil.plan import sign_refusal
from policies import LOCAL
from watched import Build, watched
from world import World, make_sites, play


def refuse(world: World, index: int) -> None:
    who = world.identities[index]
    signature = sign_refusal(world.plan, who, "refused", "no")
    told = Refusal(kind="refused", reason="no", signature=signature)
    world.coordinator.intake.refuse(world.plan.id, who.name, told)


def typed(world: World, *words: str) -> Result:
    world.admin.save(world.folder / "admin.key") if not (world.folder / "admin.key").exists() else None
    Settings(world.folder).save()
    return CliRunner().invoke(app, [*words, "--folder", str(world.folder)])


def test_a_study_that_too_few_hospitals_are_left_of_says_so_and_costs_no_more(build: Build) -> None:
    world, watching = watched(build, approvals=2)
    refuse(world, 2)
    world.coordinator.tick()
    seen = watching.study(world.plan.id)
    assert (seen.state, seen.waits_for.why, seen.cost.bytes_left) == ("ended-early", "too-few-left", None)
    said = "1 of 3 hospitals takes no part (hospital-3), and a round takes 3."
    assert seen.sentence == f"The study ended before its last round: {said}"
    for language, part in (("en", "one of 3 hospitals takes no part"), ("zh", "3 家医院中有 1 家不参加")):
        page = sentences.waits(Speaker(DASHBOARD, language), seen.waits_for, seen.as_of)  # type: ignore[arg-type]
        assert part in page
        assert "hospital-3" in page
    assert "tiny  ended early" in typed(world, "study", "status").output


def test_a_study_that_its_last_attempt_ended_names_the_reason_in_words(build: Build) -> None:
    found = WaitsFor(why="ended-early", round=4, reason="spoiled-round")
    assert sentence(found).endswith("after round 4: a hospital dealt wrong shares (spoiled-round).")
    page = sentences.waits(Speaker(DASHBOARD, "en"), found, 0.0)
    assert page.endswith("after round 4: a hospital dealt wrong shares (<code>spoiled-round</code>)")


def test_whoever_has_not_approved_is_named_where_a_round_needs_everybody(build: Build) -> None:
    world, watching = watched(build, approvals=2)
    for site in make_sites(world)[:2]:
        site.poll()
    world.coordinator.tick()
    found = watching.waits_for(world.plan.id)
    assert (found.why, [one.hospital for one in found.awaited]) == ("reach", ["hospital-3"])


def test_what_cannot_be_said_is_refused_before_anybody_is_asked(build: Build) -> None:
    world, _ = watched(build)
    play(world, make_sites(world), until=lambda: world.phase == "commit")
    told = typed(world, "study", "withdraw", "tiny", "--reason", "x")
    assert isinstance(told.exception, WordRefused)
    assert "Nothing was trained" not in told.output


@pytest.mark.parametrize("uploads", [2, 3])
def test_the_line_of_the_quorum_stands_only_where_enough_have_sent_their_masked_vectors(
    build: Build, uploads: int
) -> None:
    world, watching = watched(build)
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "upload")
    for site in sites[:uploads]:
        site.act()
    line: Timeline = watching.timeline(world.plan.id)
    assert len([lane for lane in line.lanes if lane.reached[-1].step == "upload"]) == uploads
    assert (drawing.axis_of(line).quorum is not None) == (uploads == 3)


def test_only_who_has_approved_a_study_that_goes_on_can_be_silent(build: Build) -> None:
    world, watching = watched(build, approvals=2)
    world.clock.now += 1000.0
    seen = {one.hospital: one for one in watching.hospitals()}
    assert {name: one.in_reach for name, one in seen.items()} == dict.fromkeys(seen, False)
    silent = [name for name, one in seen.items() if hospitals._fits(one, "silent")]
    assert silent == ["hospital-1", "hospital-2"]
    refuse(world, 2)
    world.coordinator.tick()  # the study is over: nobody is called silent for it
    assert [one.hospital for one in watching.hospitals() if hospitals._fits(one, "silent")] == []


def test_what_a_study_that_was_stopped_costs_at_its_end_is_what_it_has_cost(build: Build) -> None:
    world, _ = watched(build, privacy=LOCAL)
    world.store.directives.say(world.plan.id, "stop", "enough", now=3.0)
    world.coordinator.tick()
    seen = Measures(world.store, Settings(world.folder), reckon=None).privacy(None).studies[0]
    assert seen.ended_early
    assert seen.noise is not None
    assert (seen.noise.joint, seen.noise.joint_at_end, seen.noise.stated > 0) == (0.0, 0.0, True)
