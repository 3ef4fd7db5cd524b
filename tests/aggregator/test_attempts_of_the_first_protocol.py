"""Attempts that were open under the first version of the masking protocol when the program was exchanged."""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aggregator.auditlog import Head
from aggregator.storage.database import Database
from medveil.identity import Identity
from medveil.plan import Plan
from old_folders import unpack
from world import Clock, World, finish, make_sites

Left = dict[str, World]
"""By what had left the hospitals: the plan of which an attempt was open, all at one aggregator."""


@pytest.fixture
def told(folder: Path) -> dict[str, Any]:
    return unpack("aggregator_d3dd85a.json", folder, database="aggregator.db")


@pytest.fixture
def left(folder: Path, told: dict[str, Any]) -> Iterator[Left]:
    for name, secret in told["hospitals"].items():
        (folder / name).write_bytes(bytes.fromhex(secret))
    identities = [Identity.load(name, folder / name) for name in told["hospitals"]]
    admin = Identity.load("admin", folder / "admin.key")
    database = folder / "aggregator.db"
    Database.migrated(database).close()
    with closing(sqlite3.connect(database)) as link:
        texts = dict(link.execute("SELECT id, plan FROM plans"))
    plans = {name: Plan.model_validate_json(texts[one["id"]]) for name, one in told["plans"].items()}
    world = World(folder, plans["keys-out"], identities, admin, Clock(), database)
    worlds = {}
    for name, plan in plans.items():
        worlds[name] = copy.copy(world)
        worlds[name].plan = plan
    yield worlds
    world.store.close()


def ends(world: World) -> list[tuple[int, int, str, str]]:
    status = finish(world, make_sites(world))
    return [(a["round"], a["attempt"], a["outcome"], a.get("reason", "")) for a in status["attempts"]]


def test_the_folder_is_opened_as_it_was(left: Left, told: dict[str, Any]) -> None:
    for name, world in left.items():
        before, now = told["plans"][name]["status"], world.status
        assert now["attempts"] == before["attempts"]
        assert now["open"] == before["open"]
        assert now["approved"] == before["approved"]
    head = Head.parse(told["head"])
    assert world.store.log.verify([head]).number >= head.number


def test_with_keys_out_only_the_attempt_ends_and_the_round_is_tried_again(left: Left) -> None:
    assert ends(left["keys-out"]) == [
        (1, 1, "done", ""),
        (2, 1, "failed", "below-threshold"),
        (2, 2, "done", ""),
        (3, 1, "done", ""),
    ]


@pytest.mark.slow
def test_with_vectors_out_that_make_no_sum_the_plan_ends_by_name(left: Left) -> None:
    world = left["vectors-out"]
    assert ends(world) == [(1, 1, "failed", "older-protocol")]
    with world.open_model(world.plan.study.model.initial_model) as file:
        assert file.read()
    assert ends(left["keys-out"])[-1] == (3, 1, "done", "")  # it holds up no other plan


def test_a_sum_that_can_be_opened_is_published_and_the_next_round_is_of_today(left: Left) -> None:
    assert ends(left["shares-out"]) == [(1, 1, "done", ""), (2, 1, "done", ""), (3, 1, "done", "")]
