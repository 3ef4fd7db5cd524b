"""Malformed bodies by the hundred do not keep an aggregator from answering, and do not fill its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.access.tls import make_certificates
from aggregator.settings import Limits
from bombs import COLLIDING, head
from flood import flood, member, open_round, strangers
from served import Served, served
from world import World, make_world

pytestmark = pytest.mark.slow
GROWTH = 50 * 2**20


@pytest.fixture
def world(folder: Path) -> World:
    made = make_world(folder / "world")
    made.admin.save(made.folder / "admin.key")
    make_certificates(made.folder / "tls", ("localhost", "127.0.0.1"))
    made.store.close()
    return made


@pytest.fixture
def server(world: World) -> Iterator[Served]:
    with served(world.folder, Limits(requests_per_s=1e6, burst=10**6)) as running:
        flood(running, strangers, 80)  # what is loaded at the first use is no growth
        yield running


@pytest.mark.parametrize("bodies", [200, 1_000])
def test_malformed_bodies_of_strangers_leave_the_aggregator_as_it_was(server: Served, bodies: int) -> None:
    result = flood(server, strangers, bodies)
    assert sum(result.answers.values()) == bodies
    named = {"401 bad-signature", "401 unknown-sender", "422 bad-message", "413 too-large", "cut"}
    assert set(result.answers) <= named
    assert result.answers["422 bad-message"] > bodies / 4
    assert result.health_s  # each was answered, or flood() had failed
    assert result.grown <= GROWTH
    assert server.process.poll() is None


BY_A_MEMBER: dict[str, Callable[[], bytes]] = {
    "keys that collide": lambda: head(5, 199 * 1_700) + COLLIDING * 1_700,
    "four million empty maps": lambda: head(4, 4_000_000) + b"\xa0" * 4_000_000,
    "nesting": lambda: b"\x81" * 4_000_000 + b"\x00",
    "as many items as may be": lambda: head(4, 99_000) + b"\xa0" * 99_000,
    "as long as this plan's messages may be": lambda: head(4, 1_500) + b"\xa0" * 1_500,
}


@pytest.mark.parametrize("name", BY_A_MEMBER)
def test_four_megabytes_of_a_lying_hospital_hold_up_nobody(server: Served, world: World, name: str) -> None:
    body = BY_A_MEMBER[name]()
    assert len(body) <= 4 * 2**20
    open_round(server, world)
    result = flood(server, lambda: member(world.identities[0], world.plan.id, body), 40)
    assert set(result.answers) <= {"422 bad-message", "413 too-large", "cut"}
    assert result.health_s
    assert result.grown <= 2 * GROWTH
