"""An agent plays its part to the end of a study, again after a restart, and its secrets stay with it."""

from __future__ import annotations

import asyncio
import base64
import io
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import structlog

from aggregator.access.tls import make_certificates
from hospital_node import attempt
from hospital_node.journal import Journal
from hospital_node.line import AggregatorProblem
from hospital_node.plan_queue import PlanQueue, run
from lines import HONEST, Line, Stuck, follow, make_agent, make_node, scene
from medveil import log
from medveil.messages import Work
from medveil.plan import Plan
from privacy.secagg.messages import Advertised, Committed, Quorum, Survivors, Unmask
from tries import leading
from world import World, make_plan, make_sites, make_study

Build = Callable[..., World]


def test_an_honest_aggregator_gets_every_message_and_the_study_ends(build: Build) -> None:
    world = build()
    agent, line, _ = scene(world)
    assert follow(agent)
    assert [kind for _, _, kind, _ in line.sent] == HONEST * 3
    status = world.status
    assert [a["outcome"] for a in status["attempts"]] == ["done"] * 3
    assert status["attempts"][2]["sums"]["positives/abnormal"][:4] == [1.0, 1.0, 1.0, 0.0]


def test_a_study_that_evaluates_at_its_end_only_sends_no_figures_before(build: Build) -> None:
    world = build(evaluation={"bins": 16, "every_round": False})
    agent, _, _ = scene(world)
    assert follow(agent)
    attempts = world.status["attempts"]
    assert [(a["outcome"], bool(a["figures"])) for a in attempts] == [("done", False)] * 2 + [("done", True)]


@pytest.mark.parametrize("inline", [0, 16_384])
def test_a_large_payload_is_decoded_on_another_thread(
    build: Build, monkeypatch: pytest.MonkeyPatch, inline: int
) -> None:
    """While it is read the node goes on answering for its other parts: signals, renewals, timeouts."""
    seen: set[tuple[str, bool]] = set()

    def watched(kind: type[Any]) -> type[Any]:
        def from_bytes(_: type[Any], data: bytes) -> Any:
            seen.add((kind.__name__, threading.current_thread() is threading.main_thread()))
            return kind.from_bytes(data)

        return type(kind.__name__, (kind,), {"from_bytes": classmethod(from_bytes)})

    kinds = (Advertised, Committed, Survivors, Quorum)
    for kind in kinds:
        monkeypatch.setattr(attempt, kind.__name__, watched(kind))
    monkeypatch.setattr("hospital_node.line.INLINE_BYTES", inline)
    agent, _, _ = scene(build())
    assert follow(agent)
    assert seen == {(kind.__name__, inline > 0) for kind in kinds}


def test_after_the_first_model_a_node_downloads_sums_only(build: Build) -> None:
    world = build()
    agent, line, _ = scene(world)
    assert follow(agent)
    assert line.fetched == ["model", "proof 1", "sum 1", "proof 2", "sum 2"]


def stuck_in(phase: str) -> Callable[[Work], Work]:
    """A node that ends as it learns of a phase."""

    def crash(work: Work) -> Work:
        if work.phase == phase:
            raise Stuck
        return work

    return crash


def test_a_node_that_comes_back_without_its_keys_sits_the_attempt_out(build: Build) -> None:
    world = build(hospitals=4)
    world.coordinator.runs.touch("hospital-1")
    line = Line(world, make_sites(world)[1:], "hospital-1")

    line.lie = stuck_in("upload")
    agent, journal = make_agent(world, line)
    assert not follow(agent)
    journal.close()
    line.lie = lambda work: work
    again, journal = make_agent(world, line)
    before = len(line.sent)
    line.left.clear()
    assert not follow(again)
    assert line.sent[before:] == []
    assert line.left == ["", "1.1"]  # and says so: nobody waits until the deadline of the training
    journal.close()


@pytest.mark.parametrize("phase", leading(["share", "commit", "upload", "agree"], 2))
def test_nobody_waits_for_a_node_that_comes_back_without_its_keys(build: Build, phase: str) -> None:
    world = build(hospitals=5)
    line = Line(world, make_sites(world)[1:], "hospital-1")

    line.lie = stuck_in(phase)
    agent, journal = make_agent(world, line)
    assert not follow(agent)
    journal.close()
    line.lie, line.waits_for_nobody = lambda work: work, True
    again, journal = make_agent(world, line)
    began = world.clock.now
    assert follow(again)
    assert world.clock.now == began  # no deadline had to pass
    assert [a["outcome"] for a in world.status["attempts"]] == ["done"] * 3
    assert "hospital-1" in world.status["attempts"][1]["survivors"]
    journal.close()


def test_a_refused_poll_is_not_repeated_at_once(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    world = build()
    agent, line, _ = scene(world)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len([p for p in pauses if p]) > 3:
            raise Stuck

    async def work(*_: object, **__: object) -> Work:
        raise AggregatorProblem(status=401, code="stale-request", title="", detail="")

    monkeypatch.setattr("hospital_node.agent.asyncio.sleep", sleep)
    line.work = work  # type: ignore[method-assign]
    assert not follow(agent)
    assert [p >= 1.0 for p in pauses] == [True] * 4


def test_no_key_share_seed_or_number_of_the_update_is_in_the_log_or_the_journal(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, drawn, real = build(), [], secrets.token_bytes

    def recorded(length: int | None = None) -> bytes:
        drawn.append(real(length))
        return drawn[-1]

    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(secrets, "token_bytes", recorded)
    log.set_up("debug")
    try:
        agent, line, journal = scene(world)
        assert follow(agent)
    finally:
        structlog.reset_defaults()
    journal.close()
    text = stream.getvalue()
    assert "update.sent" in text
    private = world.identities[0]._key.private_bytes_raw()
    given = [Unmask.from_bytes(body) for _, _, kind, body in line.sent if kind == "unmask"]
    shares = [share[1:] for message in given for share in message.self_shares.values()]
    assert len(shares) == 9
    stored = (world.folder / "nodes" / "hospital-1" / "journal.db").read_bytes()
    assert len(drawn) >= 48
    for secret in [*drawn, private, *shares, *line.segments]:
        part = secret[:8]
        assert part not in stored
        assert part.hex() not in text
        assert part.hex().encode() not in stored
        assert base64.b64encode(secret)[:10].decode() not in text
        assert repr(part)[2:-1] not in text


def test_no_image_is_read_for_a_plan_that_is_finished(build: Build) -> None:
    world = build()
    line = Line(world, make_sites(world)[1:], "hospital-1")
    agent, journal = make_agent(world, line)
    assert follow(agent)
    journal.close()
    again, journal = make_agent(world, line)
    assert follow(again)
    journal.close()
    assert [a._computation.reads for a in (agent, again)] == [1, 0]  # type: ignore[attr-defined]


def test_a_node_that_starts_again_passes_finished_plans_without_a_pause(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build()
    node_ = make_node(world, 1)
    world.identities[0].save(node_.key)
    make_certificates(world.folder / "tls", ("localhost",))
    node_.authority.write_bytes((world.folder / "tls" / "ca.pem").read_bytes())
    plans = [make_plan(world.identities, make_study(name=f"study-{number}")) for number in (1, 2, 3)]
    done: list[str] = []

    async def next_plans(queue: PlanQueue) -> Any:
        if done:
            raise Stuck
        return plans, None

    async def work_on(_: PlanQueue, plan: Plan, *__: object) -> None:
        done.append(plan.study.name)

    for plan in plans:
        with closing(Journal(node_.journal)) as journal:
            journal.approve(plan, b"signed")
    monkeypatch.setattr(PlanQueue, "next_plans", next_plans)
    monkeypatch.setattr(PlanQueue, "_work_on", work_on)
    monkeypatch.setattr("hospital_node.plan_queue.IDLE_S", 0.0)
    with pytest.raises(Stuck):
        asyncio.run(run(node_, lambda _: pytest.fail("no image is read")))
    assert done == ["study-1", "study-2", "study-3"]


@pytest.mark.slow
def test_an_agent_needs_neither_a_network_nor_a_training_engine() -> None:
    """So that many of them can be simulated in one process, over lines and contributions of another kind."""
    loaded = "import sys, hospital_node.agent; print(*sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    modules = {name.split(".")[0] for name in found.stdout.split()}
    assert "hospital_node" in modules
    assert not modules & {"torch", "opacus", "monai", "dp_accounting", "httpx2", "medveil_imaging", "typer"}
