"""Two hospitals with common patients, two keepers, and the real aggregator's routes between them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from aggregator.access.tls import make_certificates
from aggregator.keeper.book import KeeperBook
from aggregator.keeper.run import KeeperLine, answer_letters, side_of
from aggregator.keeper.set_up import set_up_keeper, write_persons
from aggregator.keeper.settings import KeeperFolder
from door import Door
from folders import lines_of, write_folder
from hospital_node.operator import viewed
from hospital_node.persons.claiming import Counts, KeeperAway, claim_persons, use
from hospital_node.settings import Node, NodeSettings
from hospital_node.transport import Transport
from hospitals import LOCAL, Hospital
from medveil.identity import Identity
from medveil.persons import Persons
from medveil_imaging.sources.site import read_site
from world import make_plan, make_study, make_world

pytestmark = pytest.mark.slow
SPLITS = (("train", 3), ("test", 1))
ALL = [one[1] for one in lines_of(SPLITS)]


@dataclass
class Scene:
    """What lies where, and who answers."""

    folder: Path
    door: Door
    authority: Path
    persons: Persons
    keepers: dict[str, KeeperFolder]
    books: dict[str, KeeperBook]
    passed: list[bytes] = field(default_factory=list)
    """Bodies that the aggregator has seen."""

    def client(self) -> httpx.AsyncClient:
        async def seen(request: httpx.Request) -> None:
            self.passed.append(request.read() if hasattr(request, "read") else b"")

        transport = httpx.ASGITransport(app=self.door.app, client=("127.0.0.1", 1))
        return httpx.AsyncClient(
            transport=transport, base_url="https://here", event_hooks={"request": [seen]}
        )

    async def keep(self, name: str) -> None:
        """A keeper's process."""
        folder = self.keepers[name]
        line = KeeperLine("https://here", self.authority, self.door.known[name], patience_s=0.0)
        await line._client.aclose()
        line._client = self.client()
        try:
            await answer_letters(side_of(folder, self.books[name]), line, pause_s=0.0)
        finally:
            await line.close()

    async def claim(self, one: Hospital) -> Counts:
        """``medveil node persons claim``."""
        async with Transport("https://here", one.node.authority, one.identity, patience_s=0.0) as transport:
            await transport._client.aclose()
            transport._client = self.client()
            return await claim_persons(one.node, one.identity, transport)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    door = Door(make_world(tmp_path / "world", hospitals=4))
    make_certificates(tmp_path / "tls", ("localhost",))
    authority = tmp_path / "tls" / "ca.pem"
    keepers = {}
    for name in ("east", "west"):
        told = {"name": name, "aggregator": "https://here"}
        keepers[name] = set_up_keeper(tmp_path / name, authority, told)
        door.enrolled(name, "keeper")
    shown = [one.public for one in keepers.values()]
    persons = write_persons(tmp_path / "persons.json", "north", "NHS number", shown)
    books = {name: KeeperBook(one.book) for name, one in keepers.items()}
    for name, one in keepers.items():
        one.adopt(persons)
        for hospital in door.world.identities:
            books[name].admit(hospital.name, hospital.public_key, 10)
    yield Scene(tmp_path, door, authority, persons, keepers, books)
    for book in books.values():
        book.close()
    door.service.close()


def hospital(scene: Scene, identity: Identity, first: int) -> Hospital:
    """A node whose patients have numbers from ``first`` on."""
    place = scene.folder / identity.name
    images = write_folder(place / "images", lines_of(SPLITS))
    settings = NodeSettings(name=identity.name, aggregator="https://here", data=images, dataset="films")
    node = Node(place / "node", settings)
    node.save()
    identity.save(node.key)
    node.authority.write_bytes(scene.authority.read_bytes())
    people = place / "people.csv"
    rows = [f"{name},943 476 {first + i:04}" for i, name in enumerate(ALL)]
    people.write_text("\n".join(["patient_id,NHS number", *rows]) + "\n")
    return Hospital(use(node, scene.folder / "persons.json", ["NHS number"], people)[0], identity)


async def with_keepers(scene: Scene, action: Any) -> Any:
    keeping = [asyncio.create_task(scene.keep(name)) for name in scene.keepers]
    try:
        return await action
    finally:
        for one in keeping:
            one.cancel()
            with suppress(asyncio.CancelledError):
                await one


def trained_on(one: Hospital, plan: Any) -> list[str]:
    with one.works() as records:
        records.register(plan)
        site = records.check(plan, records.read(plan, lambda p: read_site(one.images, p.study)))
    return [p.patient for p in (*site.train, *site.val, *site.test)]


def test_hospitals_that_ask_at_once_share_no_person_and_lose_none(scene: Scene) -> None:
    identities = scene.door.world.identities
    one, other = hospital(scene, identities[0], 0), hospital(scene, identities[1], 2)

    async def both() -> list[Counts]:
        return await asyncio.gather(scene.claim(one), scene.claim(other))

    found = asyncio.run(with_keepers(scene, both()))
    assert [(c.unasked, c.unknown, c.several) for c in found] == [(0, 0, 0)] * 2
    assert sum(c.own for c in found) == 6  # of eight patients, two of whom are in both
    private = {"privacy": LOCAL, "cohort": {"persons": scene.persons.hash.hex()}}
    plan = make_plan(identities, make_study(**private, evaluation={"bins": 16, "every_round": False}))
    seen: Counter[str] = Counter()
    for each, first in ((one, 0), (other, 2)):
        each.approve(plan)
        seen.update(str(first + ALL.index(name)) for name in trained_on(each, plan))
    assert max(seen.values()) == 1
    assert seen.total() == 6
    with viewed(one.node) as records:
        assert not records.ledger.spent()
    assert not any(b"943476" in body or b"943 476" in body for body in scene.passed)
    for book in scene.books.values():
        assert [(e.hospital, e.count) for e in book.log() if e.what == "evaluated"] in (
            [("hospital-1", 4), ("hospital-2", 4)],
            [("hospital-2", 4), ("hospital-1", 4)],
        )


def test_a_keeper_that_is_away_is_named_and_nobody_is_claimed(scene: Scene) -> None:
    one = hospital(scene, scene.door.world.identities[0], 0)
    scene.door.service.letters.answer_s = 0.0
    with pytest.raises(KeeperAway, match="keeper 'east' does not answer"):
        asyncio.run(scene.claim(one))
    scene.door.service.register.revoke("east", now=1.0)
    with pytest.raises(KeeperAway, match="keeper 'east' is not enrolled"):
        asyncio.run(scene.claim(one))
    assert not one.node.known_persons.exists()
