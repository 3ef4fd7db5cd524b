"""The relay's door: only hospitals of its region that the aggregator waits for come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from aggregator.relay.app import Door, create_app
from aggregator.relay.settings import NoRelay, RelayFolder, RelaySettings
from aggregator.settings import Limits
from medveil.identity import Identity, sign_request
from medveil.relaying import RelayIdentity
from regions import Region, unknown_relay
from world import World, make_sites, play

Build = Callable[..., World]


@pytest.fixture
def opened(build: Build, folder: Path) -> Iterator[tuple[World, Region, FastAPI]]:
    """A relay's application before a world whose attempt collects vectors."""
    world = build(hospitals=4)
    region = Region(world, folder / "relay", (2, 3))
    settings = RelaySettings(name="north", aggregator="https://here", hospitals=("hospital-2", "hospital-3"))
    app = create_app(RelayFolder(folder, settings))
    app.state.door = Door(region.relay, Limits())
    play(world, make_sites(world), until=lambda: world.phase == "upload")
    yield world, region, app
    region.close()


def ask(
    opened: tuple[World, Region, FastAPI], who: Identity | None, path: str, body: bytes = b""
) -> httpx.Response:
    world, region, app = opened
    method = "POST" if path.startswith("upload") else "PUT"
    target = f"/v1/plans/{world.plan.id}/rounds/1/attempts/1/{path}"
    headers: Any = sign_request(who, method, target, body).headers() if who else {}

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="https://here"
        ) as client:
            return await client.request(method, target, content=body, headers=headers)

    return region.runner.run(send())


def refused(response: httpx.Response, status: int, code: str) -> bool:
    return (response.status_code, response.json()["code"]) == (status, code)


def test_a_hospital_of_the_region_hands_in_segments(opened: tuple[World, Region, FastAPI]) -> None:
    world, _, _ = opened
    attempt = world.coordinator.runs.of(world.plan.id, "hospital-1").attempt
    assert attempt is not None
    data = bytes(8 * attempt.params.words)
    assert ask(opened, world.identities[1], "segments/0", data).status_code == 204
    assert refused(ask(opened, world.identities[1], "segments/0", b"short"), 422, "wrong-length")
    assert refused(ask(opened, world.identities[1], "segments/7", data), 422, "wrong-length")
    assert refused(ask(opened, world.identities[1], "upload", b"nonsense"), 422, "bad-message")


def test_nobody_else_comes_in(opened: tuple[World, Region, FastAPI]) -> None:
    world, _, _ = opened
    forged = Identity.generate("hospital-2")
    assert refused(ask(opened, world.identities[0], "segments/0", b"x"), 403, "not-in-region")
    assert refused(ask(opened, forged, "segments/0", b"x"), 401, "unknown-sender")
    assert refused(ask(opened, unknown_relay(), "upload", b"x"), 403, "not-in-region")
    assert refused(ask(opened, None, "segments/0", b"x"), 401, "bad-signature")


def test_an_attempt_that_collects_nothing_is_closed(opened: tuple[World, Region, FastAPI]) -> None:
    world, region, _ = opened
    region.line.cut = True
    assert refused(ask(opened, world.identities[1], "segments/0", b"x"), 409, "relay-closed")


def test_it_says_who_it_is(opened: tuple[World, Region, FastAPI]) -> None:
    _, region, app = opened

    async def get() -> bytes:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="https://here"
        ) as client:
            return (await client.get("/v1/relay")).content

    found = RelayIdentity.from_bytes(region.runner.run(get()))
    assert found == RelayIdentity(name="north", key=region.identity.public_key)


def test_a_folder_without_a_relay_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoRelay, match="no relay in the folder"):
        RelayFolder.load(tmp_path)
