"""The policy of a hospital: kinds of studies, sizes, hours, line and GPU; a plan outside of it is refused."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hospital_node import agent as agents
from hospital_node.cli import app
from hospital_node.governance import PlanRefused, check_terms
from hospital_node.limits import VISIBLE, Pace, confine_gpu, outside_hours, policy_rows
from hospital_node.settings import FILE, Node, NodeSettings, Policy
from hospital_node.views import changed_rows
from lines import follow, scene
from medveil.errors import BadFile
from medveil.identity import Identity
from world import World, make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 5)]


def settings(tmp_path: Path, **policy: Any) -> NodeSettings:
    return NodeSettings(
        name="hospital-1",
        aggregator="https://here",
        data=tmp_path,
        dataset="films",
        policy=Policy(**({"allow_no_privacy": True} | policy)),
    )


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"tasks": ("segmentation",)}, "its task is 'classification'"),
        ({"profiles": ("brain",)}, "its kind of image is 'xray'"),
        ({"max_upload_mb": 1e-5}, "is the most here"),
    ],
)
def test_a_plan_outside_of_the_policy_is_refused_by_name(
    tmp_path: Path, policy: dict[str, Any], words: str
) -> None:
    plan = make_plan(PEOPLE, make_study())
    check_terms(plan, settings(tmp_path), PEOPLE[0])
    with pytest.raises(PlanRefused, match=words) as refused:
        check_terms(plan, settings(tmp_path, **policy), PEOPLE[0])
    assert next(iter(policy)) in refused.value.remedy


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hours", "7-19", "19:00-07:00"),
        ("hours", "24:00-07:00", "19:00-07:00"),
        ("hours", "19:00-19:00", "begin when they end"),
        ("tasks", ["segmentaton"], "there is no task called 'segmentaton'"),
        ("profiles", ["\x1b[2J"], "there is no profile called"),
        ("tasks", [], "policy.tasks"),
        ("upload_bytes_per_s", 1000, "policy.upload_bytes_per_s"),
        ("gpu_memory_share", 1.5, "policy.gpu_memory_share"),
        ("gpu_devise", 1, "policy.gpu_devise"),
    ],
)
def test_a_policy_that_makes_no_sense_is_named_at_once(node: Node, key: str, value: Any, words: str) -> None:
    file = node.folder / FILE
    content = json.loads(file.read_text())
    content["policy"][key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(BadFile) as refused:
        Node.load(node.folder)
    assert words in refused.value.what
    assert "\x1b" not in refused.value.what


@pytest.mark.parametrize(
    ("hours", "at", "inside"),
    [
        ("19:00-07:00", "18:59", False),
        ("19:00-07:00", "19:00", True),
        ("19:00-07:00", "23:59", True),
        ("19:00-07:00", "00:00", True),
        ("19:00-07:00", "06:59", True),
        ("19:00-07:00", "07:00", False),
        ("08:30-17:00", "08:29", False),
        ("08:30-17:00", "12:00", True),
        ("08:30-17:00", "17:00", False),
    ],
)
def test_hours_may_go_over_midnight(hours: str, at: str, inside: bool) -> None:
    found = outside_hours(Policy(hours=hours), dt.datetime.fromisoformat(f"2026-03-02T{at}:00"))
    assert (found == "") is inside
    assert inside or f"nothing is joined before {hours[:5]}" in found
    assert outside_hours(Policy()) == ""


def test_outside_of_its_hours_a_node_joins_nothing_and_nobody_waits_for_it(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "outside_hours", lambda policy: "this hospital's hours")
    world = build(hospitals=4)
    agent, line, journal = scene(world)
    assert follow(agent)
    assert line.sent == []
    assert line.away
    assert all("hospital-1" not in a["survivors"] for a in world.status["attempts"])
    journal.close()


def test_bodies_go_out_at_the_policys_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("hospital_node.limits.asyncio.sleep", sleep)

    async def sent(pace: Pace, size: int) -> bytes:
        body = pace.body(bytes(size))
        return body if isinstance(body, bytes) else b"".join([piece async for piece in body])

    pace = Pace(65_536)
    assert len(asyncio.run(sent(pace, 10 * 65_536 + 1))) == 10 * 65_536 + 1
    assert waited[-1] == pytest.approx(10, abs=0.5)  # no time passes here, so each wait is the whole one
    assert isinstance(Pace(65_536).body(bytes(100)), bytes)
    at_once = len(waited)
    assert asyncio.run(sent(Pace(), 10**7)) == bytes(10**7)
    assert len(waited) == at_once


def test_no_piece_of_a_large_body_is_longer_than_what_a_line_takes_at_a_time() -> None:
    body = memoryview(bytes(range(256)) * 4096)

    async def pieces(pace: Pace) -> list[bytes]:
        found = pace.body(body)
        assert not isinstance(found, bytes)
        return [piece async for piece in found]

    for pace in (Pace(), Pace(2**40)):
        found = asyncio.run(pieces(pace))
        assert max(map(len, found)) <= 2**18
        assert b"".join(found) == bytes(body)


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        ({}, None, None),
        ({"gpu": False}, "0,1", ""),
        ({"gpu_device": 1}, None, "1"),
        ({"gpu_device": 1}, "2,3", "3"),
        ({"gpu_device": 2}, "2,3", ""),
    ],
)
def test_only_the_gpu_that_the_policy_names_is_seen(
    policy: dict[str, Any], before: str | None, after: str | None
) -> None:
    environ = {} if before is None else {VISIBLE: before}
    confine_gpu(Policy(**policy), environ)
    assert environ.get(VISIBLE) == after


def test_every_line_of_the_policy_is_shown_with_what_it_means(node: Node) -> None:
    assert [name for name, _, _ in policy_rows(Policy())] != []
    assert {name for name, _, _ in policy_rows(Policy())} == set(Policy.model_fields)
    result = CliRunner().invoke(app, ["policy", "--folder", str(node.folder)])
    assert result.exit_code == 0, result.output
    assert "epsilon_cap" in result.stdout


def test_only_what_has_changed_since_the_last_approval_is_shown(tmp_path: Path) -> None:
    before = make_plan(PEOPLE, make_study())
    training = {"rounds": 9, "local_steps": 1, "learning_rate": 1.0}
    now = make_plan(PEOPLE[:3], make_study(training=training))
    rows = [(str(mark), str(words)) for mark, words in changed_rows(before, now, settings(tmp_path))]
    assert rows[0][0] == "compared"
    was = [words for mark, words in rows if mark == "was"]
    come = [words for mark, words in rows if mark == "now"]
    assert any(words.startswith("work: 2 rounds") for words in was)
    assert any(words.startswith("work: 9 rounds") for words in come)
    assert any(words.startswith("with: hospital-4") for words in was)
    assert not any("learns:" in words or "hospital-2" in words for words in was + come)
    again = list(changed_rows(before, before, settings(tmp_path)))
    assert [str(words) for _, words in again[1:]] == [
        "nothing that an approval binds this hospital to has changed but its initial model"
    ]
