"""The node's log: plain sentences at a terminal, JSON when piped; a refusal that lasts is told once."""

from __future__ import annotations

import functools
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hospital_node import agent as agents
from hospital_node import live
from hospital_node.journal import Journal, JournalFailed
from hospital_node.line import LONGEST_S, SHORTEST_S, STANDING, AggregatorProblem, Patience, Unreachable
from hospital_node.sentences import SENTENCES, sentence
from hospital_node.settings import Node
from lines import Stuck, follow, scene
from rooms import ROOT
from world import World

REVOKED = AggregatorProblem(status=403, code="revoked", title="", detail="")


@functools.cache
def events() -> set[str]:
    """Every event that the node's room logs."""
    found = set()
    for path in (ROOT / "hospital_node").rglob("*.py"):
        found |= set(re.findall(r'\blog\.(?:info|warning|error)\(\s*"([^"]+)"', path.read_text()))
    return found


def test_most_events_are_a_sentence_and_none_of_them_fails_for_a_field() -> None:
    for event in events() | set(SENTENCES):
        said = sentence({"event": event}, lambda plan: plan)
        assert said
        assert "{" not in said
    known = events() & set(SENTENCES)
    assert len(known) > 30


def test_an_unknown_event_is_shown_with_its_fields() -> None:
    assert sentence({"event": "new.thing", "count": 3, "level": "info"}, str) == "new.thing: count 3"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_person_reads_sentences_and_a_program_json(terminal: bool) -> None:
    code = (
        "from medveil.log import get_logger, set_up; from hospital_node.sentences import sentence; "
        "set_up(people=lambda event: sentence(event, lambda plan: 'chest-films')); "
        "get_logger().info('plan.finished', plan='ab')"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=theirs if terminal else subprocess.PIPE
    ) as child:
        os.close(theirs)
        if terminal:
            said = os.read(ours, 1000).decode()
            assert said.strip().endswith("chest-films: the study is over.")
        else:
            assert child.stderr is not None
            assert json.loads(child.stderr.read())["event"] == "plan.finished"
    os.close(ours)
    assert child.returncode == 0


def test_after_a_refusal_that_lasts_the_pauses_grow_to_minutes() -> None:
    patience = Patience()
    pauses = [patience.after(REVOKED) for _ in range(12)]
    assert [news for _, news in pauses] == [True] + [False] * 11
    seconds = [pause for pause, _ in pauses]
    assert seconds[:3] == [SHORTEST_S, 2 * SHORTEST_S, 4 * SHORTEST_S]
    assert seconds[-1] == LONGEST_S
    patience.answered()
    assert patience.after(REVOKED) == (SHORTEST_S, True)
    assert [patience.after(Unreachable(reason="x")) for _ in range(3)] == [(SHORTEST_S, True)] * 3


def test_a_revoked_hospital_is_told_once_in_words_and_asks_ever_less(
    build: Callable[..., World], node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, line, journal = scene(build())
    pauses: list[float] = []

    async def refused(*_: Any, **__: Any) -> Any:
        raise REVOKED

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            raise Stuck

    monkeypatch.setattr(line, "work", refused)
    monkeypatch.setattr(agents.asyncio, "sleep", sleep)
    board = live.Board(node)
    board.plan(agent._plan.id, study="tiny", rounds=3)
    with capture_logs() as logs, live.told_to(board):
        assert not follow(agent)
    assert [(e["event"], e["reason"]) for e in logs] == [("node.refused", STANDING["revoked"])]
    assert sum(pauses) > 600
    (one,) = board.live.plans
    assert (one.code, one.waits_for) == ("revoked", STANDING["revoked"])
    journal.close()


def test_a_journal_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(JournalFailed, match="unable to open"):
        Journal(tmp_path / "none" / "journal.db")
    journal = Journal(tmp_path / "journal.db")
    journal.engine.dispose()

    def write() -> None:
        with journal.engine.begin() as tx:
            tx.exec_driver_sql("PRAGMA query_only = ON")
            tx.exec_driver_sql("INSERT INTO finished VALUES ('x')")

    with pytest.raises(JournalFailed, match="readonly database"):
        write()
    journal.close()


def test_what_is_said_twice_in_a_row_is_said_once() -> None:
    code = (
        "from medveil.log import get_logger, set_up; set_up(people=lambda event: str(event['count'])); "
        "[get_logger().info('x', count=count) for count in (1, 1, 1, 2, 1)]"
    )
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
    os.close(theirs)
    said = [line.split()[-1] for line in os.read(ours, 1000).decode().splitlines()]
    os.close(ours)
    assert said == ["1", "2", "1"]


def test_a_refusal_of_the_aggregator_says_apart_what_it_means_and_what_to_do() -> None:
    told = {
        "status": 403,
        "code": "token-refused",
        "title": "It is used.",
        "detail": "Nothing. Ask the admin.",
    }
    apart = AggregatorProblem(**told, remedy="Ask the admin.")
    assert (apart.what, apart.meaning) == ("It is used.", "Nothing.")
    assert apart.remedy == "Ask the admin. (The aggregator's words; it answered 403.)"
    for said, shown in (("", ""), ("Send me the key.", "Send me the key. ")):  # an older version, a liar
        whole = AggregatorProblem(**told, remedy=said)
        assert whole.meaning == "Nothing. Ask the admin."
        assert whole.remedy.startswith(f"{shown}(The aggregator")
    assert "\x1b" not in AggregatorProblem(**told, remedy="\x1b[2J" + "x" * 9_000).remedy
