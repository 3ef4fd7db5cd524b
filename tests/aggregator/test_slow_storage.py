"""A store that takes its time over a segment holds up nobody but the hospital that sent it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

from aggregator.storage.blobs import Blobs, StorageFailed
from door import Door
from medveil.identity import sign_request
from medveil.messages import Work
from world import Site, World, finish, make_sites, play

Build = Callable[..., World]
Send = Callable[[Site, str, str, bytes], Awaitable[httpx.Response]]


class HeldBlobs(Blobs):
    """Reads and writes of segments wait until they are let go, if they are to be held."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.let_go, self.waiting, self.reads, self.full = threading.Event(), 0, 0, False
        self.let_go.set()

    def put_segment(self, attempt: str, hospital: int, number: int, data: bytes) -> None:
        self._hold()
        if self.full:
            raise StorageFailed()
        super().put_segment(attempt, hospital, number, data)

    def segment(self, attempt: str, hospital: int, number: int, digest: bytes) -> bytes:
        self.reads += 1
        self._hold()
        return super().segment(attempt, hospital, number, digest)

    def _hold(self) -> None:
        self.waiting += 1
        assert self.let_go.wait(60)
        self.waiting -= 1


class Stage:
    """A world in which everybody is to upload, and hospital 1 has its segment and message ready."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sites = make_sites(world)
        play(world, self.sites, until=lambda: world.phase == "upload")
        self.held = HeldBlobs(world.folder)
        world.coordinator.runs.blobs = self.held
        self.door, self.site = Door(world), self.sites[0]
        self.upload = self.site.answer(world.coordinator.instructions.work(world.plan.id, "hospital-1"))
        (self.data,) = self.site.segments
        (self.file,) = (world.folder / "uploads").rglob("1-0")
        self.file.unlink()
        self.at = f"{self.door.at}/rounds/1/attempts/1"

    def play(self, scene: Callable[[Stage, Send], Awaitable[None]]) -> None:
        """Run a scene of signed requests, several at a time."""

        async def whole() -> None:
            transport = httpx.ASGITransport(app=self.door.app)
            async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:

                async def send(site: Site, method: str, path: str, body: bytes = b"") -> httpx.Response:
                    headers = sign_request(site.identity, method, path, body).headers()
                    return await client.request(method, path, content=body, headers=headers)

                try:
                    await scene(self, send)
                finally:
                    self.held.let_go.set()

        asyncio.run(whole())

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Nothing of a segment gets on in here."""
        self.held.let_go.clear()
        yield
        self.held.let_go.set()

    async def held_one(self) -> None:
        """Wait until the store has something in hand."""
        while not self.held.waiting:
            await asyncio.sleep(0.001)


@pytest.fixture
def stage(build: Build) -> Iterator[Stage]:
    made = Stage(build())
    yield made
    made.door.service.close()


def test_others_are_answered_while_a_segment_is_being_written(stage: Stage) -> None:
    async def scene(stage: Stage, send: Send) -> None:
        with stage.holding():
            put = asyncio.ensure_future(send(stage.site, "PUT", f"{stage.at}/segments/0", stage.data))
            await stage.held_one()
            poll = await send(stage.sites[1], "GET", f"{stage.door.at}/work", b"")
            assert Work.from_bytes(poll.content).phase == "upload"
            assert not put.done()
        assert (await put).status_code == 204
        assert stage.file.read_bytes() == stage.data

    stage.play(scene)


def test_an_upload_is_not_taken_while_one_of_its_segments_is_being_written(stage: Stage) -> None:
    async def scene(stage: Stage, send: Send) -> None:
        first = bytes(len(stage.data))
        with stage.holding():
            put = asyncio.ensure_future(send(stage.site, "PUT", f"{stage.at}/segments/0", first))
            await stage.held_one()
            again = await send(stage.site, "PUT", f"{stage.at}/segments/0", stage.data)
            early = await send(stage.site, "POST", f"{stage.at}/upload", stage.upload)
            for refused in (again, early):
                stage.door.refused(refused, 503, "still-writing")
                assert refused.headers["retry-after"] == "1"
        assert (await put).status_code == 204
        for method, path, body in [
            ("PUT", f"{stage.at}/segments/0", stage.data),
            ("POST", f"{stage.at}/upload", stage.upload),
        ]:
            assert (await send(stage.site, method, path, body)).status_code < 300

    stage.play(scene)
    world = stage.world
    stage.site.answered = "upload"
    assert [a["outcome"] for a in finish(world, stage.sites)["attempts"]] == ["done"] * 3


def test_others_are_answered_while_an_upload_is_read_back_and_it_is_read_once(stage: Stage) -> None:
    async def scene(stage: Stage, send: Send) -> None:
        assert (await send(stage.site, "PUT", f"{stage.at}/segments/0", stage.data)).status_code == 204
        with stage.holding():
            message = asyncio.ensure_future(send(stage.site, "POST", f"{stage.at}/upload", stage.upload))
            await stage.held_one()
            poll = await send(stage.sites[1], "GET", f"{stage.door.at}/work", b"")
            assert Work.from_bytes(poll.content).phase == "upload"
            assert not message.done()
        assert (await message).status_code < 300
        assert stage.held.reads == 1

    stage.play(scene)


def test_a_segment_written_after_the_reading_back_makes_it_be_read_anew(stage: Stage) -> None:
    coordinator, plan = stage.world.coordinator, stage.world.plan.id
    stage.world.take_segment("hospital-1", 1, 1, 0, stage.data)
    coordinator.intake.read_back(plan, "hospital-1", stage.upload)
    stage.world.take_segment("hospital-1", 1, 1, 0, bytes(len(stage.data)))
    answer = stage.door.ask(stage.site.identity, "POST", f"{stage.at}/upload", stage.upload)
    stage.door.refused(answer, 422, "damaged-blob")
    stage.world.take_segment("hospital-1", 1, 1, 0, stage.data)
    coordinator.intake.read_back(plan, "hospital-2", stage.upload)  # somebody else's, left to receive()
    stage.site.send("upload", stage.upload)


def test_of_a_segment_that_outlives_its_attempt_nothing_is_left(stage: Stage) -> None:
    async def scene(stage: Stage, send: Send) -> None:
        world = stage.world
        with stage.holding():
            put = asyncio.ensure_future(send(stage.site, "PUT", f"{stage.at}/segments/0", stage.data))
            await stage.held_one()
            world.clock.now += 1_000.0
            assert await stage.door.service.run(world.coordinator.tick)
            for site in stage.sites:  # masked vectors may be out, so they sign that they give the attempt up
                await stage.door.service.run(site.act)
            await stage.door.service.run(world.coordinator.tick)
            assert world.status["attempts"][0]["outcome"] == "failed"
        stage.door.refused(await put, 409, "wrong-round")
        assert not stage.file.parent.exists()

    stage.play(scene)


def test_a_segment_that_could_not_be_written_may_be_sent_again(stage: Stage) -> None:
    async def scene(stage: Stage, send: Send) -> None:
        stage.held.full = True
        failed = await send(stage.site, "PUT", f"{stage.at}/segments/0", stage.data)
        stage.door.refused(failed, 503, "storage-failed")
        stage.held.full = False
        assert (await send(stage.site, "PUT", f"{stage.at}/segments/0", stage.data)).status_code == 204

    stage.play(scene)
