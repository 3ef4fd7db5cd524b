"""A node's folder that an earlier version has written opens as it is, and means what it meant.

The files in ``tests/vectors/node_folder`` were written by revision abba7ed: a journal (as SQL), the
contribution of a round in hand, and a plan's own model version.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hospital_node.audit_witness import AuditAlarm, AuditWitness
from hospital_node.frozen import FrozenPlans, JournalAnchor, Part
from hospital_node.journal import Alarm, Journal, ShownPlan
from hospital_node.lineage import keep_version, load_version
from hospital_node.settings import Node, NodeSettings
from hospital_node.steps import ModelInUse
from hospital_node.unsent import Unsent
from medveil.identity import Secret
from medveil.rounds import AttemptKey
from medveil.tensors import model_hash
from world import SPEC, START, make_study

WRITTEN = Path(__file__).resolve().parents[1] / "vectors" / "node_folder"
PLAN = "ab" * 32


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(
        tmp_path, NodeSettings(name="st-marys", aggregator="https://here", data=tmp_path, dataset="films")
    )
    made.models.mkdir()
    shutil.copy(WRITTEN / "unsent.sealed", made.unsent)
    shutil.copy(WRITTEN / "own-version.head", made.models / f"{PLAN}.head")
    connection = sqlite3.connect(made.journal)
    connection.executescript((WRITTEN / "journal.sql").read_text())
    connection.close()
    return made


@pytest.fixture
def journal(node: Node) -> Iterator[Journal]:
    opened = Journal(node.journal)
    yield opened
    opened.close()


def test_the_steps_that_were_taken_still_bind(journal: Journal) -> None:
    (start,) = journal.unsettled(PLAN, 0)
    assert (start.key, start.model, start.advertised) == ("1.1", b"m" * 32, (1, 2, 3))
    assert journal.uploads(PLAN, 1) == 1
    assert journal.progress(PLAN) == 1
    assert journal.progress("cd" * 32) is None  # a plan that is over
    with pytest.raises(ModelInUse):
        journal.join(AttemptKey("ef" * 32, 1, 1), model=b"m" * 32)


def test_what_was_shown_frozen_and_refused_is_still_there(journal: Journal) -> None:
    assert journal.shown() == [ShownPlan(PLAN, "{}", b"k" * 32, b"s" * 64)]
    assert journal.alarm(PLAN) == Alarm(PLAN, "broken-lineage", "why", 1, "c" * 64, "d" * 64)
    assert FrozenPlans(journal).part(PLAN) == Part("cohort:" + "e" * 64, 20, 1)
    assert JournalAnchor(journal).newest() == (3, "f" * 64)


def test_the_heads_that_were_seen_still_bear_witness(journal: Journal) -> None:
    assert [(h.kind, h.number) for h in journal.heads.all()] == [("first", 5), ("attempt", 6), ("refused", 4)]
    assert journal.heads.of_attempt(PLAN) == journal.heads.newest()
    assert AuditWitness(journal).key == b"k" * 32
    with pytest.raises(AuditAlarm, match="audit-rolled-back"):
        AuditWitness(journal).check_alarm()


def test_a_contribution_that_has_not_left_is_sent_and_not_computed_again(node: Node) -> None:
    found = Unsent(node.unsent, Secret(bytes(32))).find(f"{PLAN} 1 00")
    assert found is not None
    update, sums = found
    assert update.values.tolist() == [0.5, -0.25]
    assert sums is not None
    assert {name: values.tolist() for name, values in sums.items()} == {"a": [1.0, 2.0]}


def test_the_own_version_is_loaded_and_written_again_byte_for_byte(node: Node) -> None:
    path = node.models / f"{PLAN}.head"
    own, before = load_version(path, make_study()), path.read_bytes()
    assert own is not None
    assert (own.version, own.round, own.model) == (2, 3, model_hash(START, SPEC))
    assert np.array_equal(own.vector, START)
    assert np.array_equal(own.state["velocity"], 2 * START)
    keep_version(path, own)
    assert path.read_bytes() == before
