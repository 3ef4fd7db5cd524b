"""A folder that an earlier commit has left is opened as it is, tells the same and goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aggregator.auditlog import Head
from aggregator.cli import app
from aggregator.storage.database import Database
from medveil.identity import Identity
from medveil.plan import Plan
from old_folders import unpack
from world import Clock, World, finish, make_sites, status_of


@dataclass
class Left:
    """The folder with its open plan, and what its status was."""

    world: World
    told: dict[str, Any]

    @property
    def head(self) -> Head:
        return Head.parse(self.told["head"])

    def status(self, plan: str) -> dict[str, Any]:
        """Without whom the aggregator has heard from lately."""
        status = status_of(self.world.coordinator, self.world.reader, plan)
        later = ("in_reach", "refusals", "away", "directive", "followed_by")
        return {name: value for name, value in status.items() if name not in later}


@pytest.fixture
def left(folder: Path) -> Iterator[Left]:
    told = unpack("database_0003.json", folder / "aggregator", database="aggregator.db")
    database, keys = folder / "aggregator" / "aggregator.db", folder / "keys"
    with closing(sqlite3.connect(database)) as link:
        rows = dict(link.execute("SELECT id, plan FROM plans"))
    Database.migrated(database).close()
    keys.mkdir()
    for name, secret in told["hospitals"].items():
        (keys / name).write_bytes(bytes.fromhex(secret))
    identities = [Identity.load(name, keys / name) for name in told["hospitals"]]
    admin = Identity.load("admin", folder / "aggregator" / "admin.key")
    plan = Plan.model_validate_json(rows[told["open"]["plan"]])
    world = World(folder / "aggregator", plan, identities, admin, Clock(), database)
    yield Left(world, told)
    world.store.close()


def test_its_plans_tell_what_they_told(left: Left) -> None:
    for told in (left.told["finished"], left.told["open"]):
        assert left.status(told["plan"]) == told


def test_its_log_is_whole_and_the_commands_read_it(left: Left) -> None:
    assert str(left.world.store.log.verify()) == str(left.head)
    at = ["--folder", str(left.world.folder)]
    for words in (["audit", "verify", "--head", str(left.head)], ["study", "status"], ["people", "list"]):
        result = CliRunner().invoke(app, [*words, *at])
        assert result.exit_code == 0, result.output


def test_its_people_may_what_they_might(left: Left) -> None:
    register = left.world.store.register
    assert [(t.name, t.role, t.revoked is not None) for t in register.api_tokens()] == [
        ("anna", "researcher", False),
        ("ben", "auditor", False),
        ("carla", "researcher", True),
        ("carla", "researcher", False),
    ]
    plans = {left.told["finished"]["plan"], left.told["open"]["plan"]}
    assert (register.readable("anna"), register.readable("carla")) == (plans, set())
    assert [(p.name, p.revoked) for p in register.enrolled_keys()] == [
        ("dora", True),
        *((name, False) for name in left.told["hospitals"]),
    ]
    assert register.opens("unused", "newcomer")
    assert left.world.store.ledger_ends.newest("hospital-1") is not None


def test_its_open_attempt_ends_and_the_plan_goes_on(left: Left) -> None:
    """The hospitals of that attempt were started again since, and say so."""
    world, sites = left.world, make_sites(left.world)
    assert world.store.transactions.lead()
    for site in sites:
        site.key = (1, 1)
        site.joined[site.key] = site.poll().model
        site.crash()
    status = finish(world, sites)
    assert [(a["round"], a["attempt"], a["outcome"]) for a in status["attempts"]] == [
        (1, 1, "failed"),
        (1, 2, "done"),
        (2, 1, "done"),
        (3, 1, "done"),
    ]
    assert status["attempts"][0]["certificate"]
    assert world.store.log.verify([left.head]).number > left.head.number
