"""The life of a plan: phases close in time, failures are counted, a round's result is the mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aggregator.rounds import schedule
from aggregator.rounds.runs import WrongRound
from aggregator.storage.blobs import DamagedBlob
from medveil.identity import BadSignature
from medveil.plan import sign_approval
from medveil.rounds import AttemptKey, Phase, RoundKind
from medveil.strategies import spread
from medveil.tensors import Float32, from_safetensors, model_hash
from privacy.encoding import params_for
from privacy.secagg.messages import Ready
from privacy.secagg.server import Conflict, NotAMember, OutOfPhase
from tries import leading
from world import SPEC, START, STEPS, Site, World, finish, make_sites, play, unit

Build = Callable[..., World]


EARLY_FAILURES = {"reason": "early-failures", "failed_in": "commit", "failed_by": "below-threshold"}


def vector_of(world: World, model: str) -> Any:
    with world.open_model(model) as file:
        return from_safetensors(file.read(), SPEC)


def until_phase(world: World, sites: list[Site], phase: str, number: int = 1) -> None:
    play(
        world,
        sites,
        until=lambda: world.phase == phase and bool(world.status["open"]["round"] == number),
    )


def test_a_study_runs_its_rounds_then_evaluates_and_is_finished(build: Build) -> None:
    world = build()
    status = finish(world, make_sites(world))
    assert [(a["round"], a["kind"], a["outcome"]) for a in status["attempts"]] == [
        (1, "train", "done"),
        (2, "train", "done"),
        (3, "evaluate", "done"),
    ]
    assert status["attempts"][-1]["figures"]["patients"] == 3.0
    assert status["attempts"][-1]["model"] is None
    assert world.clock.now == 1_000.0  # nobody was waited for


def test_every_hospital_counts_exactly_once(build: Build) -> None:
    world = build(hospitals=4)
    status = finish(world, make_sites(world))
    first = next(a for a in status["attempts"] if a["round"] == 1)
    assert first["sums"]["positives/abnormal"][:5] == [1.0, 1.0, 1.0, 1.0, 0.0]
    moved = vector_of(world, status["versions"][1]["model"]) - START
    assert np.allclose(moved, sum(unit(i) for i in range(1, 5)) / 4, atol=1e-4)


def test_the_mean_is_the_weighted_mean_within_the_promised_bound(build: Build) -> None:
    world = build(hospitals=4)
    draw = np.random.default_rng(3)
    updates = {i: draw.uniform(-2, 2, SPEC.size).astype(np.float32) for i in range(1, 5)}
    sites = make_sites(world, update=lambda i, _: updates[i])
    for site, weight in zip(sites, (10, 30, 70, 100), strict=True):
        site.weight = weight
    status = finish(world, sites)
    p = params_for(world.plan.study, RoundKind.TRAIN, 4)
    exact = sum(s.weight * np.float64(updates[s.index]) for s in sites) / 210
    bound = 4 * p.clip / p.steps * p.max_weight / 210
    moved = np.float64(vector_of(world, status["versions"][1]["model"])) - START
    assert np.abs(moved - exact).max() <= bound + 1e-6  # one float32 addition on top
    assert np.abs(moved - exact).max() > 0


def test_in_a_compressed_study_shorter_vectors_make_each_version(build: Build) -> None:
    whole, half = build(), build(compression={"kind": "sparse", "share": 0.5})
    draw = np.random.default_rng(5)
    updates = {i: draw.uniform(-2, 2, SPEC.size).astype(np.float32) for i in range(1, 4)}

    def sent(index: int, number: int) -> Float32:
        public = half.plan.study.public_map(number)
        assert public is not None
        return public.forward(updates[index])

    sites = make_sites(half, update=sent)
    versions = finish(half, sites)["versions"]
    models = [np.float64(vector_of(half, version["model"])) for version in versions]
    for number in (1, 2):
        mean = np.mean([sent(i, number) for i in updates], axis=0).astype(np.float32)
        moved = models[number] - models[number - 1]
        assert np.abs(moved - spread(half.plan.study, mean, number=number)).max() < 1e-4
        assert np.count_nonzero(moved) == half.plan.study.uploaded == 6
    longer, shorter = (params_for(w.plan.study, RoundKind.TRAIN, 3) for w in (whole, half))
    assert shorter.packed_words == longer.packed_words // 2


def test_versions_form_a_chain_of_hashes_and_name_their_survivors(build: Build) -> None:
    world = build()
    versions = finish(world, make_sites(world))["versions"]
    assert [v["number"] for v in versions] == [0, 1, 2]
    assert versions[0]["model"] == world.plan.study.model.initial_model
    assert [v["parent"] for v in versions] == [None, versions[0]["model"], versions[1]["model"]]
    for version in versions:
        assert model_hash(vector_of(world, version["model"]), SPEC).hex() == version["model"]
    assert versions[1]["survivors"] == ["hospital-1", "hospital-2", "hospital-3"]


def test_nothing_opens_before_most_hospitals_have_approved(build: Build) -> None:
    world = build(approvals=1)
    sites = make_sites(world)
    for _ in range(5):
        assert not any(s.act() for s in sites)
        world.coordinator.tick()
    assert world.status["open"] is None
    second = world.identities[1]
    with pytest.raises(BadSignature):
        world.coordinator.approve(world.plan.id, second.name, sign_approval(world.plan, world.identities[2]))
    world.coordinator.approve(world.plan.id, second.name, sign_approval(world.plan, second))
    world.coordinator.tick()
    assert world.status["open"] is None  # it binds now; but the third, though in reach, takes no part yet
    third = world.identities[2]
    world.coordinator.approve(world.plan.id, third.name, sign_approval(world.plan, third))
    assert finish(world, sites)["finished"]


def test_a_hospital_that_says_it_has_left_is_not_waited_for_and_is_back_in_the_next_round(
    build: Build,
) -> None:
    world = build(hospitals=4)
    sites = make_sites(world)
    until_phase(world, sites, "commit")
    for other in (AttemptKey(world.plan.id, 9, 1), AttemptKey(world.plan.id, 1, 2)):
        world.coordinator.intake.sits_out(other, "hospital-4")
    for site in sites[:3]:
        site.act()
    world.coordinator.tick()
    assert world.status["open"]["phase"] == "commit"
    world.coordinator.intake.sits_out(AttemptKey(world.plan.id, 1, 1), "hospital-4")
    world.coordinator.tick()
    assert world.status["open"]["phase"] == "upload"
    finish(world, sites)
    survivors = [a["survivors"] for a in world.status["attempts"]]
    assert survivors[0] == ["hospital-1", "hospital-2", "hospital-3"]
    assert "hospital-4" in survivors[1]


def test_a_silent_hospital_is_not_waited_for_beyond_its_silence(build: Build) -> None:
    world = build(hospitals=4)
    sites = make_sites(world)
    until_phase(world, sites, "commit")
    started = world.clock.now
    until_phase(world, sites[:3], "upload")
    assert 19 < world.clock.now - started <= 22  # silence_s, and not train_s
    assert finish(world, sites[:3])["attempts"][0]["survivors"] == ["hospital-1", "hospital-2", "hospital-3"]


def test_a_hospital_in_reach_is_waited_for_until_the_deadline(build: Build) -> None:
    world = build(hospitals=4)
    sites = make_sites(world)
    until_phase(world, sites, "commit")
    started = world.clock.now
    while world.phase == "commit":
        for site in sites[:3]:
            site.act()
        world.coordinator.runs.touch("hospital-4")  # it polls, but its training does not end
        if not world.coordinator.tick():
            world.clock.now += 5.0
    assert 600 < world.clock.now - started <= 610
    assert world.phase == "upload"
    assert world.coordinator.instructions.work(world.plan.id, "hospital-4").status == "waiting"


@pytest.mark.parametrize("phase", leading(["commit", "advertise", "share"], 1))
def test_a_failure_before_any_upload_costs_nothing_and_is_tried_again(build: Build, phase: str) -> None:
    world = build(attempts=1)
    sites = make_sites(world)
    until_phase(world, sites, phase)
    play(world, sites[:2], until=lambda: len(world.status["attempts"]) == 1)
    failed = world.status["attempts"][0]
    assert (failed["outcome"], failed["failed_in"], failed["reason"]) == ("failed", phase, "below-threshold")
    status = finish(world, sites)
    assert [(a["round"], a["attempt"], a["outcome"]) for a in status["attempts"][1:]] == [
        (1, 2, "done"),
        (2, 1, "done"),
        (3, 1, "done"),
    ]


def test_early_failures_use_up_no_round_and_do_not_go_on_for_ever(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "MAX_EARLY_FAILURES", 4)
    world = build(attempts=1)
    sites = make_sites(world)
    for attempt in range(1, 5):
        until_phase(world, sites, "commit")
        opened = world.status["open"]
        assert (opened["round"], opened["attempt"]) == (1, attempt)
        play(world, sites[:2], until=lambda n=attempt: len(world.status["attempts"]) == n)  # type: ignore[misc]
    assert finish(world, sites)["versions"][1:] == []


def test_attempts_that_fail_at_once_wait_longer_each_time_and_the_status_says_why(build: Build) -> None:
    world = build(attempts=1)
    sites = make_sites(world)
    pauses = []
    for count in range(1, 11):
        until_phase(world, sites, "commit")
        play(world, sites[:2], until=lambda n=count: len(world.status["attempts"]) == n)  # type: ignore[misc]
        ended, told = world.clock.now, []
        while world.status["open"] is None:
            for site in sites:
                world.coordinator.runs.touch(site.name)
            told.append(world.status["waiting_for"])
            world.coordinator.tick()
            world.clock.now += 0 if world.status["open"] else 0.5
        assert told == [*[EARLY_FAILURES] * (len(told) - 1), None]
        pauses.append(world.clock.now - ended)
    assert pauses == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert finish(world, sites)["finished"]


def test_a_failure_after_uploads_is_counted_and_the_study_goes_on(build: Build) -> None:
    world = build(attempts=2)
    sites = make_sites(world)
    for attempt in (1, 2):
        until_phase(world, sites, "upload")
        assert world.status["open"]["attempt"] == attempt
        done = len(world.status["attempts"])
        play(world, sites[:2], until=lambda done=done: len(world.status["attempts"]) > done)  # type: ignore[misc]
    assert all(a["certificate"] for a in world.status["attempts"])
    status = finish(world, sites)
    assert [(a["round"], a["attempt"], a["outcome"]) for a in status["attempts"]] == [
        (1, 1, "failed"),
        (1, 2, "failed"),
        (2, 1, "done"),
        (3, 1, "done"),
    ]
    assert [v["round"] for v in status["versions"]] == [0, 2]
    assert status["versions"][1]["parent"] == world.plan.study.model.initial_model


def test_a_threshold_of_the_last_answers_is_enough(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    until_phase(world, sites, "unmask")
    play(world, sites[:2], until=lambda: len(world.status["attempts"]) == 1)
    first = world.status["attempts"][0]
    assert first["outcome"] == "done"
    assert first["survivors"] == ["hospital-1", "hospital-2", "hospital-3"]
    moved = vector_of(world, world.status["versions"][1]["model"]) - START
    assert np.allclose(moved, sum(unit(i) for i in range(1, 4)) / 3, atol=1e-4)


def test_a_hospital_that_drops_after_the_commit_leaves_an_exact_sum_of_the_others(build: Build) -> None:
    world = build(hospitals=5)
    sites = make_sites(world)
    until_phase(world, sites, "upload")
    play(world, sites[:4], until=lambda: len(world.status["versions"]) == 2)
    moved = vector_of(world, world.status["versions"][1]["model"]) - START
    assert np.allclose(moved, sum(unit(i) for i in range(1, 5)) / 4, atol=1e-4)
    assert world.status["attempts"][0]["sums"]["positives/abnormal"][:5] == [1.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("phase", leading(STEPS[::-1], 3))
def test_an_exact_repeat_changes_nothing_even_when_the_phase_has_moved_on(build: Build, phase: Phase) -> None:
    world = build(hospitals=4)
    sites = make_sites(world)
    until_phase(world, sites, phase.value)
    sites[0].act()
    number, attempt, kind, body = sites[0].sent[-1]
    before = world.dump()
    world.receive("hospital-1", number, attempt, kind, body)
    assert world.dump() == before
    if phase is Phase.UNMASK:
        return
    until_phase(world, sites, STEPS[STEPS.index(phase) + 1].value)
    before = world.dump()
    world.receive("hospital-1", number, attempt, kind, body)
    assert world.dump() == before


def test_another_message_for_a_step_already_taken_is_a_conflict(build: Build) -> None:
    world = build(hospitals=4)
    sites = make_sites(world)
    until_phase(world, sites, "advertise")
    sites[0].act()
    before = world.dump()
    work = world.coordinator.instructions.work(world.plan.id, "hospital-1")
    with pytest.raises(Conflict):
        sites[0].send("advertise", sites[0].answer(work))  # fresh keys: other bytes
    assert world.dump() == before


def test_messages_of_other_rounds_phases_and_senders_are_refused(build: Build) -> None:
    world = build(hospitals=4)
    sites = make_sites(world)
    until_phase(world, sites, "share")
    before = world.dump()
    _, _, kind, body = sites[0].sent[0]
    with pytest.raises(WrongRound):
        world.receive("hospital-1", 2, 1, kind, body)
    with pytest.raises(WrongRound):
        world.receive("hospital-1", 1, 2, kind, body)
    with pytest.raises(NotAMember):
        world.receive("hospital-2", 1, 1, kind, body)
    with pytest.raises(OutOfPhase):
        sites[0].send("ready", Ready(sender=1).to_bytes())
    with pytest.raises(OutOfPhase):
        world.take_segment("hospital-1", 1, 1, 0, bytes(8))
    assert world.dump() == before


def test_an_old_rounds_messages_cannot_be_used_in_the_next(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    until_phase(world, sites, "advertise", number=2)
    before = world.dump()
    for number, attempt, kind, body in sites[0].sent:
        if (
            kind != "unmask"
        ):  # its answer may have been lost: it is answered once more, and nothing is changed
            with pytest.raises(WrongRound):
                world.receive("hospital-1", number, attempt, kind, body)
        with pytest.raises((BadSignature, OutOfPhase)):
            world.receive("hospital-1", 2, 1, kind, body)
    assert world.dump() == before


def uploaded(world: World, sites: list[Site]) -> list[Any]:
    """Play until all uploads are in; the segment files."""
    until_phase(world, sites, "unmask")
    return sorted((world.folder / "uploads").rglob("1-*"))


@pytest.mark.parametrize("damage", leading(["flip", "gone", "cut", "empty", "longer"], 2))
def test_a_damaged_upload_is_never_summed(build: Build, damage: str) -> None:
    world = build()
    sites = make_sites(world)
    (path,) = uploaded(world, sites)
    whole = path.read_bytes()
    data = bytearray(whole)
    if damage == "gone":
        path.unlink()
    else:
        data[3] ^= 1
        changed = {"flip": bytes(data), "cut": bytes(data[:-1]), "empty": b"", "longer": bytes(data) + b"\0"}
        path.write_bytes(changed[damage])
    play(world, sites, until=lambda: world.status["waiting_for"] is not None)
    waiting = world.status["waiting_for"]
    assert (waiting["reason"], waiting["failed_in"]) == ("damaged-segment", "unmask")
    assert waiting["damaged"] == {"hospital": "hospital-1", "segment": 0}
    assert (world.phase, len(world.status["versions"])) == ("done", 1)
    path.write_bytes(whole)  # put back from a copy
    status = finish(world, sites)
    assert [(a["round"], a["outcome"]) for a in status["attempts"]] == [(r, "done") for r in (1, 2, 3)]


def test_an_upload_is_not_acknowledged_unless_its_segments_are_stored(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    until_phase(world, sites, "upload")
    work = world.coordinator.instructions.work(world.plan.id, "hospital-1")
    body = sites[0].answer(work)
    (path,) = sorted((world.folder / "uploads").rglob("1-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    before = world.dump()
    with pytest.raises(DamagedBlob):
        sites[0].send("upload", body)
    assert world.dump() == before
    world.take_segment("hospital-1", 1, 1, 0, sites[0].segments[0])
    sites[0].send("upload", body)
    world.take_segment("hospital-1", 1, 1, 0, bytes(len(sites[0].segments[0])))
    assert path.read_bytes() == sites[0].segments[0]  # signed and complete: it stays


@pytest.mark.parametrize("file", leading(["velocity", "model"], 1))
def test_a_damaged_model_or_optimiser_state_is_never_built_upon(build: Build, file: str) -> None:
    world = build(strategy={"name": "fedavgm", "options": {"momentum": 0.5}})
    sites = make_sites(world)
    until_phase(world, sites, "unmask", number=2)
    version, kept = world.store.plans.versions(world.plan.id)[-1]
    path = world.folder / "models" / (version.model if file == "model" else kept["velocity"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    whole = path.read_bytes()
    path.write_bytes(bytes(data))
    play(world, sites, until=lambda: world.status["waiting_for"] is not None)
    assert world.status["waiting_for"]["reason"] == "damaged-blob"
    assert len(world.status["versions"]) == 2
    path.write_bytes(whole)
    finish(world, sites)
    assert len(world.status["versions"]) == 3


def test_uploads_are_forgotten_when_their_attempt_is_over(build: Build) -> None:
    world = build()
    finish(world, make_sites(world))
    left = list((world.folder / "uploads").rglob("*"))
    assert left == []
    stale = world.folder / "uploads" / f"{world.plan.id[:16]}-1-1"
    stale.mkdir(parents=True)
    (stale / "1-0").write_bytes(b"left by a crash")
    world.restart()
    assert not stale.exists()


def test_shares_are_forgotten_when_their_attempt_is_over(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    finish(world, sites)
    database = (world.folder / "aggregator.db").read_bytes()
    for site in sites:
        for _, _, kind, body in site.sent:
            if kind == "unmask":
                assert body not in database
