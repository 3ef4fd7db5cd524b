"""The HTTP door: signed, fresh, addressed to the right round; every refusal is a problem document."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import Request

from aggregator.access.signatures import Gatekeeper
from aggregator.settings import Limits
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.register import Role
from aggregator.web import app as app_module
from aggregator.web.bodies import BodyMemory, BrokenOff, read_body
from door import Door
from medveil.errors import utc
from medveil.identity import FRESHNESS_S, Identity, sign_request
from medveil.messages import Approval, PlanOffer, PlanOffers, Refusal, Work
from medveil.plan import Plan, sign_approval
from privacy.secagg import node
from privacy.secagg.messages import Agree, Shares, Unmask, Upload
from world import World, make_sites, make_world, play

Build = Callable[..., World]


def opened(world: World) -> Iterator[Door]:
    """Four hospitals in phase SHARE: hospital 1 has advertised and prepared its next message."""
    play(world, make_sites(world), until=lambda: world.phase == "share")
    door = Door(world)
    for name, role in (("outsider", "hospital"), ("researcher", "researcher"), ("nosy", "researcher")):
        door.enrolled(name, role)
    door.service.register.grant(world.plan.id, "researcher")
    yield door
    door.service.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """For all tests that change nothing."""
    world = make_world(tmp_path_factory.mktemp("shared") / "world", hospitals=4)
    yield from opened(world)
    world.store.close()


@pytest.fixture
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """The shared one where :func:`unchanged` watches it, otherwise one for the test alone."""
    if "unchanged" not in request.fixturenames:
        yield from opened(request.getfixturevalue("build")(hospitals=4))
        return
    door: Door = request.getfixturevalue("shared")
    callers = door.service.callers
    gatekeeper = callers.gatekeeper
    yield door
    callers.gatekeeper = gatekeeper
    callers.quotas._shares.clear()
    callers.newcomers._buckets.clear()


@pytest.fixture
def unchanged(door: Door) -> Iterator[None]:
    """Nothing on disk and nothing in the open attempt may change during the test."""
    before, status = door.world.dump(), door.world.status
    yield
    assert door.world.dump() == before
    assert door.world.status == status


REFUSAL = Refusal(kind="refused", reason="not now", signature=bytes(64)).to_bytes()
GOOD = [
    ("GET", "/v1/plans", b""),
    ("GET", "{at}/work", b""),
    ("GET", "{at}/status", b""),
    ("GET", "{at}", b""),
    ("POST", "{at}/approval", Approval(signature=bytes(64)).to_bytes()),
    ("POST", "{at}/refusal", REFUSAL),
    ("POST", "{at}/rounds/1/attempts/1/shares", b"?"),
    ("PUT", "{at}/rounds/1/attempts/1/segments/0", b"?"),
    ("GET", "{at}/models/" + "0" * 64, b""),
    ("GET", "{at}/versions/1/proof", b""),
    ("GET", "{at}/versions/1/sum", b""),
]
routes = pytest.mark.parametrize(("method", "path", "body"), GOOD)


@routes
@pytest.mark.usefixtures("unchanged")
def test_a_request_without_a_complete_signature_is_refused(
    door: Door, method: str, path: str, body: bytes
) -> None:
    target = path.format(at=door.at)
    door.refused(door.raw(method, target, body, {}), 401, "bad-signature")
    full = sign_request(door.hospital(), method, target, body).headers()
    for name in full:
        partial = {k: v for k, v in full.items() if k != name}
        door.refused(door.raw(method, target, body, partial), 401, "bad-signature")


@routes
@pytest.mark.usefixtures("unchanged")
def test_a_signature_by_another_key_or_over_another_request_is_refused(
    door: Door, method: str, path: str, body: bytes
) -> None:
    target = path.format(at=door.at)
    imposter = Identity.generate(door.hospital().name)
    door.refused(door.ask(imposter, method, target, body), 401, "unknown-sender")
    signed = sign_request(door.hospital(), method, target, body).headers()
    if method != "PUT":  # a segment that nobody waits for is refused before its body is read
        door.refused(door.raw(method, target, body + b"!", signed), 401, "bad-signature")
    door.refused(door.raw(method, target + "?seen=x", body, signed), 401, "unknown-sender")
    other = sign_request(door.hospital(), "DELETE", target, body).headers()
    door.refused(door.raw(method, target, body, other), 401, "unknown-sender")
    for name, value in (("MedVeil-Nonce", "0" * 32), ("MedVeil-Sender", "hospital-2")):
        door.refused(door.raw(method, target, body, signed | {name: value}), 401, "unknown-sender")


@routes
@pytest.mark.usefixtures("unchanged")
def test_somebody_who_is_not_enrolled_is_refused(door: Door, method: str, path: str, body: bytes) -> None:
    door.refused(door.ask(door.stranger, method, path.format(at=door.at), body), 401, "unknown-sender")


@pytest.mark.usefixtures("unchanged")
def test_the_same_request_is_not_carried_out_twice(door: Door) -> None:
    signed = sign_request(door.hospital(), "GET", "/v1/plans", b"").headers()
    assert door.raw("GET", "/v1/plans", b"", signed).status_code == 200
    door.refused(door.raw("GET", "/v1/plans", b"", signed), 409, "replayed-request")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("skew", [FRESHNESS_S + 5, -FRESHNESS_S - 5])
def test_a_request_from_another_time_is_refused_and_both_clocks_are_named(door: Door, skew: int) -> None:
    now = int(time.time())
    door.service.callers.gatekeeper = Gatekeeper(lambda: now + skew)
    signed = sign_request(door.hospital(), "GET", "/v1/plans", b"", now=now).headers()
    answer = door.raw("GET", "/v1/plans", b"", signed)
    door.refused(answer, 401, "stale-request")
    title = answer.json()["title"]
    assert f"{-skew:+,d} s" in title
    assert utc(now + skew) in title


@pytest.mark.usefixtures("unchanged")
def test_after_a_restart_no_request_signed_before_it_is_taken_and_the_sender_is_told_when(door: Door) -> None:
    now = int(time.time())
    signed = sign_request(door.hospital(), "GET", "/v1/plans", b"", now=now).headers()
    door.service.callers.gatekeeper = Gatekeeper(lambda: now + 20)
    answer = door.raw("GET", "/v1/plans", b"", signed)
    door.refused(answer, 503, "signed-before-start")
    assert answer.headers["retry-after"] == "20"


@routes
@pytest.mark.usefixtures("unchanged")
def test_a_body_beyond_the_limit_is_refused_before_it_is_read(
    door: Door, method: str, path: str, body: bytes
) -> None:
    target, read = path.format(at=door.at), []

    async def endless() -> Any:
        for _ in range(64):
            read.append(1)
            yield bytes(2**20)

    headers = sign_request(door.hospital(), method, target, b"").headers()
    code = (409, "out-of-phase") if method == "PUT" else (413, "too-large")
    door.refused(door.raw(method, target, endless(), headers), *code)
    assert len(read) < (1 if method == "PUT" else 6)
    for lie in ("99999999999", "-5", "9" * 400, "1e3", "²"):
        headers = sign_request(door.hospital(), method, target, body).headers()
        lying = headers | {"content-length": lie.encode("latin-1")}
        door.refused(door.raw(method, target, body, lying), 413, "too-large")


def test_a_sender_that_goes_away_in_the_middle_is_a_known_problem() -> None:
    pieces = [{"type": "http.request", "body": b"ha", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return pieces.pop(0)

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(BrokenOff):
        asyncio.run(read_body(request, 100, BodyMemory(Limits()), ExitStack(), sender="one"))


@routes
@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "encoding",
    ["gzip", *(pytest.param(e, marks=pytest.mark.slow) for e in ("deflate", "zstd", "identity, gzip"))],
)
def test_a_compressed_body_is_not_looked_at(
    door: Door, method: str, path: str, body: bytes, encoding: str
) -> None:
    target = path.format(at=door.at)
    headers = sign_request(door.hospital(), method, target, body).headers()
    answer = door.raw(method, target, body, headers | {"content-encoding": encoding})
    door.refused(answer, 415, "encoded-body")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not-found"),
        ("DELETE", "/v1/plans", 405, "method-not-allowed"),
        ("GET", "/v1/plans/short/work", 422, "bad-request"),
        ("GET", "{at}/work?wait_s=soon", 422, "bad-request"),
        ("GET", "{at}/work?wait_s=3600", 422, "bad-request"),
        ("GET", "{at}/work?wait_s=nan", 422, "bad-request"),
        ("POST", "{at}/rounds/0/attempts/1/shares", 422, "bad-request"),
        ("POST", "{at}/rounds/99999999999999999999/attempts/1/shares", 422, "bad-request"),
        ("PUT", "{at}/rounds/1/attempts/1/segments/-1", 422, "bad-request"),
        *(
            ("GET", f"{{at}}/versions/{respelt}/proof", 422, "bad-request")
            for respelt in ("+1", "01", "1_0", "%201", "1%20", "1.0", "1e0", "0x1", "%D9%A1", "%EF%BC%91")
        ),
        ("PUT", "{at}/rounds/01/attempts/1/segments/0", 422, "bad-request"),
        ("PUT", "{at}/rounds/1/attempts/+1/segments/0", 422, "bad-request"),
        ("PUT", "{at}/rounds/1/attempts/1/segments/00", 422, "bad-request"),
        ("GET", "{at}/work?sitting_out=%D9%A1.%D9%A1", 422, "bad-request"),
        ("GET", "{at}/models/..%2F..%2Fadmin.key", 404, "not-found"),
        ("GET", "{at}/models/" + "g" * 64, 422, "bad-request"),
        ("GET", "{at}/versions/0/sum", 422, "bad-request"),
        ("GET", "{at}/versions/one/proof", 422, "bad-request"),
        ("GET", "{at}/versions/1/model", 404, "not-found"),
        ("GET", "/docs", 404, "not-found"),
    ],
)
def test_a_malformed_address_is_a_problem_document_too(
    door: Door, method: str, path: str, status: int, code: str
) -> None:
    answer = door.ask(door.hospital(), method, path.format(at=door.at))
    door.refused(answer, status, code)
    assert "nan" not in answer.text


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("rounds/2/attempts/1/shares", 409, "wrong-round"),
        ("rounds/1/attempts/2/shares", 409, "wrong-round"),
        ("rounds/1/attempts/1/advertise", 422, "bad-message"),
        ("rounds/1/attempts/1/nothing", 404, "not-found"),
        ("rounds/1/attempts/1/ready", 422, "bad-message"),
    ],
)
def test_a_message_for_another_round_attempt_or_kind_is_refused(
    door: Door, path: str, status: int, code: str
) -> None:
    door.refused(door.ask(door.hospital(), "POST", f"{door.at}/{path}", b"\xa0"), status, code)


@pytest.mark.usefixtures("unchanged")
def test_a_message_in_the_wrong_phase_or_in_anothers_name_is_refused(door: Door) -> None:
    upload = Upload(sender=1, committed_hash=bytes(32), segments=(bytes(32),)).to_bytes()
    at = f"{door.at}/rounds/1/attempts/1"
    door.refused(door.ask(door.hospital(1), "POST", f"{at}/upload", upload), 409, "out-of-phase")
    door.refused(door.ask(door.hospital(2), "POST", f"{at}/upload", upload), 403, "not-a-member")
    door.refused(door.ask(door.hospital(1), "PUT", f"{at}/segments/0", bytes(8)), 409, "out-of-phase")


@pytest.mark.usefixtures("unchanged")
def test_a_message_longer_than_any_of_this_plan_is_refused_before_it_is_read(door: Door) -> None:
    path = f"{door.at}/rounds/1/attempts/1/shares"
    longest = door.world.coordinator.intake.longest_message(door.world.plan.id)
    assert longest < 4_000
    door.refused(door.ask(door.hospital(), "POST", path, bytes(longest + 1)), 413, "too-large")


def test_the_longest_messages_of_any_plan_have_room(build: Build) -> None:
    """With the largest numbers that a message can hold, for a small plan and for a large one."""
    world = build(hospitals=4)
    run = world.coordinator.runs._runs[world.plan.id]
    for size in (4, 2_000):
        hospitals = range(10_001 - size, 10_001)
        member = run.plan.roster[0]
        fake = run.plan.model_construct(
            study=run.plan.study, roster=(member,) * size, epoch=1
        )  # only its size is asked for
        longest = replace(run, plan=fake).longest_message
        shares = Shares(
            sender=10_000,
            commitment=bytes(32),
            check_commitment=bytes(32),
            share_commitments=dict.fromkeys(hospitals, bytes(32)),
            sealed=dict.fromkeys(hospitals, bytes(114)),
        )
        unmask = Unmask(
            sender=10_000, self_shares=dict.fromkeys(hospitals, bytes(33)), key_shares={}, signature=bytes(64)
        )
        agree = Agree(sender=10_000, committed_hash=bytes(32), survivors=tuple(hospitals))
        for message in (shares, unmask, agree):
            assert len(message.to_bytes()) <= longest


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("body", [b"", b"\xff", b"{}", bytes(1_500), b"\xa1" + b"\x9f" * 1_000])
def test_bytes_that_are_no_message_are_refused(door: Door, body: bytes) -> None:
    for path in ("approval", "rounds/1/attempts/1/shares"):
        door.refused(door.ask(door.hospital(), "POST", f"{door.at}/{path}", body), 422, "bad-message")


@pytest.mark.usefixtures("unchanged")
@routes
def test_a_hospital_that_is_not_on_the_roster_finds_nothing(
    door: Door, method: str, path: str, body: bytes
) -> None:
    outsider = door.known["outsider"]
    target = path.format(at=door.at)
    answer = door.ask(outsider, method, target, b"" if method == "GET" else good_body(path, body))
    if target == "/v1/plans":
        assert PlanOffers.from_bytes(answer.content).offers == ()
    else:
        door.refused(answer, 404, "not-found")


@routes
@pytest.mark.usefixtures("unchanged")
def test_a_researcher_may_look_and_nothing_else(door: Door, method: str, path: str, body: bytes) -> None:
    answer = door.ask(door.known["researcher"], method, path.format(at=door.at), body)
    if path.endswith("/status"):
        assert answer.json()["open"]["phase"] == "share"
    elif path == "{at}":
        assert Plan.model_validate(answer.json()) == door.world.plan
    elif "/models/" in path or "/versions/" in path:
        door.refused(answer, 404, "not-found")
    else:
        door.refused(answer, 403, "not-allowed")


def good_body(path: str, body: bytes) -> bytes:
    """A body that parses, so that only the address can be at fault."""
    return body if path.endswith(("approval", "refusal")) else b"\xa0"


@pytest.mark.usefixtures("unchanged")
def test_a_hospital_may_not_list_all_studies_and_a_researcher_may(door: Door) -> None:
    door.refused(door.ask(door.hospital(), "GET", "/v1/status"), 403, "not-allowed")
    (line,) = door.ask(door.known["researcher"], "GET", "/v1/status").json()
    assert line == {"plan": door.world.plan.id, "name": "tiny", "finished": False, "rounds": 0, "works": True}
    assert door.ask(door.known["nosy"], "GET", "/v1/status").json() == []


def test_the_door_lets_a_whole_round_through_and_counts_its_traffic(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    door = Door(world)
    first = sites[0]
    play(world, sites, until=lambda: world.phase == "upload")
    work = Work.from_bytes(door.ask(first.identity, "GET", f"{door.at}/work").content)
    upload = first.answer(work)
    at = f"{door.at}/rounds/1/attempts/1"
    segment = first.segments[0]
    for wrong in (segment[:-8], segment + bytes(8), b""):
        before = world.dump()
        door.refused(door.ask(first.identity, "PUT", f"{at}/segments/0", wrong), 422, "wrong-length")
        door.refused(door.ask(first.identity, "PUT", f"{at}/segments/1", segment), 422, "wrong-length")
        assert world.dump() == before
    assert door.ask(first.identity, "PUT", f"{at}/segments/0", segment).status_code == 204
    two = Upload.from_bytes(upload)
    doubled = two.model_copy(update={"segments": two.segments * 2}).to_bytes()
    door.refused(door.ask(first.identity, "POST", f"{at}/upload", doubled), 401, "bad-signature")
    assert door.ask(first.identity, "POST", f"{at}/upload", upload).status_code == 200
    before = world.dump()
    assert door.ask(first.identity, "POST", f"{at}/upload", upload).status_code == 200  # a lost answer
    assert world.dump() == before
    traffic = world.coordinator.runs._runs[world.plan.id].attempt
    assert traffic is not None
    assert traffic.bytes_up[first.name] >= len(segment) + 2 * len(upload)
    door.service.close()


def test_an_upload_of_the_wrong_number_of_segments_is_refused(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "upload")
    door, first = Door(world), sites[0]
    first.answer(world.coordinator.instructions.work(world.plan.id, first.name))
    hashes = [hashlib.sha256(first.segments[0]).digest()] * 2
    body = node.upload(first.state, hashes).to_bytes()
    before = world.dump()
    target = f"{door.at}/rounds/1/attempts/1/upload"
    door.refused(door.ask(first.identity, "POST", target, body), 422, "wrong-length")
    assert world.dump() == before
    door.service.close()


def test_fresh_keys_for_a_step_already_taken_are_a_conflict(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "advertise")
    door, first = Door(world), sites[0]
    first.act()
    other = first.answer(world.coordinator.instructions.work(world.plan.id, first.name))
    before = world.dump()
    target = f"{door.at}/rounds/1/attempts/1/advertise"
    door.refused(door.ask(first.identity, "POST", target, other), 409, "conflicting-message")
    assert world.dump() == before
    door.service.close()


def test_an_approval_is_taken_once_checked_and_may_be_repeated(build: Build) -> None:
    world = build(approvals=0)
    door, one = Door(world), world.identities[0]
    good = Approval(signature=sign_approval(world.plan, one)).to_bytes()
    forged = Approval(signature=sign_approval(world.plan, world.identities[1])).to_bytes()
    door.refused(door.ask(one, "POST", f"{door.at}/approval", forged), 401, "bad-signature")
    assert world.status["approved"] == []
    for _ in range(2):
        assert door.ask(one, "POST", f"{door.at}/approval", good).status_code == 204
    assert world.status["approved"] == [one.name]
    (offer,) = PlanOffers.from_bytes(door.ask(one, "GET", "/v1/plans").content).offers
    assert isinstance(offer, PlanOffer)
    assert (offer.plan, set(offer.approvals)) == (world.plan.model_dump_json(), {one.name})
    door.service.close()


def test_a_storage_fault_asks_the_node_to_come_back(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise StorageFailed()

    monkeypatch.setattr(door.world.coordinator.intake, "receive", fails)
    target = f"{door.at}/rounds/1/attempts/1/shares"
    door.refused(door.ask(door.hospital(), "POST", target, b"\xa0"), 503, "storage-failed")


def test_a_fault_in_one_tick_does_not_stop_the_clock() -> None:
    faults, announced = [ValueError(), OSError(), StorageFailed()], []

    class FaultyService:
        async def pause(self, _: float) -> None:
            return

        async def tick(self) -> bool:
            if faults:
                raise faults.pop()
            return True

        def announce(self) -> None:
            announced.append(True)
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(app_module._keep_time(FaultyService()))  # type: ignore[arg-type]
    assert announced == [True]
    assert faults == []


def test_a_long_poll_ends_as_soon_as_there_is_news_and_not_before(build: Build) -> None:
    world = build(approvals=0)
    door, one = Door(world), world.identities[0]

    async def scene() -> tuple[bool, Work]:
        transport = httpx.ASGITransport(app=door.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
            target = f"{door.at}/work?seen=finished%20False%200&wait_s=30"
            headers = sign_request(one, "GET", target, b"").headers()
            poll = asyncio.ensure_future(client.get(target, headers=headers))
            for _ in range(200):
                await asyncio.sleep(0)
            early = poll.done()
            for identity in world.identities:
                world.coordinator.approve(world.plan.id, identity.name, sign_approval(world.plan, identity))
                world.coordinator.runs.touch(identity.name)
            if await door.service.run(world.coordinator.tick):
                door.service.announce()
            return early, Work.from_bytes((await poll).content)

    early, work = asyncio.run(scene())
    assert not early
    assert (work.status, work.round, work.phase) == ("running", 1, "advertise")
    door.service.close()


def test_the_process_answers_monitors_without_a_signature(door: Door) -> None:
    assert door.raw("GET", "/healthz", b"", {}).json() == {"status": "ok"}


def test_what_addresses_there_are_is_told_to_those_who_have_a_key_or_a_token(door: Door) -> None:
    door.refused(door.raw("GET", "/openapi.json", b"", {}), 401, "bad-signature")
    door.refused(door.ask(door.stranger, "GET", "/openapi.json"), 401, "unknown-sender")
    for who in (door.hospital(), door.known["researcher"]):
        assert "/v1/plans" in door.ask(who, "GET", "/openapi.json").json()["paths"]
    assert door.show(door.token("watch", Role.MONITOR), "GET", "/openapi.json").status_code == 200
