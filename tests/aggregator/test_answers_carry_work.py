"""The answer to a protocol message tells its sender what is next; the message itself is kept before that."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import httpx2 as httpx
import pytest

from aggregator.access.tls import make_certificates
from door import Door
from hospital_node import attempt as attempt_module
from hospital_node.transport import Transport
from lines import make_agent
from medveil.identity import sign_request
from medveil.messages import Work
from medveil.rounds import Phase
from world import KINDS, STEPS, Site, World, make_sites, play

Build = Callable[..., World]
EVERY_KIND = ["post advertise", "post agree", "post ready", "post shares", "post unmask", "post upload"]


@pytest.fixture
def door(build: Build) -> Iterator[Door]:
    """Four hospitals, all of them asked for their keys; nobody has answered."""
    world = build(hospitals=4)
    for name in world.plan.names:
        world.coordinator.runs.touch(name)
    assert world.coordinator.tick()
    opened = Door(world)
    yield opened
    opened.service.close()


def asked(site: Site) -> Work:
    return site.world.coordinator.instructions.work(site.world.plan.id, site.name)


def request(door: Door, site: Site, *, wait_s: float = 0.0) -> tuple[str, bytes]:
    """This site's answer to what it is asked: where it goes, and its bytes."""
    work = asked(site)
    site.key = (work.round, work.attempt)
    kind = KINDS[STEPS.index(Phase(work.phase))]
    target = f"{door.at}/rounds/{work.round}/attempts/{work.attempt}/{kind}?wait_s={wait_s:g}"
    return target, site.answer(work)


def waiting(
    door: Door, target: str, body: bytes, then: Callable[[], Awaitable[None]]
) -> tuple[bool, httpx.Response]:
    """Hospital 1 hands in a message; whether it was answered before ``then`` was done, and the answer."""

    async def scene() -> tuple[bool, httpx.Response]:
        transport = httpx.ASGITransport(app=door.app)
        headers = sign_request(door.hospital(), "POST", target, body).headers()
        async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
            answer = asyncio.ensure_future(client.post(target, content=body, headers=headers))
            while "hospital-1" not in door.world.status["open"]["answered"]:
                await asyncio.sleep(0)
            while not (answer.done() or door.service.polls._resting):
                await asyncio.sleep(0)
            early = answer.done()
            await then()
            async with asyncio.timeout(20):  # less than any test here would wait for news
                return early, await answer

    return asyncio.run(scene())


def test_an_attempt_comes_with_the_proof_of_the_version_that_it_starts_from(door: Door) -> None:
    world, hospital = door.world, door.hospital()

    def told(query: str) -> Work:
        return Work.from_bytes(door.ask(hospital, "GET", f"{door.at}/work?{query}").content)

    assert told("word=0").proof == b""  # nobody has made the initial model
    play(
        world,
        make_sites(world),
        until=lambda: world.phase == "advertise" and world.status["open"]["round"] == 2,
    )
    work = told("word=0")
    asked_for = door.ask(hospital, "GET", f"{door.at}/versions/1/proof").content
    assert (work.version, work.proof) == (1, asked_for)
    assert (told("wait_s=0").version, told("wait_s=0").proof) == (None, b"")  # a node that could not read it
    play(world, make_sites(world), until=lambda: world.phase == "share")
    assert told("word=0").proof == b""


async def go_on(door: Door, others: list[Site]) -> None:
    """The other hospitals answer, and the phase closes."""
    moved = [site.act() for site in others]
    assert all(moved)
    if await door.service.run(door.world.coordinator.tick):
        door.service.announce()


def test_the_answer_comes_with_the_next_phase_and_with_the_head_of_the_audit_log(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = make_sites(door.world)
    ask, questions = door.service.lookups.ask, list[Any]()

    def noted(question: Any) -> Any:
        questions.append(question)
        return ask(question)

    monkeypatch.setattr(door.service.lookups, "ask", noted)
    target, body = request(door, first, wait_s=30)
    early, answer = waiting(door, target, body, lambda: go_on(door, others))
    assert not early
    work = Work.from_bytes(answer.content)
    assert (answer.status_code, work.status, work.phase) == (200, "running", "share")
    assert work == asked(first)
    assert work.head is not None
    assert len(questions) == 1  # who asks; after the wait the register is read on the coordinator's thread


def test_an_answer_without_news_comes_when_the_wait_is_over(door: Door) -> None:
    first = make_sites(door.world)[0]
    target, body = request(door, first, wait_s=0.05)
    work = Work.from_bytes(door.ask(first.identity, "POST", target, body).content)
    assert (work.status, work.phase, work.mark) == ("running", "advertise", asked(first).mark)


def test_a_repeat_after_a_lost_answer_gets_the_work_of_the_phase_that_came_meanwhile(door: Door) -> None:
    sites = make_sites(door.world)
    requests = [request(door, site, wait_s=0) for site in sites]
    for site, (target, body) in zip(sites, requests, strict=True):
        assert door.ask(site.identity, "POST", target, body).status_code == 200
    for process in ("the same", "a new one"):
        before = door.world.dump()
        answer = door.ask(sites[0].identity, "POST", *requests[0])
        assert (process, Work.from_bytes(answer.content).phase) == (process, "share")
        assert door.world.dump() == before
        door.world.coordinator.runs._runs.clear()
        door.world.coordinator.runs.reload()


def test_the_last_message_of_an_attempt_may_be_repeated_when_the_next_round_is_open(door: Door) -> None:
    world, sites = door.world, make_sites(door.world)
    play(world, sites, until=lambda: world.phase == "unmask")
    for site in sites:
        target, body = request(door, site)
        door.ask(site.identity, "POST", target, body)
    before = world.dump()
    answer = door.ask(sites[-1].identity, "POST", target, body)
    assert (answer.status_code, Work.from_bytes(answer.content).round) == (200, 2)
    assert world.dump() == before
    for elsewhere in (target.replace("rounds/1", "rounds/2"), target.replace("unmask", "agree")):
        assert door.ask(sites[-1].identity, "POST", elsewhere, body).status_code in (409, 422)
    door.refused(door.ask(sites[0].identity, "POST", target, body), 409, "wrong-round")


class Busy(Executor):
    """Workers that never come to an end."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        return Future()


def test_a_sum_that_is_being_unmasked_is_no_news(build: Build) -> None:
    world = build(workers=Busy())
    sites, coordinator = make_sites(world), world.coordinator
    play(world, sites, until=lambda: world.phase == "unmask")
    seen = asked(sites[0]).mark
    assert not coordinator.instructions.is_news(world.plan.id, sites[0].name, seen)
    play(world, sites, until=lambda: world.phase == "done")
    assert asked(sites[0]).mark != seen
    assert not coordinator.instructions.is_news(world.plan.id, sites[0].name, seen)


def test_a_hospital_that_is_revoked_while_it_waits_gets_no_work_and_its_message_stays(door: Door) -> None:
    first, *others = make_sites(door.world)
    target, body = request(door, first, wait_s=30)

    async def revoke_and_go_on() -> None:
        door.service.register.revoke(first.name, now=time.time())
        await go_on(door, others)

    early, answer = waiting(door, target, body, revoke_and_go_on)
    assert not early
    door.refused(answer, 403, "revoked")
    attempt = door.world.coordinator.runs._runs[door.world.plan.id].attempt
    assert attempt is not None
    assert first.index in attempt.state.advertised


def test_an_aggregator_that_is_about_to_end_answers_at_once(door: Door) -> None:
    first = make_sites(door.world)[0]
    target, body = request(door, first, wait_s=30)

    async def stop() -> None:
        door.service.stop_waiting()

    early, answer = waiting(door, target, body, stop)
    assert not early
    assert (answer.status_code, Work.from_bytes(answer.content).phase) == (200, "advertise")


def test_a_wait_that_is_no_wait_is_a_malformed_address(door: Door) -> None:
    first = make_sites(door.world)[0]
    before = door.world.dump()
    for wait_s in ("soon", "3600", "nan", "-1"):
        target, body = request(door, first)
        bad = target.replace("wait_s=0", f"wait_s={wait_s}")
        door.refused(door.ask(first.identity, "POST", bad, body), 422, "bad-request")
    assert door.world.dump() == before


def test_a_round_takes_a_node_six_messages_one_segment_the_sum_and_no_poll(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "POLL_S", 30.0)
    world = build(training={"rounds": 3, "local_steps": 1, "learning_rate": 1.0})
    door = Door(world)
    make_certificates(world.folder / "tls", ("here",))
    requests: Counter[tuple[str, int, str]] = Counter()

    async def take_part(index: int) -> None:
        identity = world.identities[index - 1]

        async def count(request: httpx.Request) -> None:
            parts, opened = request.url.path.split("/")[4:], world.status["open"]
            what = parts[4] if len(parts) > 4 else parts[-1]
            requests[identity.name, opened["round"] if opened else 0, f"{request.method.lower()} {what}"] += 1

        async with Transport("https://here", world.folder / "tls" / "ca.pem", identity) as transport:
            await transport._client.aclose()
            transport._client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app=door.app),
                base_url="https://here",
                event_hooks={"request": [count]},
            )
            agent, journal = make_agent(world, transport, index=index)
            await agent.follow()
            journal.close()

    async def scene() -> None:
        nodes = asyncio.gather(*(take_part(i) for i in (1, 2, 3)))
        while world.status["open"] is None:  # the clock of the process, until the first round
            if await door.service.run(world.coordinator.tick):
                door.service.announce()
            await asyncio.sleep(0)
        await nodes

    asyncio.run(scene())
    assert [a["outcome"] for a in world.status["attempts"]] == ["done"] * 4
    for name in world.plan.names:
        for number in (2, 3):
            taken = {what: n for (*key, what), n in requests.items() if key == [name, number]}
            assert taken == dict.fromkeys([*EVERY_KIND, "get sum", "put segments"], 1)
    door.service.close()
