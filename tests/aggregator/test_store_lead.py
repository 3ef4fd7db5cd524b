"""One process coordinates on a database; another stands by, takes over, and shuts the old one out."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx2 as httpx
import psycopg
import pytest

import aggregator.web.app as app_module
from aggregator.admin import set_up_aggregator
from aggregator.settings import Settings
from aggregator.storage.leadlock import LEADER
from aggregator.storage.store import Store
from aggregator.storage.transactions import NotLeading
from aggregator.web.app import create_app
from databases import takes_the_lead
from medveil.identity import Identity, sign_request
from postgres import Cluster
from tries import sqlite_first
from world import World, finish, make_sites

ADMIN = Identity.generate("admin")


def test_only_one_of_two_stores_leads_until_it_is_closed(where: Path | str) -> None:
    one, other = Store(where, ADMIN), Store(where, ADMIN)
    assert one.transactions.lead()
    assert not other.transactions.lead()
    one.transactions.check_lead()
    one.register.add_token("t", name="st-marys", role="hospital", expires=9.0)
    one.close()
    assert takes_the_lead(other)
    assert [e.details["lead"] for e in other.log.entries() if e.action == "lead.taken"] == [1, 2]
    other.close()


def test_a_killed_process_leaves_the_lead_at_once(where: Path | str) -> None:
    Store(where, ADMIN).close()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store = Store(where, ADMIN)
            os.write(writing, b"y" if store.transactions.lead() else b"n")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(reading, 1) == b"y"
    other = Store(where, ADMIN)
    assert not other.transactions.lead()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    assert takes_the_lead(other)
    other.close()


def take_the_lock_away(cluster: Cluster, database: str) -> None:
    """End the connection that holds the lead, as a broken line would, and wait until it has ended."""
    with psycopg.connect(host=str(cluster.folder), user="medveil", dbname=database, autocommit=True) as link:
        link.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_locks"
            " WHERE locktype = 'advisory' AND objid = %s",
            [LEADER],
        )


def test_who_lost_the_lead_can_change_nothing(cluster: Cluster) -> None:
    name = cluster.database()
    one, other = Store(cluster.url(name), ADMIN), Store(cluster.url(name), ADMIN)
    assert one.transactions.lead()
    take_the_lock_away(cluster, name)
    one.register.add_token("a", name="st-marys", role="hospital", expires=9.0)  # nobody else leads yet
    assert takes_the_lead(other)
    with pytest.raises(NotLeading):
        one.register.enrol("a", name="st-marys", public_key=b"k" * 32, now=1.0)
    with pytest.raises(NotLeading):
        one.transactions.check_lead()
    assert other.register.enrolled_keys() == []
    other.log.verify()
    one.close()
    other.close()


def test_a_lock_that_went_with_its_connection_is_taken_again(cluster: Cluster) -> None:
    name = cluster.database()
    one, other = Store(cluster.url(name), ADMIN), Store(cluster.url(name), ADMIN)
    assert one.transactions.lead()
    take_the_lock_away(cluster, name)
    one.transactions.check_lead()
    assert not other.transactions.lead()
    one.close()
    other.close()


@sqlite_first
def test_a_second_process_stands_by_and_takes_over(
    folder: Path, where: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two applications over one database: the second reads only, until the first has ended."""
    monkeypatch.setattr(app_module, "STANDBY_S", 0.01)
    monkeypatch.setenv("MEDVEIL_DATABASE", "") if isinstance(where, Path) else monkeypatch.setenv(
        "MEDVEIL_DATABASE", where
    )
    settings = Settings(folder)
    set_up_aggregator(settings)
    somebody = Identity.generate("somebody")

    async def ask(app: object, path: str = "/v1/plans") -> httpx.Response:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
            assert (await client.get("/healthz")).status_code == 200
            proof = sign_request(somebody, "GET", path, b"")
            return await client.get(path, headers=proof.headers())

    async def scene() -> None:
        one, other = create_app(settings), create_app(settings)
        first = one.router.lifespan_context(one)
        await first.__aenter__()
        async with other.router.lifespan_context(other):
            assert (await ask(one)).json()["code"] == "unknown-sender"  # this one does its work
            refused = await ask(other)
            assert (refused.status_code, refused.json()["code"]) == (502, "not-leading")
            assert int(refused.headers["retry-after"]) > 0
            read = await ask(other, "/v1/status")
            assert read.json()["code"] in ("unknown-sender", "signed-before-start")
            await first.__aexit__(None, None, None)
            while (answer := await ask(other)).status_code == 502:
                await asyncio.sleep(0.01)
            assert answer.json()["code"] == "unknown-sender"
            assert other.state.stand_by is None

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_an_attempt_goes_on_with_the_process_that_takes_over(
    build: Callable[..., World], where: Path | str
) -> None:
    """Half of a phase is answered when the lead changes hands; nothing is lost, nothing doubled."""
    world = build(database=where)
    sites = make_sites(world)
    assert world.store.transactions.lead()
    while world.phase != "upload":
        for site in sites:
            site.act()
        world.coordinator.tick()
    sites[0].act()
    old = world.store
    old.close()
    world._open()
    assert takes_the_lead(world.store)
    assert world.status["open"]["answered"] == ["hospital-1"]
    finish(world, sites)
    first = world.status["attempts"][0]
    assert (first["outcome"], first["attempt"], first["sums"]["patients"]) == ("done", 1, [3.0])


def serving(folder: Path, database: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from medveil.cli import main; main()"]
    environment = {**os.environ, "MEDVEIL_DATABASE": database, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [*command, "aggregator", "serve", "--folder", str(folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_a_real_second_process_takes_over_when_the_first_is_killed(folder: Path, cluster: Cluster) -> None:
    """Two servers over HTTPS on one PostgreSQL database, with one folder and two ports."""
    database, ports = cluster.url(cluster.database()), []
    for _ in range(2):
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            ports.append(free.getsockname()[1])
    one = Settings(folder / "one", port=ports[0], database=database)
    set_up_aggregator(one)
    other = Settings(folder / "other", port=ports[1], database=database)
    other.save()
    for name in ("admin.key", "tls", "models", "uploads", "sums"):
        (one.folder / name).mkdir(exist_ok=True) if "." not in name else None
        (other.folder / name).symlink_to(one.folder / name)
    somebody = Identity.generate("somebody")

    def code(port: int) -> str:
        headers = sign_request(somebody, "GET", "/v1/plans", b"").headers()
        try:
            return str(client.get(f"https://localhost:{port}/v1/plans", headers=headers).json()["code"])
        except httpx.TransportError:
            return ""

    context = ssl.create_default_context(cafile=str(one.folder / "tls" / "ca.pem"))
    with httpx.Client(verify=context) as client:
        processes = [serving(one.folder, database)]
        try:
            while code(ports[0]) != "unknown-sender":
                time.sleep(0.05)
            processes.append(serving(other.folder, database))
            while code(ports[1]) != "not-leading":
                time.sleep(0.05)
            processes[0].kill()
            killed = time.monotonic()
            while code(ports[1]) == "not-leading":
                time.sleep(0.02)
            assert code(ports[1]) in ("unknown-sender", "signed-before-start")
            assert time.monotonic() - killed < 10
        finally:
            for process in processes:
                process.kill()
                process.wait()


def test_an_old_leader_that_starts_over_leaves_the_uploads_of_the_new_one(
    build: Callable[..., World], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new leader opens an attempt and takes a segment while the old one reads everything again."""
    name = cluster.database()
    world = build(database=cluster.url(name))
    old, sites = world.coordinator, make_sites(world)
    assert world.store.transactions.lead()
    list_uploads = world.blobs.uploads

    def meanwhile() -> set[str]:
        take_the_lock_away(cluster, name)
        world._open()
        assert takes_the_lead(world.store)
        while world.phase != "upload":
            for site in sites:
                site.act()
            world.coordinator.tick()
        sites[0].act()
        return list_uploads()

    old_store = world.store
    monkeypatch.setattr(world.blobs, "uploads", meanwhile)
    with pytest.raises(NotLeading):
        old.start_over()
    old_store.close()
    finish(world, sites)
    first = world.status["attempts"][0]
    assert (first["outcome"], first["attempt"], first["sums"]["patients"]) == ("done", 1, [3.0])
