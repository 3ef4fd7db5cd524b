"""A leader that is stopped, or whose database is, gets replaced, is not ready meanwhile and writes no more.

Nothing here measures seconds, because a busy machine stretches them: tests/benchmarks/takeovers.py does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import psycopg
import pytest

from aggregator.errors import NotReady
from aggregator.storage.database import WRITERS
from aggregator.storage.store import Store
from aggregator.storage.transactions import NotLeading
from aggregator.web.readiness import Readiness
from aggregator.work.threads import Pulse, breaking_off
from door import Door
from medveil.identity import Identity
from pair import Pair, pair_of
from postgres import Cluster
from world import Clock, World

Build = Callable[..., World]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[Pair]:
    with pair_of(tmp_path_factory.mktemp("pair"), cluster) as made:
        yield made


@pytest.mark.slow
def test_a_leader_that_is_stopped_while_idle_is_replaced_and_does_not_come_back(pair: Pair) -> None:
    """Before, it led for ever."""
    leader, standby = pair.roles()
    before = pair.leaders()
    pair.freeze(leader)
    pair.wait_until_leading(standby)
    pair.thaw(leader)
    assert pair.code(leader, "/readyz") in ("not-ready", "not-leading")
    assert pair.roles() == (standby, leader)
    assert len(pair.leaders()) == len(before) + 1


@pytest.mark.slow
def test_a_leader_that_is_stopped_inside_a_write_is_replaced(pair: Pair) -> None:
    """It holds the writers' lock and never comes to its commit: the server ends its transaction."""
    leader, standby = pair.roles()
    before = pair.leaders()
    writer = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    with (
        psycopg.connect(
            host=str(pair.cluster.folder), user="medveil", dbname=pair.database, autocommit=True
        ) as ours,
        ThreadPoolExecutor(1) as asking,
    ):
        ours.execute("SELECT pg_advisory_lock(%s)", [WRITERS])
        asking.submit(pair.code, leader, "/readyz")  # it writes, to see whether it can
        pair.wait_until(lambda: pair.look(writer))
        pair.freeze(leader)
        ours.execute("SELECT pg_advisory_unlock(%s)", [WRITERS])
        pair.wait_until_leading(standby)
        pair.thaw(leader)
    assert pair.roles() == (standby, leader)
    assert len(pair.leaders()) == len(before) + 1


@pytest.mark.slow
def test_a_leader_whose_database_stops_answering_says_so_and_goes_on_with_new_sessions(pair: Pair) -> None:
    """Every backend is stopped where it stands, as by storage that hangs."""
    leader, _ = pair.roles()
    mine = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    backends = [int(str(pid)) for (pid,) in pair.look(mine, "medveil-aggregator")]
    for backend in backends:
        with suppress(ProcessLookupError):
            os.kill(backend, signal.SIGSTOP)
    try:
        pair.wait_until(lambda: pair.code(leader, "/readyz") == "not-ready")
        pair.wait_until(lambda: pair.code(leader) in ("ok", "not-leading"))
    finally:
        for backend in backends:
            with suppress(ProcessLookupError):
                os.kill(backend, signal.SIGCONT)
    pair.roles()
    pair.leaders()


def test_the_session_of_the_lead_may_not_be_idle_for_long_once_it_leads(cluster: Cluster) -> None:
    name = cluster.database()
    with closing(Store(cluster.url(name), Identity.generate("admin"))) as store:
        assert store.transactions.lead()
        held = store.transactions._database._lead._held

        def allowed() -> object:
            assert held is not None
            assert not isinstance(held, int)
            return held.exec_driver_sql("SHOW idle_session_timeout").scalar_one()

        assert allowed() == "1min"  # there may be much to read at the start
        store.transactions.check_lead()
        assert allowed() == "8s"


def test_a_coordinator_that_has_not_ticked_takes_no_request_and_is_not_ready(build: Build) -> None:
    door, clock = Door(build()), Clock()
    door.service._pulse = Pulse(clock)

    async def scene() -> None:
        await door.service.tick()
        await door.service.check_ready()
        clock.now += 6
        with pytest.raises(NotReady, match="coordinator"):
            await door.service.check_ready()
        with pytest.raises(NotReady, match="coordinator"):
            await door.service.run(door.world.coordinator.runs.all)
        await door.service.tick()
        await door.service.run(door.world.coordinator.runs.all)

    asyncio.run(scene())
    door.service.close()


def test_what_hangs_is_broken_off_once_and_its_own_error_is_what_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aggregator.work.threads.STUCK_S", 0.01)
    broken = threading.Event()

    def hangs() -> None:
        broken.wait()
        raise NotReady(parts=("database",))

    async def scene() -> None:
        with ThreadPoolExecutor(1) as thread:
            work = asyncio.get_running_loop().run_in_executor(thread, hangs)
            with pytest.raises(NotReady, match="database"):
                await breaking_off(work, broken.set)

    asyncio.run(scene())


def test_a_session_that_is_broken_off_ends_its_question_and_the_next_one_works(cluster: Cluster) -> None:
    """The question would take for ever: nothing but the end of its session can end it."""
    name = cluster.database()
    with closing(Store(cluster.url(name), Identity.generate("admin"))) as store:
        with (
            ThreadPoolExecutor(1) as thread,
            psycopg.connect(host=str(cluster.folder), user="medveil", dbname=name, autocommit=True) as ours,
        ):
            ours.execute("SELECT pg_advisory_lock(%s)", [WRITERS])
            writing = thread.submit(store.transactions.probe)
            writer = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event = 'advisory'"
            Pair.wait_until(lambda: ours.execute(writer, [name]).fetchall())
            store.transactions.break_off()
            assert type(writing.exception()).__name__ == "StorageFailed"
        store.transactions.probe()
        assert not store.transactions.in_doubt


def test_a_part_that_hangs_is_not_tried_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each look at /readyz would take one more thread away, until other parts seem to hang too."""
    monkeypatch.setattr("aggregator.web.readiness.PATIENCE_S", 0.01)
    release, tries, clock = threading.Event(), [0], Clock()

    def hangs() -> None:
        tries[0] += 1
        release.wait()

    async def scene() -> None:
        readiness = Readiness({"database": hangs, "blobs": lambda: None}, clock)
        for _ in range(3):
            with pytest.raises(NotReady) as refused:
                await readiness.check()
            assert refused.value.what == "These parts do not work: database."
            clock.now += 6
        release.set()
        readiness.close()

    asyncio.run(scene())
    assert tries == [1]


def test_a_request_at_an_old_leader_while_it_closes_is_not_leading(build: Build) -> None:
    """It was a 500: its threads take no more work."""
    door = Door(build())
    service = door.service
    service.close()
    door.refused(door.ask(door.hospital(), "GET", "/v1/plans"), 502, "not-leading")

    async def scene() -> None:
        for late in (service.run(service.coordinator.runs.all), service.with_segments(dict), service.tick()):
            with pytest.raises(NotLeading):
                await late

    asyncio.run(scene())
