"""The admin pauses, resumes, stops, withdraws: signed, at once, for good, and never half-done."""

from __future__ import annotations

import random

import numpy as np
import pytest

from aggregator.rounds.coordinator import HALTED
from aggregator.storage.directives import WordRefused
from aggregator.storage.store import Store
from door import Door
from medveil.identity import BadSignature, Identity
from medveil.messages import PlanOffers, Work, sign_directive
from medveil.reports import Order
from medveil.tensors import from_safetensors
from watched import Build, watched, watching_of
from world import SPEC, START, Site, World, finish, make_sites, model_in, play, settle, unit

WHY = "the ethics board meets"
EARLY_HALTS = [
    ("advertise", "pause"),
    ("advertise", "stop"),
    ("share", "pause"),
    ("share", "stop"),
    ("commit", "stop"),
]
LATE_HALTS = [
    ("upload", "pause"),
    ("upload", "stop"),
    ("agree", "pause"),
    ("agree", "stop"),
    ("unmask", "pause"),
]


def say(world: World, order: Order, reason: str = WHY) -> None:
    """As the admin's command does it: through a store of its own, beside the running aggregator."""
    store = Store(world.database, world.admin)
    store.directives.say(world.plan.id, order, reason, now=1_700_000_000.0)
    store.close()


def halted_in(build: Build, phase: str, order: Order) -> tuple[World, list[Site]]:
    """A world whose admin has said this word in this phase; nobody has acted on it yet."""
    world = build()
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == phase)
    say(world, order)
    return world, sites


@pytest.mark.parametrize(
    ("phase", "order"),
    [("commit", "pause"), *(pytest.param(*one, marks=pytest.mark.slow) for one in EARLY_HALTS)],
)
def test_before_anything_masked_was_sent_the_attempt_ends_at_once(
    build: Build, phase: str, order: Order
) -> None:
    world, sites = halted_in(build, phase, order)
    world.coordinator.tick()
    status = world.status
    (ended,) = status["attempts"]
    assert (ended["outcome"], ended["reason"], ended["failed_in"]) == ("failed", HALTED[order], phase)
    assert (status["open"], status["finished"]) == (None, order == "stop")
    settle(world, sites)
    assert len(world.status["attempts"]) == 1


@pytest.mark.parametrize(
    ("phase", "order"),
    [("unmask", "stop"), *(pytest.param(*one, marks=pytest.mark.slow) for one in LATE_HALTS)],
)
def test_once_masked_vectors_may_be_out_the_attempt_comes_to_its_own_end(
    build: Build, phase: str, order: Order
) -> None:
    world, sites = halted_in(build, phase, order)
    settle(world, sites)
    status = world.status
    assert [(a["round"], a["outcome"]) for a in status["attempts"]] == [(1, "done")]
    assert len(status["versions"]) == 2  # the sum that could be opened is
    assert (status["open"], status["finished"]) == (None, order == "stop")


def test_a_study_stopped_while_its_sum_cannot_be_opened_is_given_up_first(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "agree")
    for site in sites[1:]:
        site.crash()
    say(world, "stop")
    play(world, sites, until=lambda: world.status["finished"])
    (ended,) = world.status["attempts"]
    assert ended["outcome"] == "failed"
    assert ended["certificate"]


def test_a_paused_study_goes_on_from_the_same_model_over_restarts(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "commit")
    say(world, "pause")
    settle(world, sites)
    world.restart()
    settle(world, sites)
    assert world.status["open"] is None
    assert world.status["directive"]["reason"] == WHY
    say(world, "resume", "the board has met")
    status = finish(world, sites)
    outcomes = [(a["round"], a["attempt"], a["outcome"]) for a in status["attempts"]]
    assert outcomes == [(1, 1, "failed"), (1, 2, "done"), (2, 1, "done"), (3, 1, "done")]
    assert status["attempts"][1]["sums"]["patients"] == [3.0]


def test_a_stopped_study_never_opens_again_whoever_leads_and_whatever_they_remember(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    play(world, sites, until=lambda: len(world.status["attempts"]) == 1)
    play(world, sites, until=lambda: world.phase == "advertise")
    say(world, "stop")
    settle(world, sites)
    model = world.status["versions"][-1]["model"]
    for _ in range(3):
        world.restart()
        settle(world, sites)
    run = world.coordinator.runs.of(world.plan.id, world.plan.names[0])
    run.finished, run.directive = False, None  # a leader that knows nothing of it yet
    settle(world, sites, 10)
    assert [a["outcome"] for a in world.status["attempts"]] == ["done", "failed"]
    assert world.status["versions"][-1]["model"] == model
    for order in ("resume", "pause", "stop", "withdraw"):
        with pytest.raises(WordRefused):
            say(world, order)
    world.store.log.verify()


def test_only_a_study_that_has_not_begun_is_withdrawn_and_then_nobody_is_offered_it(build: Build) -> None:
    world = build(approvals=1)
    name = world.plan.names[0]
    world.coordinator.tick()
    assert len(world.coordinator.instructions.offers(name).offers) == 1
    say(world, "withdraw")
    world.coordinator.tick()
    told = world.coordinator.instructions.offers(name, words=True)
    assert told.offers == ()
    assert [(one.order, one.reason) for one in told.directives] == [("withdraw", WHY)]
    assert world.status["finished"]
    begun = build()
    play(begun, make_sites(begun), until=lambda: begun.phase == "share")
    with pytest.raises(WordRefused) as refused:
        say(begun, "withdraw")
    assert "its rounds have begun" in refused.value.what


@pytest.mark.parametrize(
    ("before", "order"), [((), "resume"), (("pause",), "pause"), (("pause", "resume"), "resume")]
)
def test_a_word_that_changes_nothing_is_refused_and_not_written(
    build: Build, before: tuple[Order, ...], order: Order
) -> None:
    world = build()
    for one in before:
        say(world, one)
    rows = world.dump()
    with pytest.raises(WordRefused):
        say(world, order)
    assert world.dump() == rows


def test_hospitals_are_told_the_signed_word_and_older_nodes_nothing_they_could_not_read(build: Build) -> None:
    world, _ = watched(build)
    door, one = Door(world), world.identities[0]
    say(world, "pause")
    world.coordinator.tick()
    older = Work.from_bytes(door.ask(one, "GET", f"{door.at}/work").content)
    assert (older.directive, older.status) == (None, "waiting")
    assert PlanOffers.from_bytes(door.ask(one, "GET", "/v1/plans").content).directives == ()
    told = Work.from_bytes(door.ask(one, "GET", f"{door.at}/work?word=0").content).directive
    assert told is not None
    told.check(world.admin.public_key)
    assert (told.order, told.reason, told.plan) == ("pause", WHY, world.plan.hash)
    known = f"{door.at}/work?word={told.time_ms}"
    assert Work.from_bytes(door.ask(one, "GET", known).content).directive is None
    (offered,) = PlanOffers.from_bytes(door.ask(one, "GET", "/v1/plans?words=1").content).directives
    assert offered == told
    for other in (
        {"reason": "another"},
        {"order": "stop"},
        {"time_ms": told.time_ms + 1},
        {"plan": bytes(32)},
    ):
        with pytest.raises(BadSignature):
            told.model_copy(update=other).check(world.admin.public_key)
    door.service.close()


def test_a_long_poll_that_rests_hears_of_a_pause(build: Build) -> None:
    world, _ = watched(build, approvals=1)
    name = world.plan.names[0]
    mark = world.coordinator.instructions.work(world.plan.id, name).mark
    say(world, "pause")
    world.coordinator.tick()
    assert world.coordinator.instructions.is_news(world.plan.id, name, mark)


def test_another_admin_key_signs_the_words_again(build: Build) -> None:
    world = build()
    say(world, "pause")
    other = Identity.generate("admin")
    world.store.log.change_admin_key(other)
    _, told = world.store.directives.standing()[world.plan.id]
    told.check(other.public_key)
    with pytest.raises(BadSignature):
        told.check(world.admin.public_key)


def test_the_word_is_in_the_audit_log_and_in_what_is_watched(build: Build) -> None:
    world, _ = watched(build)
    say(world, "pause")
    world.coordinator.tick()
    entries = [e for e in world.store.log.entries() if e.action == "plan.paused"]
    assert [(e.actor, e.details["reason"]) for e in entries] == [("admin", WHY)]
    seen = watching_of(world).study(world.plan.id)
    assert (seen.state, seen.waits_for.why, seen.directives[0].reason) == ("paused", "paused", WHY)
    assert seen.sentence == f"The study is paused by the admin: {WHY}"


def test_times_of_words_rise_even_if_the_clock_is_set_back(build: Build) -> None:
    world = build()
    for order, now in (("pause", 1_000.0), ("resume", 10.0), ("pause", 5.0)):
        world.store.directives.say(world.plan.id, order, WHY, now=now)  # type: ignore[arg-type]
    times = [one.at for one in reversed(world.store.directives.of(world.plan.id))]
    assert times == [1_000.0, 1_000.001, 1_000.002]


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 40))])
def test_pauses_at_any_moment_lose_nothing_and_count_nobody_twice(build: Build, seed: int) -> None:
    """Seeded: sites act, time passes, the process is replaced, the admin pauses and resumes."""
    drawn, world = random.Random(seed), build()
    sites, paused = make_sites(world), False
    for _ in range(120):
        what = drawn.choices(["act", "tick", "word", "restart"], [12, 6, 1, 0.5])[0]
        if what == "act":
            drawn.choice(sites).act()
        elif what == "tick":
            world.coordinator.tick()
        elif what == "restart":
            world.restart()
        elif not world.status["finished"]:
            say(world, "resume" if paused else "pause")
            paused = not paused
    if paused and not world.status["finished"]:
        say(world, "resume")
    status = finish(world, sites)
    done = [a for a in status["attempts"] if a["outcome"] == "done"]
    assert [a["round"] for a in done] == [1, 2, 3]
    assert all(a["sums"]["patients"] == [float(len(a["survivors"]))] for a in done)
    if all(len(a["survivors"]) == 3 for a in done):
        moved = from_safetensors(model_in(world.blobs, status["versions"][-1]["model"]), SPEC) - START
        assert np.allclose(moved, 2 * sum(unit(i) for i in (1, 2, 3)) / 3, atol=1e-3)
    world.store.log.verify()


def test_a_word_over_a_plan_that_is_not_there_or_by_a_key_that_is_none_is_refused(build: Build) -> None:
    world = build()
    stranger = Identity.generate("stranger")
    forged = sign_directive(stranger, world.plan.hash, "stop", WHY, 1)
    with pytest.raises(BadSignature):
        forged.check(world.admin.public_key)
