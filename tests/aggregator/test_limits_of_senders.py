"""Shares: what one sender may ask at one time, what all may keep in memory, and who is told to wait."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import httpx2 as httpx
import pytest

from aggregator.limits import BodyMemory, Bucket, Quotas
from aggregator.problems import Overloaded, TooManyRequests
from aggregator.routes.desk import SEGMENT_LIMIT
from aggregator.settings import Limits, Settings, load
from door import Door
from medveil.errors import BadFile
from medveil.identity import Identity, sign_request
from medveil.messages import Enrol
from world import Clock, World

Build = Callable[..., World]


@pytest.fixture
def door(build: Build) -> Iterator[Door]:
    opened = Door(build())
    yield opened
    opened.office.close()


def test_a_bucket_gives_a_burst_and_then_one_after_the_other() -> None:
    bucket = Bucket(rate=2.0, burst=3)
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(100.5) == 0.0
    assert bucket.take(100.5) > 0.0
    assert [bucket.take(1_000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_one_sender_that_asks_too_often_waits_and_the_others_do_not() -> None:
    clock = Clock()
    quotas = Quotas(Limits(requests_per_s=2.0, burst=4, parallel=100), clock)

    def ask(name: str) -> None:
        with ExitStack() as leases:
            quotas.admit(name, leases)

    for _ in range(4):
        ask("hospital-1")
    with pytest.raises(TooManyRequests) as refused:
        ask("hospital-1")
    assert 0 < refused.value.retry_after_s <= 0.5
    ask("hospital-2")
    clock.now += refused.value.retry_after_s
    ask("hospital-1")


def test_requests_in_hand_are_bounded_per_sender_and_given_back() -> None:
    quotas = Quotas(Limits(parallel=2), Clock())
    with ExitStack() as first, ExitStack() as second:
        quotas.admit("a", first)
        quotas.admit("a", second)
        with pytest.raises(TooManyRequests):
            quotas.admit("a", ExitStack())
        quotas.admit("b", first)
        assert quotas.in_hand == 3
    assert quotas.in_hand == 0


def test_bodies_wait_for_room_and_give_up_after_a_while() -> None:
    async def scene() -> None:
        impatient, memory = (BodyMemory(Limits(body_memory=100, body_wait_s=s)) for s in (0.0, 60.0))
        held = ExitStack()
        await impatient.take(80, held)
        with pytest.raises(Overloaded):
            await impatient.take(30, ExitStack())
        await memory.take(80, held)
        waiting = asyncio.ensure_future(memory.take(30, leases := ExitStack()))
        await asyncio.sleep(0)
        assert not waiting.done()
        held.close()
        await waiting
        assert memory.used == 30
        leases.close()
        assert memory.used == 0
        await memory.take(1_000, leases)  # a body above the whole room comes alone, not never

    asyncio.run(scene())


def test_the_default_room_takes_several_whole_segments_and_less_than_the_process_may_have() -> None:
    assert 8 * SEGMENT_LIMIT <= Limits().body_memory <= 256 * 2**20


def test_too_many_long_polls_of_one_hospital_are_told_when_to_come_back(door: Door) -> None:
    limit = Limits().parallel
    one, target = door.hospital(), f"{door.at}/work?seen={{}}&wait_s=30"

    async def scene() -> tuple[list[httpx.Response], httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(app=door.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:

            def poll(who: Identity, path: str) -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(
                    client.get(path, headers=sign_request(who, "GET", path, b"").headers())
                )

            path = target.format("finished%20False%200")
            polls = [poll(one, path) for _ in range(limit)]
            while door.office.quotas.in_hand < limit:
                await asyncio.sleep(0.001)
            late, other = await poll(one, path), await poll(door.hospital(2), f"{door.at}/work")
            door.office.stop_waiting()
            return list(await asyncio.gather(*polls)), late, other

    polls, late, other = asyncio.run(scene())
    assert [p.status_code for p in polls] == [200] * limit
    door.refused(late, 429, "too-many-requests")
    assert int(late.headers["retry-after"]) >= 1
    assert other.status_code == 200
    assert door.office.quotas.in_hand == 0


def test_tries_to_enrol_are_few_and_do_not_touch_those_who_are_enrolled(door: Door) -> None:
    door.office.quotas = Quotas(Limits(), Clock())
    newcomer = Identity.generate("newcomer")
    body = Enrol(token="wrong", name="newcomer", public_key=newcomer.public_key).to_bytes()
    answers = [door.ask(newcomer, "POST", "/v1/enrol", body) for _ in range(30)]
    assert {a.status_code for a in answers[:20]} == {403}
    door.refused(answers[-1], 429, "too-many-requests")
    assert door.ask(door.hospital(), "GET", "/v1/plans").status_code == 200


def test_a_stranger_cannot_make_the_aggregator_read_a_body(door: Door) -> None:
    read = []

    async def body() -> object:
        read.append(1)
        yield bytes(2**20)

    path = f"{door.at}/rounds/1/attempts/1/segments/0"
    for who in (door.stranger, Identity.generate(door.hospital().name)):
        headers = sign_request(who, "PUT", path, bytes(2**20)).headers()
        assert door.raw("PUT", path, body(), headers).status_code == 401
    assert read == []


def test_limits_are_read_from_the_settings_and_only_changed_ones_are_written(tmp_path: Path) -> None:
    Settings(tmp_path, limits=Limits(parallel=3)).save()
    assert json.loads((tmp_path / "aggregator.json").read_text())["limits"] == {"parallel": 3}
    assert asdict(load(tmp_path).limits) == asdict(Limits()) | {"parallel": 3}
    (tmp_path / "aggregator.json").write_text(
        json.dumps({"host": "127.0.0.1", "port": 1, "names": ["x"], "limits": {"paralel": 3}})
    )
    with pytest.raises(BadFile, match="paralel"):
        load(tmp_path)
