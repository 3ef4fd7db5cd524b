"""A running node's own word on what it does: true, small, nobody's data in it, dead when it is dead."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hospital_node import live
from hospital_node.cli import app
from hospital_node.live import Board, Going, Live
from hospital_node.sentences import to_board
from hospital_node.settings import Node
from hospital_node.transport import Unreachable
from lines import follow, scene
from medveil.errors import BadFile
from medveil.identity import Identity
from medveil.progress import tell
from node_page import Browser, served
from world import World

PLAN = "ab" * 32


@pytest.fixture
def node(node: Node) -> Node:
    """With its key, as after ``medveil node init``."""
    Identity.generate(node.settings.name).save(node.key)
    return node


def status(node: Node, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["status", *options, "--folder", str(node.folder)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def board_of(node: Node) -> Board:
    board = Board(node)
    board.plan(PLAN, study="chest-films", rounds=4)
    return board


def test_a_node_tells_round_phase_and_whom_it_waits_for(
    build: Callable[..., World], node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build()
    agent, _, _ = scene(world)
    board, told = Board(node), []
    board.plan(world.plan.id, study=world.plan.study.name, rounds=3)
    change = board.plan

    def watched(plan: str, **changes: Any) -> None:
        change(plan, **changes)
        (one,) = board.live.plans
        told.append((one.stand, one.round, one.phase, one.waits_for))

    monkeypatch.setattr(board, "plan", watched)
    with live.told_to(board):
        assert follow(agent)
    phases = [phase for stand, number, phase, _ in told if (stand, number) == ("running", 1)]
    assert list(dict.fromkeys(phases)) == ["advertise", "share", "commit", "upload", "agree", "unmask"]
    assert ("running", 1, "commit", "this hospital's own computation") in told
    assert told[-1][0] == "finished"


def test_what_nobody_listens_to_is_told_to_nobody() -> None:
    live.note(PLAN, round=1)
    live.note_connected(True)
    live.note_problem(Unreachable(reason="no answer in time"))
    with live.followed(PLAN):
        tell("steps of training", 1, 2)


def test_the_file_is_the_owners_and_whole(node: Node) -> None:
    board = board_of(node)
    os.umask(0o000)
    try:
        board.write()
    finally:
        os.umask(0o022)
    path = live.path_of(node)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in node.folder.glob("live*")] == ["live.json"]
    assert live.read(node) == board.live
    path.write_text(path.read_text()[:-9])
    assert live.read(node) is None  # half a file is no word


def test_a_disk_that_is_full_or_closed_stops_no_node(node: Node) -> None:
    board = Board(Node(Path("/dev/null/none"), node.settings))
    board.write()
    board.close()


def test_the_name_of_a_file_stays_out_of_what_is_told(node: Node) -> None:
    board = board_of(node)
    board.problem(BadFile(name="doe-jane.dcm", problem="it is a picture of Jane Doe"))
    board.write()
    text = live.path_of(node).read_text().lower()
    assert "bad-file" in text
    assert "jane" not in text


def test_how_far_training_is_goes_away_with_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    board = board_of(node)
    monkeypatch.setattr(live, "EVERY_S", 0.0)
    also: list[Any] = []
    with live.told_to(board), live.followed(PLAN, also.append):
        tell("steps of training", 3, 12)
        (one,) = board.live.plans
        assert one.going is not None
        assert (one.going.part, one.going.done, one.going.total) == ("training", 3, 12)
        tell("images", 1, 9)
        (one,) = board.live.plans
        assert one.going is not None
        assert one.going.part == "images"
    assert board.live.plans[0].going is None
    assert len(also) == 2


def test_a_process_that_was_killed_is_told_from_one_that_lives(node: Node) -> None:
    code = (
        "import sys; from pathlib import Path; from hospital_node.live import Board; "
        "from hospital_node.settings import Node; "
        "Board(Node.load(Path(sys.argv[1]))).write(); print('there', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(node.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        child.stdout.readline()
        found = live.read(node)
        assert found is not None
        assert found.running
        child.kill()
        child.wait()
    assert not found.running
    assert status(node)[0] == 3
    later = found.model_copy(update={"pid": os.getpid()})  # the number was given to another process
    assert not later.running


@pytest.mark.parametrize(
    ("changes", "running"),
    [
        ({}, True),
        ({"stopped": True}, False),
        ({"space": "another container"}, True),
        ({"space": "another container", "updated": 0.0}, False),
    ],
)
def test_a_word_of_elsewhere_is_believed_while_it_is_new(
    node: Node, changes: dict[str, Any], running: bool
) -> None:
    told = Live.model_validate(board_of(node).live.model_dump() | changes)
    assert told.running is running


def test_status_is_five_lines_and_an_exit_code(node: Node) -> None:
    code, text = status(node)
    assert (code, len(text.splitlines())) == (3, 5)
    assert "no node has run" in text
    board = board_of(node)
    board.connected(True)
    going = Going(part="training", done=12, total=40, rate=3.2, left_s=9)
    board.plan(PLAN, stand="running", round=3, attempt=1, phase="commit", going=going, device="cuda")
    board.plan(PLAN, waits_for="this hospital's own computation")
    board.write()
    code, text = status(node)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert (code, len(lines)) == (0, 5)
    assert lines[0].startswith("connected yes, to https://here, for ")
    assert lines[1] == (
        "study chest-films: round 3 of 4, attempt 1, commit; "
        "step 12 of 40, 3.2 a second, 9 s left, on the GPU"
    )
    assert lines[2] == "waits for this hospital's own computation"
    assert lines[3] == "budget epsilon 10.00 of 10 left, at delta 1e-05"
    assert lines[4] == "last problem none"
    board.connected(False)
    board.problem(Unreachable(reason="no answer in time"))
    board.write()
    code, text = status(node)
    assert code == 1
    assert "has not answered for" in text
    assert "aggregator-unreachable" in text
    board.close()


def test_a_node_without_an_approved_study_asks_nobody_and_says_so(node: Node) -> None:
    board = Board(node)
    board.write()
    code, text = status(node)
    assert code == 0
    assert "not asked: no approved study goes on" in " ".join(text.split())
    board.problem(Unreachable(reason="no answer in time"))
    board.write()
    assert status(node)[0] == 1
    board.close()
    code, text = status(node)
    assert code == 3
    assert "it was stopped" in text


def test_status_for_programs_is_one_line_of_json(node: Node) -> None:
    board = board_of(node)
    board.connected(True)
    board.plan(PLAN, stand="waiting", code="cohort-damaged", waits_for="the folder")
    board.write()
    code, text = status(node, "--json")
    found = json.loads(text)
    assert (code, found["health"], found["running"]) == (1, 1, True)
    assert found["plans"][0]["code"] == "cohort-damaged"
    assert found["budget"]["epsilon"] == 10.0
    assert "plans" not in found["live"]


def test_a_node_that_says_nothing_for_a_minute_needs_somebody(node: Node) -> None:
    board = Board(node, clock=lambda: time.time() - 2 * live.SILENT_S)
    board.connected(True)
    board.write()
    code, text = status(node)
    assert code == 1
    assert "has told nothing" in text


def test_the_newest_lines_of_the_log_are_told_as_the_terminal_shows_them(node: Node) -> None:
    board = board_of(node)
    hear = to_board(board)
    where = {"plan": PLAN, "attempt": 1}
    hear("", {"event": "work.finished", "round": 2, **where})
    for number in range(3, 3 + live.MOST_LINES):
        for _ in range(2):  # what is said twice in a row is kept once
            hear("", {"event": "work.started", "round": number, **where})
    board.write()
    told = live.read(node)
    assert told is not None
    assert [one.words for one in told.log][-1] == "chest-films: round 22, attempt 1: computes."
    assert len(told.log) == live.MOST_LINES


def test_the_page_shows_the_newest_line_first(node: Node) -> None:
    board = board_of(node)
    for name in ("node.ready", "plan.finished"):
        to_board(board)("", {"event": name, "plan": PLAN})
    board.write()
    with served(node) as page:
        health = json.loads(Browser(page).enter().send("GET", "/health.json").text)
        assert [words for _, words in health["log"]] == [
            "chest-films: the study is over.",
            "chest-films: follows the study.",
        ]
        assert "chest-films: the study is over." in Browser(page).enter().send("GET", "/").text
