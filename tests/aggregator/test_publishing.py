"""A finished attempt is published by jobs that may be slow, lost or repeated; the result is the same."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from aggregator.rounds import publishing
from aggregator.rounds.publishing import MAX_LOST, WORK_LIMIT_S
from aggregator.work.versions import first_version
from aggregator.work.workers import Failure, Workers
from door import Door
from medveil.identity import Secret
from medveil.plan import sign_approval
from medveil.rounds import RoundKind
from medveil.tensors import from_safetensors, model_hash, to_safetensors
from privacy.encoding import decode, params_for
from privacy.secagg import node
from privacy.secagg.keys import setting_for
from privacy.secagg.messages import Agree, Published, committed_hash
from tries import leading
from world import (
    SPEC,
    Site,
    World,
    finish,
    make_plan,
    make_sites,
    make_study,
    model_in,
    other_start,
    play,
    unit,
)

Build = Callable[..., World]


@pytest.fixture
def in_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a long vector: first the segments of the sum, then the model."""
    monkeypatch.setattr(publishing, "TOGETHER", 0)


two_steps = pytest.mark.usefixtures("in_two_steps")


class Later(Executor):
    """Keeps every job until it is told to run or lose it."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.ended = 0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ended += 1

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: job(*args, **kwargs)))
        return future

    def run(self, index: int = 0) -> None:
        future, call = self.jobs.pop(index)
        future.set_result(call())

    def end(self, *, error: Exception | None = None, result: Any = None) -> None:
        """A job that ends otherwise than by itself."""
        future, _ = self.jobs.pop(0)
        future.set_exception(error) if error else future.set_result(result)


def published(world: World) -> list[Any]:
    """What a study leaves behind, without times and traffic."""
    kept = ("round", "attempt", "outcome", "survivors", "figures", "sums", "model", "reason")
    attempts = [{k: a.get(k) for k in kept} for a in world.status["attempts"]]
    return [attempts, [(v["number"], v["model"], v["parent"]) for v in world.status["versions"]]]


def until_waiting(world: World, sites: list[Site], later: Later) -> None:
    """Play until a job waits to be run."""
    play(world, sites, until=lambda: bool(later.jobs))


def to_the_end(world: World, sites: list[Site], later: Later) -> None:
    for _ in range(100):
        play(world, sites, until=lambda: bool(later.jobs) or bool(world.status["finished"]))
        if world.status["finished"]:
            return
        later.run()
    raise AssertionError


@two_steps
def test_everything_is_served_while_a_sum_is_being_unmasked(build: Build) -> None:
    later = Later()
    world = build(workers=later)
    sites = make_sites(world)
    until_waiting(world, sites, later)
    called = []
    world.coordinator.on_result = lambda: called.append(True)
    for stage in (1, 2):
        assert not world.coordinator.tick()  # nothing to wait for in the coordinator's thread
        assert len(later.jobs) == 1
        assert world.phase == "done"
        for site in sites:
            assert not site.act()
            assert world.coordinator.instructions.work(world.plan.id, site.name).status == "waiting"
            last = site.sent[-1]
            world.receive(site.name, *last)  # a lost answer, repeated
        world.clock.now += 800.0  # no deadline ends it
        world.coordinator.tick()
        assert world.status["attempts"] == []
        later.run()
        assert len(called) >= stage
        if stage == 1:
            world.coordinator.tick()
    assert world.coordinator.tick()
    (done,) = world.status["attempts"]
    assert (done["outcome"], len(world.status["versions"])) == ("done", 2)


@two_steps
def test_a_restart_while_a_job_runs_makes_the_same_again(build: Build) -> None:
    calm = build()
    finish(calm, make_sites(calm))
    for stage in range(4):  # nothing made; the sum; the model handed in; the model made, but not stored
        later = Later()
        world = build(workers=later)
        sites = make_sites(world)
        until_waiting(world, sites, later)
        if stage > 0:
            later.run()
        if stage > 1:
            world.coordinator.tick()
        if stage > 2:
            later.run()
        later.jobs.clear()
        world.restart()
        assert world.phase == "done"
        to_the_end(world, sites, later)
        assert published(world) == published(calm)


@two_steps
def test_a_job_that_is_run_after_a_restart_has_repeated_it_does_no_harm(build: Build) -> None:
    """A worker of the old process that is a little slow to die."""
    calm = build()
    finish(calm, make_sites(calm))
    later = Later()
    world = build(workers=later)
    sites = make_sites(world)
    until_waiting(world, sites, later)
    (_, ghost) = later.jobs.pop()
    world.restart()
    until_waiting(world, sites, later)
    later.run()
    ghost()
    world.coordinator.tick()
    later.run()
    world.coordinator.tick()
    assert isinstance(ghost(), Failure)  # the uploads are gone
    to_the_end(world, sites, later)
    assert published(world) == published(calm)


@two_steps
@pytest.mark.parametrize("job", leading([0, 1], 1))
def test_a_lost_job_is_made_again_and_the_result_is_the_same(build: Build, job: int) -> None:
    calm = build()
    finish(calm, make_sites(calm))
    later = Later()
    world = build(workers=later)
    sites = make_sites(world)
    for _ in range(MAX_LOST - 1):
        until_waiting(world, sites, later)
        for _ in range(job):
            later.run()
            world.coordinator.tick()
        later.end(error=BrokenProcessPool())
        world.coordinator.tick()
    to_the_end(world, sites, later)
    assert published(world) == published(calm)


def test_a_sum_whose_jobs_are_always_lost_is_waited_for_by_name_and_tried_again(build: Build) -> None:
    calm = build()
    finish(calm, make_sites(calm))
    later = Later()
    world = build(workers=later)
    sites = make_sites(world)
    for _ in range(MAX_LOST):
        until_waiting(world, sites, later)
        later.end(error=MemoryError())
        world.coordinator.tick()
    waiting = world.status["waiting_for"]
    assert (waiting["reason"], waiting["failed_in"]) == ("unmasking-lost", "unmask")
    assert (world.phase, world.status["attempts"]) == ("done", [])
    assert not world.coordinator.tick()
    assert later.jobs == []  # not at once
    to_the_end(world, sites, later)
    assert published(world) == published(calm)


def other_plan(world: World) -> World:
    """A second study of the same hospitals on the same aggregator."""
    other = copy.copy(world)
    model = make_study().model.model_copy(update={"initial_model": model_hash(other_start(1), SPEC).hex()})
    other.plan = make_plan(world.identities, make_study(name="other", model=model))
    start = first_version(other.plan, to_safetensors(other_start(1), SPEC), world.blobs, now=1.0)
    world.store.plans.add(other.plan, bytes(64), start, 2.0)
    for one in world.identities:
        world.store.plans.add_approval(other.plan.id, one.name, sign_approval(other.plan, one))
    return other


@two_steps
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))])
def test_two_plans_that_finish_at_once_do_not_mix(build: Build, seed: int) -> None:
    later, draw = Later(), random.Random(seed)
    one = build(workers=later)
    two = other_plan(one)
    sites = [*make_sites(one), *make_sites(two, update=lambda i, _: 0.5 * unit(i))]
    play(one, sites, until=lambda: len(later.jobs) == 2)
    while not (one.status["finished"] and two.status["finished"]):
        play(
            one, sites, until=lambda: bool(later.jobs) or (one.status["finished"] and two.status["finished"])
        )
        if later.jobs:
            later.run(draw.randrange(len(later.jobs)))
    for world, share in ((one, 1 / 3), (two, 1 / 6)):
        versions = world.status["versions"]
        assert len(versions) == 3
        vectors = [from_safetensors(model_in(world.blobs, v["model"]), SPEC) for v in versions]
        for before, after in pairwise(vectors):
            assert np.allclose(after - before, share * sum(unit(i) for i in (1, 2, 3)), atol=1e-4)


def test_another_plan_goes_on_while_a_sum_is_being_unmasked(build: Build) -> None:
    later = Later()
    one = build(workers=later)
    until_waiting(one, make_sites(one), later)
    two = other_plan(one)
    play(one, make_sites(two), until=lambda: len(later.jobs) == 2)
    assert one.phase == two.phase == "done"


def test_a_storage_fault_in_a_worker_is_tried_again_like_one_here(build: Build) -> None:
    later = Later()
    world = build(workers=later)
    sites = make_sites(world)
    until_waiting(world, sites, later)
    later.end(result=Failure("storage-failed"))
    with pytest.raises(Exception, match="storage"):
        world.coordinator.tick()
    to_the_end(world, sites, later)
    assert [a["outcome"] for a in world.status["attempts"]] == ["done"] * 3


@pytest.mark.slow
def test_real_workers_make_the_same_and_a_killed_one_is_replaced(build: Build) -> None:
    calm = build()
    finish(calm, make_sites(calm))
    workers = Workers(1)
    world = build(workers=workers)
    sites = make_sites(world)
    try:
        play(world, sites, until=lambda: world.phase == "done")
        (pid,) = workers.pids
        (process,) = workers._context.started
        process.kill()
        for _ in range(200):
            attempt = world.coordinator.runs._runs[world.plan.id].attempt
            if attempt is not None and attempt.publication is not None:
                jobs = attempt.publication
                wait(jobs.parts if jobs.made is None else [jobs.made])
            for site in sites:
                site.act()
            world.coordinator.tick()
            if world.status["finished"]:
                break
        assert published(world) == published(calm)
        assert pid not in workers.pids
    finally:
        workers.shutdown()
    assert workers.pids == []


def test_the_clock_hurries_when_a_job_has_ended_and_stops_even_in_that_moment(build: Build) -> None:
    door = Door(build())

    async def scene() -> None:
        pause = asyncio.ensure_future(door.service.pause(3600.0))
        await asyncio.sleep(0)
        door.service.wake()
        await pause
        await door.service.pause(0.0)  # once is enough
        for turns in range(5):
            pause = asyncio.ensure_future(door.service.pause(3600.0))
            await asyncio.sleep(0)
            door.service.wake()
            for _ in range(turns):
                await asyncio.sleep(0)
            if pause.cancel():  # it had not ended yet
                with pytest.raises(asyncio.CancelledError):
                    await pause

    asyncio.run(scene())
    door.service.close()


def test_a_version_shows_its_sum_and_its_proof_to_the_plans_hospitals_and_to_nobody_else(
    build: Build,
) -> None:
    world = build(hospitals=5)
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "upload")
    status = finish(world, sites[:4])
    door, reader = Door(world), world.identities[4]
    study, roster = world.plan.study, {m.index: m.key for m in world.plan.roster}
    for number in (1, 2):
        at = f"{door.at}/versions/{number}"
        proof = Published.from_bytes(door.ask(reader, "GET", f"{at}/proof").content)
        answer = door.ask(reader, "GET", f"{at}/sum")
        assert answer.headers["content-length"] == str(len(answer.content))
        assert hashlib.sha256(answer.content).digest() == proof.sum_hash
        assert (proof.round, proof.attempt, proof.survivors) == (number, 1, (1, 2, 3, 4))
        before, after = (bytes.fromhex(v["model"]) for v in status["versions"][number - 1 : number + 1])
        setting = setting_for(world.plan, number=number, attempt=1, kind=RoundKind.TRAIN, model=before)
        u2_hash = committed_hash(setting.context, proof.transcript, proof.members)
        for signer, signature in proof.signatures.items():
            signed = Agree(
                sender=signer, signature=signature, committed_hash=u2_hash, survivors=proof.survivors
            )
            signed.check(roster[signer], setting.context, proof.transcript)
        assert len(proof.signatures) >= setting.threshold(5)
        params = params_for(study, RoundKind.TRAIN, 5)
        total = np.frombuffer(answer.content, "<u8")
        mean = decode(total, params, hospitals=4, study=study).mean
        start = vector(world, before.hex())
        assert np.array_equal(start + mean, vector(world, after.hex()))
        if number == 1:
            assert proof.members == (1, 2, 3, 4, 5)
    for path in ("versions/3/proof", "versions/3/sum", "versions/99999/sum"):
        door.refused(door.ask(reader, "GET", f"{door.at}/{path}"), 404, "not-found")
    assert len(list((world.folder / "sums").iterdir())) == 4  # none of the evaluation
    door.service.close()


def vector(world: World, model: str) -> Any:
    return from_safetensors(model_in(world.blobs, model), SPEC)


@pytest.mark.parametrize("file", leading(["sum", "proof"], 1))
def test_a_sum_or_proof_that_is_gone_is_a_named_problem(build: Build, file: str) -> None:
    world = build()
    done = finish(world, make_sites(world))["attempts"][0]
    (world.folder / "sums" / done[file]).unlink()
    door = Door(world)
    door.refused(door.ask(world.identities[0], "GET", f"{door.at}/versions/1/{file}"), 422, "damaged-blob")
    door.service.close()


def test_a_hospital_that_dealt_wrong_shares_is_named(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    world = build(hospitals=4)
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "share")
    real = node.shamir.split
    with monkeypatch.context() as changed:
        changed.setattr(node.shamir, "split", lambda _, *rest: real(Secret(bytes(32)), *rest))
        sites[1].act()
    (failed,) = finish(world, sites)["attempts"]  # with its dealer's help the sum could be opened
    assert (failed["reason"], failed["spoiled_by"]) == ("spoiled-round", ["hospital-2"])
    assert failed["wrong_shares"] == []


def test_a_worker_that_hangs_is_replaced_and_the_sum_made_again(build: Build) -> None:
    later = Later()
    world = build(workers=later)
    sites = make_sites(world)
    until_waiting(world, sites, later)
    world.clock.now += WORK_LIMIT_S
    world.coordinator.tick()
    assert (len(later.jobs), later.ended) == (1, 0)
    world.clock.now += 1.0
    world.coordinator.tick()
    assert later.ended == 1
    world.coordinator.tick()
    assert len(later.jobs) == 2
    later.jobs.pop(0)  # it never comes back
    to_the_end(world, sites, later)
    assert [a["outcome"] for a in world.status["attempts"]] == ["done"] * 3


def test_a_sum_that_hangs_again_and_again_is_waited_for_by_name(build: Build) -> None:
    later = Later()
    world = build(workers=later)
    sites = make_sites(world)
    for _ in range(MAX_LOST):
        until_waiting(world, sites, later)
        later.jobs.clear()
        world.clock.now += WORK_LIMIT_S + 1.0
        world.coordinator.tick()
    assert later.ended == MAX_LOST
    assert world.status["waiting_for"]["reason"] == "unmasking-stuck"
    assert len(world.status["versions"]) == 1
    to_the_end(world, sites, later)
    assert [a["outcome"] for a in world.status["attempts"]] == ["done"] * 3
