"""PostgreSQL may die at any moment: nothing acknowledged is lost, and work goes on when it is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from aggregator.storage.blobs import StorageFailed
from aggregator.storage.database import Database, UnusableDatabase
from door import Door
from medveil.rounds import AttemptKey, Phase, RoundKind
from postgres import Cluster
from tries import leading
from world import KINDS, STEPS, World, finish, make_sites


class Writer(threading.Thread):
    """Hands in one event after the other and remembers which were acknowledged."""

    def __init__(self, world: World, key: AttemptKey) -> None:
        super().__init__(daemon=True)
        self.store, self.key = world.store, key
        self.acknowledged: set[int] = set()
        self.stop = threading.Event()
        self.times: list[float] = []

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            try:
                if self.store.transactions.in_doubt:
                    number = len(self.store.plans.events(self.key))
                    self.store.transactions.settled()
                self.store.plans.add_event(self.key, number, "advertise", number.to_bytes(4, "big"))
                self.acknowledged.add(number)
                self.times.append(time.monotonic())
                number += 1
            except StorageFailed:
                self.stop.wait(0.05)


@pytest.fixture(autouse=True)
def _up_again(cluster: Cluster) -> Iterator[None]:
    """Whatever a test did to the server, the next one finds it running."""
    yield
    if not cluster.running:
        cluster.start()


@pytest.mark.parametrize("mode", leading(["fast", "immediate"], 1))
def test_no_acknowledged_event_is_lost_when_the_server_dies(
    build: Callable[..., World], cluster: Cluster, mode: str
) -> None:
    world = build(database=cluster.url(cluster.database()), approvals=0)
    key = AttemptKey(world.plan.id, 1, 1)
    world.store.plans.open_attempt(key, kind=RoundKind.TRAIN, model="00" * 32, now=1.0)
    door, writer = Door(world), Writer(world, key)
    writer.start()
    try:
        while len(writer.acknowledged) < 20:
            time.sleep(0.005)
        for _ in range(2):
            cluster.stop(mode)
            door.refused(response := door.ask(door.hospital(), "GET", "/v1/plans"), 503, "storage-failed")
            assert int(response.headers["retry-after"]) > 0
            cluster.start()
            before = len(writer.times)
            while len(writer.times) < before + 5:
                time.sleep(0.005)
            assert door.ask(door.hospital(), "GET", "/v1/plans").status_code == 200
    finally:
        writer.stop.set()
        writer.join()
    stored = [int.from_bytes(body, "big") for _, body in world.store.plans.events(key)]
    assert stored == list(range(len(stored)))
    assert writer.acknowledged <= set(stored)
    assert len(stored) - len(writer.acknowledged) <= 2  # at most one commit a stop whose answer was lost
    assert world.store.log.verify().number == world.store.transactions.head.number
    door.service.close()


@pytest.mark.slow
def test_a_study_ends_with_the_same_result_though_the_server_dies_in_between(
    build: Callable[..., World], cluster: Cluster
) -> None:
    calm, shaken = build(), build(database=cluster.url(cluster.database()))
    finish(calm, make_sites(calm))
    sites = make_sites(shaken)
    for step in range(400):
        if step in (3, 9, 14):
            cluster.stop("immediate")
            for action in (sites[0].act, shaken.coordinator.tick):
                with suppress(StorageFailed):
                    action()
            cluster.start()
            shaken.coordinator.start_over()
            for site in sites:  # the message of a call that failed is sent again
                again(shaken, site)
        for site in sites:
            site.act()
        shaken.coordinator.tick()
        if shaken.status["finished"]:
            break
    assert [result(a) for a in shaken.status["attempts"]] == [result(a) for a in calm.status["attempts"]]


def again(world: World, site: Any) -> None:
    opened = world.status["open"]
    if opened and site.sent:
        phase = KINDS[STEPS.index(Phase(opened["phase"]))]
        if site.sent[-1][:3] == (opened["round"], opened["attempt"], phase):
            world.receive(site.name, *site.sent[-1])
            site.answered = opened["phase"]


def result(attempt: dict[str, Any]) -> list[Any]:
    return [attempt[k] for k in ("round", "attempt", "outcome", "survivors", "sums", "model")]


def test_a_server_without_a_free_connection_is_a_storage_failure(
    build: Callable[..., World], cluster: Cluster
) -> None:
    world = build(database=cluster.url(cluster.database()))
    taken: list[psycopg.Connection[Any]] = []

    def ask_when_all_are_taken() -> None:
        for _ in range(20):  # a connection that has just been closed may leave its place a moment later
            world.store.transactions._database._engine.dispose()
            with suppress(psycopg.OperationalError):
                while len(taken) < 100:
                    taken.append(psycopg.connect(host=str(cluster.folder), user="medveil", dbname="postgres"))
            world.store.register.enrolled_keys()

    with pytest.raises(StorageFailed):
        ask_when_all_are_taken()
    assert 10 < len(taken) < 100
    for link in taken:
        link.close()
    assert len(world.store.register.enrolled_keys()) == 3


@pytest.mark.slow
def test_a_server_that_loses_data_at_a_power_cut_is_refused(cluster: Cluster) -> None:
    cluster.stop()
    cluster.start(fsync="off")
    with pytest.raises(UnusableDatabase, match="fsync"):
        Database(cluster.url("postgres"))
    cluster.stop()
    cluster.start()
