"""Real processes over HTTPS: a hospital joins a running study by two commands, then another one leaves."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.cli import app as aggregator_app
from hospital_node import consent
from hospital_node.cli import app as node_app
from hospital_node.ledger import Ledger
from hospital_node.settings import Node
from medveil.plan import Plan
from medveil.reports import PlanStatus
from medveil.study import Deadlines
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.client import NoAnswer
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.policy import cost

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LIMIT_S, ROUNDS = 600.0, 6
JOINS, LEAVES = "hospital-4", "hospital-2"
KEY = r"(?:[0-9A-F]{4}-){7}[0-9A-F]{4}"


@dataclass
class Played:
    """What was seen."""

    plans: tuple[Plan, Plan, Plan]
    statuses: tuple[PlanStatus, PlanStatus, PlanStatus]
    shown_to_who_stays: str
    shown_to_who_joins: str
    said_to_the_admin: str
    spent: dict[str, tuple[float, float]]
    """Hospital → spent, committed."""


def typed(app: object, *words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])  # type: ignore[arg-type]
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


@contextmanager
def standing_still(consortium: LocalConsortium, *names: str) -> Iterator[None]:
    """These hospitals pause, so that no round is opened while people type."""
    nodes = [Node.load(consortium.folder / "nodes" / name) for name in names]
    for node in nodes:
        consent.pause(node)
    yield
    for node in nodes:
        consent.resume(node)


def until(
    consortium: LocalConsortium, plan: str, reached: Callable[[PlanStatus], bool], what: str
) -> PlanStatus:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        consortium.check()
        try:
            status = consortium.client.status(plan)
            if reached(status):
                return status
        except NoAnswer:
            pass
        time.sleep(0.1)
    raise AssertionError(f"in vain: {what}; last: {status}")


def amended(consortium: LocalConsortium, *change: str) -> tuple[Plan, str]:
    """The admin changes the roster of the study."""
    folder = consortium.folder / "aggregator"
    told = typed(aggregator_app, "study", "amend", "growing", *change, "--yes", "--folder", folder)
    name = re.search(r"hash ([0-9a-f]{64})", told)
    assert name is not None
    return consortium.client.plan(name[1]), told


def approved(folder: Path, plan: Plan) -> str:
    """What an operator reads of this plan, behind those that were on offer before it, and signs."""
    from medveil.spoken import spoken

    shown = typed(node_app, "approve", "--folder", folder)
    typed(node_app, "approve", *spoken(plan.hash).split(), "--yes", "--folder", folder)
    return shown[shown.index(plan.id) :]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder, before = tmp_path_factory.mktemp("amended"), Path.cwd()
    os.chdir(folder)
    write_phantom_sites(folder / "sites", profile="xray", hospitals=4, patients=20)
    options = StudyOptions(
        name="growing",
        task="classification",
        profile="xray",
        hospitals=3,
        rounds=ROUNDS,
        privacy="joint",
        epsilon=8.0,
        anyway=True,
        patients_hint=12,
        deadlines=Deadlines(**(DEADLINES | {"silence_s": 60.0})),
    )
    study, initial = new_study(options)
    sites = find_sites(folder / "sites")
    with LocalConsortium(folder, [s for s in sites if s.name != JOINS], lambda *_: None) as consortium:
        first = consortium.open(study, initial)
        until(consortium, first.id, lambda now: sum(a.done for a in now.attempts) >= 1, "a round")
        nodes, data = folder / "nodes", next(s.folder for s in sites if s.name == JOINS)
        with standing_still(consortium, "hospital-1"):
            typed(aggregator_app, "invite", JOINS, "--folder", folder / "aggregator")
            here = ("--folder", nodes / JOINS)
            cap = ("--epsilon-cap", f"{study.privacy.epsilon}", "--count-joint-noise", "--delta-cap", "1e-5")
            typed(node_app, "join", f"{JOINS}.invitation", "--data", data, "--yes", *cap, *here)
            second, said = amended(consortium, "--add", JOINS)
            stays = approved(nodes / "hospital-1", second)
            for name in ("hospital-2", "hospital-3"):
                approved(nodes / name, second)
            joins = approved(nodes / JOINS, second)
        consortium._start(JOINS, ["node", "run", "--folder", str(nodes / JOINS)])
        until(consortium, second.id, lambda now: any(JOINS in a.survivors for a in now.attempts), "four")
        with standing_still(consortium, "hospital-1", "hospital-3"):
            third, _ = amended(consortium, "--remove", LEAVES)
            for name in third.names:
                approved(nodes / name, third)
        until(consortium, third.id, lambda now: now.finished, "the end")
        plans = (first, second, third)
        statuses = tuple(consortium.client.status(plan.id) for plan in plans)
    spent = {}
    for name in ("hospital-1", LEAVES, "hospital-3", JOINS):
        with Ledger.open(nodes / name / "ledger.jsonl") as ledger:
            spent[name] = ledger.spent(), ledger.committed()
    os.chdir(before)
    return Played(plans, statuses, stays, joins, said, spent)  # type: ignore[arg-type]


def test_the_study_goes_on_through_three_rosters(played: Played) -> None:
    done = [a for status in played.statuses for a in status.attempts if a.done]
    assert [a.round for a in done] == list(range(1, ROUNDS + 2))
    assert all(status.finished for status in played.statuses)
    follows = [status.followed_by for status in played.statuses]
    assert follows == [played.plans[1].id, played.plans[2].id, None]
    numbers = [v.number for status in played.statuses for v in status.versions]
    assert sorted(set(numbers)) == list(range(ROUNDS + 1))
    by_plan = [{n for a in status.attempts for n in a.survivors} for status in played.statuses]
    assert by_plan == [set(plan.names) for plan in played.plans]


def test_the_joint_epsilon_of_all_versions_is_the_accountants(played: Played) -> None:
    study = played.plans[0].study
    for status in played.statuses:
        for version in status.versions[1:]:
            assert version.epsilon == cost(study, rounds=version.number).epsilon_joint


def test_who_stays_pays_the_study_once_and_who_joins_pays_the_rest(played: Played) -> None:
    study, both = played.plans[0].study, [a for s in played.statuses[:2] for a in s.attempts]
    tried, given = {a.round for a in both}, {a.round for a in both if a.done and LEAVES in a.survivors}
    whole = cost(study).epsilon_joint
    for name in ("hospital-1", "hospital-3"):
        assert played.spent[name][1] == pytest.approx(whole, abs=1e-9)
        assert played.spent[name][0] <= played.spent[name][1] + 1e-9
    rest = cost(study, first=played.plans[1].first_round)
    assert played.spent[JOINS][1] == pytest.approx(rest.epsilon_joint, abs=1e-9)
    rounds = range(len(given), len(tried) + 1)  # a round that was tried under two rosters is paid once
    paid = [cost(study, rounds=number).epsilon_joint for number in rounds]
    assert any(played.spent[LEAVES][0] == pytest.approx(one, abs=1e-9) for one in paid)


def test_who_stays_reads_the_difference_and_who_joins_the_whole(played: Played) -> None:
    key = re.search(rf"joins {JOINS} key ({KEY})", played.shown_to_who_stays)
    assert key is not None
    assert key[1] in played.said_to_the_admin
    assert "learns" not in played.shown_to_who_stays
    assert "spent here so far: epsilon" in played.shown_to_who_stays
    assert "learns classification" in played.shown_to_who_joins
