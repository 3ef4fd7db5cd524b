"""A process that stands by tells what it may tell: plans, their status, models and how they were made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.storage.register import Role
from aggregator.work.versions import first_version
from beside import Pair
from medveil.identity import Identity, sign_request
from medveil.reports import PlanStatus
from medveil.tensors import model_hash, to_safetensors
from tries import sqlite_first
from world import SPEC, World, finish, make_plan, make_sites, make_study, other_start, play

Build = Callable[..., World]
ONE_ROUND = {"rounds": 1, "local_steps": 1, "learning_rate": 1.0}


@pytest.fixture
def pair(build: Build, where: Path | str) -> Iterator[Pair]:
    made = Pair(build(training=ONE_ROUND, database=None if isinstance(where, Path) else where))
    yield made
    made.close()


@sqlite_first
def test_the_status_is_the_leaders_but_for_who_is_in_reach(pair: Pair) -> None:
    """In every phase of a study, and the same process asked again and again."""
    world, sites, phases = pair.world, make_sites(pair.world), []
    for _ in range(500):
        told, there = (json.loads(found) for found in pair.both(f"{pair.leader.at}/status"))
        assert PlanStatus.model_validate(there).in_reach is None
        told |= dict.fromkeys(("in_reach", "waiting_for"))  # too few are in reach, at first
        assert there == told
        phases.append(world.phase)
        if told["finished"]:
            break
        next((site for site in sites if site.act()), None)
        world.coordinator.tick()
    assert set(phases) >= {"", "advertise", "share", "commit", "upload", "agree", "unmask"}
    assert [a["outcome"] for a in there["attempts"]] == ["done", "done"]
    assert [v["number"] for v in there["versions"]] == [0, 1]


@sqlite_first
def test_an_attempt_that_is_given_up_is_told_by_both(pair: Pair) -> None:
    world, sites = pair.world, make_sites(pair.world)
    play(world, sites, until=lambda: world.phase == "agree")
    for site in sites[1:]:
        site.crash()
    play(world, sites[:1], until=lambda: world.phase == "abort")
    told, there = (json.loads(found) for found in pair.both(f"{pair.leader.at}/status"))
    assert there["waiting_for"] == told["waiting_for"]
    assert there["waiting_for"]["reason"] == "abort-certificate"
    play(world, sites, until=lambda: bool(world.status["attempts"]))
    path = f"{pair.leader.at}/rounds/1/certificates"
    told_bytes, there_bytes = pair.both(path)
    assert told_bytes == there_bytes != b""


def test_plans_models_sums_and_proofs_are_the_same_bytes(pair: Pair) -> None:
    finish(pair.world, make_sites(pair.world))
    model, at = pair.world.status["versions"][1]["model"], pair.leader.at
    for path in (f"{at}/models/{model}", f"{at}/versions/1/sum", f"{at}/versions/1/proof"):
        told, there = pair.both(path)
        assert told == there != b""
    researcher = pair.leader.enrolled("researcher", "researcher")
    assert [json.loads(found) for found in pair.both("/v1/status", researcher)] == [[], []]
    pair.leader.service.register.grant(pair.world.plan.id, "researcher")
    told, there = (json.loads(found) for found in pair.both("/v1/status", researcher))
    line = {"plan": pair.world.plan.id, "name": "tiny", "finished": True, "rounds": 2, "works": True}
    assert told == there == [line]


@sqlite_first
def test_rights_hold_at_a_standby_as_well(pair: Pair) -> None:
    world, path = pair.world, f"{pair.leader.at}/status"
    nosy = pair.leader.enrolled("nosy", "hospital")
    curious = pair.leader.enrolled("curious", "researcher")
    pair.leader.refused(pair.signed(nosy, path), 404, "not-found")
    pair.leader.refused(pair.signed(curious, path), 404, "not-found")
    pair.leader.refused(pair.signed(Identity.generate("hospital-1"), path), 401, "unknown-sender")
    headers = sign_request(world.identities[0], "GET", path, b"").headers()
    assert pair.there(path, headers).status_code == 200
    pair.leader.refused(pair.there(path, headers), 409, "replayed-request")
    token = {"Authorization": f"Bearer {pair.leader.token('auditor', Role.AUDITOR)}"}
    assert pair.there(path, token).status_code == 200
    monitor = {"Authorization": f"Bearer {pair.leader.token('monitor', Role.MONITOR)}"}
    pair.leader.refused(pair.there(path, monitor), 403, "not-allowed")
    pair.leader.service.register.revoke("hospital-1", now=1.0)
    pair.leader.refused(pair.signed(world.identities[0], path), 403, "revoked")


@sqlite_first
def test_whatever_a_standby_cannot_do_is_left_to_the_leader(pair: Pair) -> None:
    """502 is what a proxy passes on for: work, messages, and a file that is not there (yet)."""
    world, at = pair.world, pair.leader.at
    finish(world, make_sites(world))
    before = world.dump()
    for method, path in [
        ("GET", "/v1/plans"),
        ("GET", f"{at}/work"),
        ("POST", f"{at}/approval"),
        ("POST", f"{at}/refusal"),
        ("POST", f"{at}/rounds/1/attempts/1/advertise"),
        ("GET", "/v1/audit"),
        ("GET", "/readyz"),
        ("GET", "/leadz"),
    ]:
        pair.leader.refused(pair.signed(world.identities[0], path, method), 502, "not-leading")
    model = f"{at}/models/{world.plan.study.model.initial_model}"
    shutil.rmtree(world.folder / "models")
    pair.leader.refused(pair.signed(world.identities[0], model), 502, "not-leading")
    pair.leader.refused(pair.signed(world.identities[0], f"{at}/models/{'0' * 64}"), 404, "not-found")
    assert world.dump()[0] == before[0]


@sqlite_first
def test_what_a_standby_hears_and_hands_out_is_in_no_report(pair: Pair) -> None:
    world = pair.world
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "share")
    run = world.coordinator.runs.of(world.plan.id, "hospital-1")
    assert run.attempt is not None
    before = run.attempt.bytes_down.copy()
    assert pair.signed(world.identities[0], f"{pair.leader.at}/status").status_code == 200
    world.clock.now += 1_000.0
    assert pair.signed(world.identities[0], f"{pair.leader.at}/status").status_code == 200
    assert not world.coordinator.runs.is_in_reach(run, "hospital-1")
    assert run.attempt.bytes_down == before


def test_a_plan_that_is_made_later_is_found(pair: Pair) -> None:
    world = pair.world
    model = make_study().model.model_copy(update={"initial_model": model_hash(other_start(1), SPEC).hex()})
    plan = make_plan(world.identities, make_study(name="later", model=model))
    path = f"/v1/plans/{plan.id}/status"
    pair.leader.refused(pair.signed(world.identities[0], path), 404, "not-found")
    first = first_version(plan, to_safetensors(other_start(1), SPEC), world.blobs, now=1.0)
    world.store.plans.add(plan, world.admin.sign("create-plan", plan.hash), first, 1.0)
    told, there = (json.loads(found) for found in pair.both(path))
    assert told | {"in_reach": None} == there


def test_a_process_that_stands_by_tells_prometheus_so(pair: Pair) -> None:
    token = pair.leader.token("prometheus", Role.MONITOR)
    told = pair.there("/metrics", {"Authorization": f"Bearer {token}"})
    assert "medveil_leader 0.0" in told.text
    assert "medveil_study" not in told.text
    assert "medveil_leader 1.0" in pair.leader.show(token, "GET", "/metrics").text
