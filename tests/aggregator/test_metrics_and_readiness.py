"""What monitors see: counts without a hospital in them, and whether each part really works."""

from __future__ import annotations

import asyncio
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.access.tls import make_certificates
from aggregator.errors import NotReady
from aggregator.storage.blobs import Blobs, StorageFailed
from aggregator.storage.register import Role
from aggregator.web.metrics import ALLOWED_LABELS, Metrics
from aggregator.web.readiness import Readiness
from door import Door
from world import Clock, World, make_sites, play

Build = Callable[..., World]


@pytest.fixture
def door(build: Build) -> Iterator[Door]:
    world = build()
    play(world, make_sites(world), until=lambda: world.phase == "share")
    opened = Door(world)
    opened.app.state.metrics.show(opened.service.gauges)
    yield opened
    opened.service.close()


def scrape(door: Door) -> str:
    answer = door.show(door.token("prometheus", Role.MONITOR), "GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.text


def test_requests_are_counted_by_route_and_nothing_a_sender_makes_up_becomes_a_label(door: Door) -> None:
    for path in (f"{door.at}/work", f"{door.at}/work", "/made-up/by-a-sender"):
        door.ask(door.hospital(), "GET", path)
    door.raw("BREW", "/healthz", b"", {})
    text = scrape(door)
    work = 'medveil_requests_total{method="GET",route="/v1/plans/{plan}/work",status="200"} 2.0'
    assert work in text
    assert 'medveil_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'method="other"' in text
    assert "made-up" not in text
    assert "BREW" not in text


def test_no_hospital_no_person_and_no_name_of_a_study_is_in_the_metrics(door: Door) -> None:
    door.ask(door.hospital(), "GET", f"{door.at}/work")
    text = scrape(door)
    for word in (*door.world.plan.names, "prometheus", door.world.plan.id, door.world.plan.study.name):
        assert word not in text
    labels = {name for found in re.findall(r"\{(.*)\} ", text) for name in re.findall(r'(\w+)="', found)}
    assert {"route", "method", "status", "le", "state"} <= labels <= ALLOWED_LABELS
    assert 'medveil_plans{state="open"} 1.0' in text


def test_the_days_of_the_certificate_and_the_room_on_the_disk_are_shown(tmp_path: Path) -> None:
    metrics = Metrics(tls=tmp_path / "tls", disk=tmp_path)
    assert b"certificate" not in metrics.page()[0]  # there is none yet
    make_certificates(tmp_path / "tls", ("localhost",))
    metrics.cut("slow-head")
    text = metrics.page()[0].decode()
    left = float(re.search(r"^medveil_certificate_seconds_left (\S+)$", text, re.M)[1])  # type: ignore[index]
    assert 396 < left / 86_400 <= 397
    free = float(re.search(r"^medveil_disk_free_bytes (\S+)$", text, re.M)[1])  # type: ignore[index]
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
    assert 'medveil_connections_cut_total{reason="slow-head"} 1.0' in text


def failing() -> None:
    raise StorageFailed()


def test_readiness_names_every_part_that_fails_and_recovers_with_it() -> None:
    clock, works = Clock(), [False]

    def sometimes() -> None:
        if not works[0]:
            failing()

    async def scene() -> None:
        readiness = Readiness({"database": sometimes, "blobs": lambda: None, "audit": sometimes}, clock)
        with pytest.raises(NotReady) as refused:
            await readiness.check()
        assert refused.value.what == "These parts do not work: database, audit."
        works[0] = True
        with pytest.raises(NotReady):
            await readiness.check()  # the answer is remembered for a moment
        clock.now += 6
        await readiness.check()
        readiness.close()

    asyncio.run(scene())


def test_readiness_does_one_write_however_many_ask() -> None:
    tries: list[int] = []

    async def scene() -> None:
        readiness = Readiness({"database": lambda: tries.append(1)}, Clock())
        await asyncio.gather(*(readiness.check() for _ in range(50)))
        readiness.close()

    asyncio.run(scene())
    assert tries == [1]


def test_a_part_that_hangs_is_not_ready_and_does_not_hold_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.web.readiness.PATIENCE_S", 0.01)
    release = threading.Event()

    async def scene() -> None:
        readiness = Readiness({"database": release.wait, "blobs": lambda: None}, Clock())
        with pytest.raises(NotReady, match="database"):
            await readiness.check()
        release.set()
        readiness.close()

    asyncio.run(scene())


def test_the_parts_are_really_tried(build: Build, tmp_path: Path) -> None:
    world = build()
    door = Door(world)
    asyncio.run(door.service.readiness.check())
    Blobs(tmp_path).probe()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        Blobs(tmp_path / "file" / "below").probe()
    door.service.close()
    readiness = Readiness({"database": failing})
    door.service.readiness = readiness
    answer = door.raw("GET", "/readyz", b"", {})
    door.refused(answer, 503, "not-ready")
    assert answer.headers["retry-after"] == "5"
    readiness.close()


def test_a_fault_of_the_aggregator_is_a_problem_document_without_its_cause(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door(build())

    def broken(*_: object, **__: object) -> None:
        raise ValueError("a secret word")

    monkeypatch.setattr(door.world.coordinator.instructions, "work", broken)
    with pytest.raises(ValueError, match="a secret word"):  # the server's log has the cause
        door.ask(door.hospital(), "GET", f"{door.at}/work")
    door.service.close()
