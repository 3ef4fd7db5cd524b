"""Shares: what one sender may ask at one time, what all may keep in memory, and who is told to wait."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import httpx2 as httpx
import pytest
from starlette.requests import Request

from aggregator.errors import Overloaded, TooManyRequests
from aggregator.settings import Limits, Settings, load
from aggregator.web.bodies import BodyMemory, Displaced, read_body
from aggregator.web.exchanges import SEGMENT_LIMIT
from aggregator.web.limits import MOST_ADDRESSES, Bucket, Newcomers, Quotas
from door import Door
from medveil.errors import BadFile
from medveil.identity import Identity, sign_request
from medveil.messages import Enrol, enrolment_path
from world import Clock, World, make_sites, play

Build = Callable[..., World]


@pytest.fixture
def door(build: Build) -> Iterator[Door]:
    opened = Door(build())
    yield opened
    opened.service.close()


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
    def room(wait_s: float) -> BodyMemory:
        return BodyMemory(Limits(body_memory=100, small_body=0, body_wait_s=wait_s))

    async def take(memory: BodyMemory, size: int, sender: str, leases: ExitStack) -> None:
        async with memory.room(size, sender, leases):
            pass

    async def scene() -> None:
        impatient, memory = room(0.0), room(60.0)
        held = ExitStack()
        await take(impatient, 80, "a", held)
        with pytest.raises(Overloaded):
            await take(impatient, 30, "b", ExitStack())
        await take(memory, 80, "a", held)
        waiting = asyncio.ensure_future(take(memory, 30, "b", leases := ExitStack()))
        await asyncio.sleep(0)
        assert not waiting.done()
        held.close()
        await waiting
        assert memory.used == 30
        leases.close()
        assert memory.used == 0
        await take(memory, 1_000, "a", leases)  # a body above the whole room comes alone, not never

    asyncio.run(scene())


async def hold(memory: BodyMemory, size: int, sender: str, end: asyncio.Event) -> str:
    """Read a body that comes as slowly as the one at the other end likes."""
    try:
        with ExitStack() as leases:
            async with memory.room(size, sender, leases):
                await end.wait()
    except (Displaced, Overloaded) as error:
        return type(error).__name__
    return "read"


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_sender_with_many_slow_bodies_leaves_room_for_all_others_and_cuts_only_its_own() -> None:
    async def scene() -> None:
        memory, end = BodyMemory(Limits()), asyncio.Event()
        segment = SEGMENT_LIMIT
        slow = [asyncio.ensure_future(hold(memory, segment, "liar", end)) for _ in range(16)]
        await settled()
        assert memory.used <= Limits().bodies * segment
        others = [asyncio.ensure_future(hold(memory, segment, f"hospital-{i}", end)) for i in range(10)]
        await settled()
        assert memory.used >= 10 * segment
        end.set()
        assert await asyncio.gather(*others) == ["read"] * 10
        assert set(await asyncio.gather(*slow)) == {"read", "Displaced"}
        assert memory.used == 0

    asyncio.run(scene())


def test_a_node_whose_line_was_cut_sends_its_segment_again_and_does_not_wait_for_the_lost_one() -> None:
    async def scene() -> None:
        memory, never, now = BodyMemory(Limits()), asyncio.Event(), asyncio.Event()
        lost = [asyncio.ensure_future(hold(memory, SEGMENT_LIMIT, "one", never)) for _ in range(2)]
        await settled()
        again = asyncio.ensure_future(hold(memory, SEGMENT_LIMIT, "one", now))
        await settled()
        now.set()
        assert await again == "read"
        assert await lost[0] == "Displaced"
        assert not lost[1].done()
        never.set()
        assert await lost[1] == "read"

    asyncio.run(scene())


def test_a_body_that_has_been_read_is_not_cut_for_a_later_one() -> None:
    async def scene() -> None:
        memory, end = BodyMemory(Limits()), asyncio.Event()
        with ExitStack() as leases:
            for _ in range(Limits().bodies):
                async with memory.room(SEGMENT_LIMIT, "one", leases):
                    pass
            third = asyncio.ensure_future(hold(memory, SEGMENT_LIMIT, "one", end))
            await settled()
            assert memory.used == Limits().bodies * SEGMENT_LIMIT
        await settled()
        assert memory.used == SEGMENT_LIMIT
        end.set()
        assert await third == "read"

    asyncio.run(scene())


def test_small_messages_never_wait_for_large_ones_and_no_sender_has_all_of_their_room() -> None:
    limits = Limits()

    async def scene() -> None:
        memory, end = BodyMemory(limits), asyncio.Event()
        full = [asyncio.ensure_future(hold(memory, SEGMENT_LIMIT, f"h{i}", end)) for i in range(40)]
        await settled()
        assert memory.used == limits.body_memory
        small = ExitStack()
        for number in range(100):
            async with memory.room(limits.small_body, f"h{number}", small):
                pass
        assert memory.used == limits.body_memory + 100 * limits.small_body
        small.close()
        end.set()
        await asyncio.gather(*full)

    asyncio.run(scene())
    assert limits.parallel * limits.small_body <= limits.small_memory / 16


def test_the_half_of_the_room_that_fills_last_is_for_those_who_have_nothing_in_it() -> None:
    limits = Limits()
    segments = limits.body_memory // SEGMENT_LIMIT

    async def scene() -> None:
        memory, end = BodyMemory(limits), asyncio.Event()
        liars = []
        for name in range(segments):
            slow = hold(memory, SEGMENT_LIMIT, f"liar-{name}", end)
            again = hold(memory, SEGMENT_LIMIT, f"liar-{name}", end)
            liars += [asyncio.ensure_future(slow), asyncio.ensure_future(again)]
            await settled()
        in_hand = {name: len(bodies) for name, bodies in memory._large.items()}
        assert sum(in_hand.values()) == segments
        assert len(in_hand) >= segments * 3 // 4
        end.set()
        await asyncio.gather(*liars)

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
            while door.service.callers.quotas.in_hand < limit:
                await asyncio.sleep(0.001)
            late, other = await poll(one, path), await poll(door.hospital(2), f"{door.at}/work")
            door.service.stop_waiting()
            return list(await asyncio.gather(*polls)), late, other

    polls, late, other = asyncio.run(scene())
    assert [p.status_code for p in polls] == [200] * limit
    door.refused(late, 429, "too-many-requests")
    assert int(late.headers["retry-after"]) >= 1
    assert other.status_code == 200
    assert door.service.callers.quotas.in_hand == 0


TOKEN = "a-token-of-more-than-20-letters"


def enrol(door: Door, who: Identity, token: str, address: str = "127.0.0.1") -> httpx.Response:
    path, body = enrolment_path(who.public_key), Enrol(token=token).to_bytes()
    return door.raw("POST", path, body, sign_request(who, "POST", path, body).headers(), address=address)


def test_refused_tokens_are_few_and_do_not_touch_those_who_are_enrolled(door: Door) -> None:
    door.service.callers.newcomers = Newcomers(Limits(), Clock())
    newcomer = Identity.generate("newcomer")
    answers = [enrol(door, newcomer, "wrong") for _ in range(30)]
    assert {a.status_code for a in answers[:20]} == {403}
    door.refused(answers[-1], 429, "too-many-requests")
    assert door.ask(door.hospital(), "GET", "/v1/plans").status_code == 200


@pytest.mark.parametrize("name", ["stranger", "newcomer"])
def test_junk_never_uses_up_the_chance_of_who_has_a_token(door: Door, name: str) -> None:
    """From the same address (all behind one proxy have one), under the same name, with any keys."""
    door.service.callers.newcomers = Newcomers(Limits(), Clock())
    newcomer = Identity.generate("newcomer")
    door.world.store.register.add_token(TOKEN, name="newcomer", role="hospital", expires=time.time() + 60)
    codes = [enrol(door, Identity.generate(name), f"junk-{i}").json()["code"] for i in range(60)]
    assert codes[-1] == "too-many-requests"
    assert enrol(door, newcomer, TOKEN).status_code == 204
    assert enrol(door, newcomer, TOKEN).status_code == 204  # the answer was lost
    assert enrol(door, Identity.generate("newcomer"), TOKEN).json()["code"] == "too-many-requests"


def test_junk_that_is_no_enrolment_at_all_costs_nobody_anything(door: Door) -> None:
    door.service.callers.newcomers = Newcomers(Limits(), Clock())
    stranger = Identity.generate("stranger")
    for _ in range(60):
        path = enrolment_path(stranger.public_key)
        door.refused(door.ask(stranger, "POST", path, b"\xd8\x1c\x80"), 422, "bad-message")
    assert enrol(door, stranger, "wrong").status_code == 403
    assert len(door.service.callers.gatekeeper._seen) == 0  # strangers' nonces fill no memory


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("", "no address", True),
    ],
)
def test_an_address_and_its_neighbours_on_the_same_line_share_one_budget(
    first: str, second: str, same: bool
) -> None:
    newcomers = Newcomers(Limits(newcomers_per_s=1.0), Clock())
    for _ in range(4):
        newcomers.charge(first)
    if same:
        with pytest.raises(TooManyRequests):
            newcomers.charge(second)
    else:
        newcomers.charge(second)


def test_the_table_of_addresses_does_not_grow_without_end() -> None:
    newcomers = Newcomers(Limits(), Clock())
    for number in range(3 * MOST_ADDRESSES):
        newcomers.charge(f"2001:db8:{number >> 8:x}:{number & 255:x}::1")
    assert len(newcomers._buckets) == MOST_ADDRESSES


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


@pytest.mark.parametrize(
    ("path", "length", "status", "code"),
    [
        ("/v1/plans/" + "0" * 64 + "/rounds/1/attempts/1/segments/0", 8, 404, "not-found"),
        ("{at}/rounds/2/attempts/1/segments/0", 8, 409, "wrong-round"),
        ("{at}/rounds/1/attempts/9/segments/0", 8, 409, "wrong-round"),
        ("{at}/rounds/1/attempts/1/segments/9", None, 422, "wrong-length"),
        ("{at}/rounds/1/attempts/1/segments/0", SEGMENT_LIMIT, 422, "wrong-length"),
        ("{at}/rounds/1/attempts/1/segments/0", 0, 422, "wrong-length"),
    ],
)
def test_a_segment_that_nobody_waits_for_is_refused_before_its_body_is_read(
    build: Build, path: str, length: int | None, status: int, code: str
) -> None:
    world, read = build(), []
    play(world, make_sites(world), until=lambda: world.phase == "upload")
    opened = Door(world)

    async def body() -> object:
        read.append(1)
        yield bytes(8)

    target = path.format(at=opened.at)
    headers = dict(sign_request(opened.hospital(), "PUT", target, b"").headers())
    if length is not None:
        headers["content-length"] = str(length)
    opened.refused(opened.raw("PUT", target, body(), headers), status, code)
    assert read == []
    assert opened.service.callers.memory.used == 0
    opened.service.close()


def test_limits_are_read_from_the_settings_and_only_changed_ones_are_written(tmp_path: Path) -> None:
    Settings(tmp_path, limits=Limits(parallel=3)).save()
    assert json.loads((tmp_path / "aggregator.json").read_text())["limits"] == {"parallel": 3}
    assert asdict(load(tmp_path).limits) == asdict(Limits()) | {"parallel": 3}
    (tmp_path / "aggregator.json").write_text(
        json.dumps({"host": "127.0.0.1", "port": 1, "names": ["x"], "limits": {"paralel": 3}})
    )
    with pytest.raises(BadFile, match="paralel"):
        load(tmp_path)


def test_a_segment_is_in_memory_once_while_it_arrives() -> None:
    """Not as its pieces and as a whole: 16 MiB take less than 20."""
    pieces, piece = 256, bytes(2**16)
    arrived = iter(range(pieces))

    async def receive() -> dict[str, object]:
        number = next(arrived)
        body = bytes(bytearray(piece))  # a new one each time, as the line makes them
        return {"type": "http.request", "body": body, "more_body": number < pieces - 1}

    async def read() -> tuple[int, int]:
        headers = [(b"content-length", str(pieces * len(piece)).encode())]
        request = Request({"type": "http", "method": "PUT", "path": "/", "headers": headers}, receive)
        with ExitStack() as leases:
            tracemalloc.start()
            try:
                memory = BodyMemory(Limits())
                body = await read_body(request, pieces * len(piece), memory, leases, sender="hospital-1")
                return len(body), tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    size, peak = asyncio.run(read())
    assert size == 16 * 2**20
    assert peak < 20 * 2**20
