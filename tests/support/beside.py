"""Two applications over one database and one folder, without a network: one leads, the other stands by."""

from __future__ import annotations

import asyncio

import httpx2 as httpx

from aggregator.settings import Settings
from aggregator.web.app import create_app
from aggregator.web.standby import open_stand_by
from door import Door
from medveil.identity import Identity, sign_request
from world import World


class Pair:
    """Two processes over one database and one folder: a world's own leads, the other one stands by."""

    def __init__(self, world: World) -> None:
        assert world.store.transactions.lead()
        world.admin.save(world.folder / "admin.key")
        database = world.database if isinstance(world.database, str) else ""
        settings = Settings(world.folder, database=database)
        self.world, self.leader, self.app = world, Door(world), create_app(settings)
        self.stand_by = self.app.state.stand_by = open_stand_by(settings)

    def there(
        self, path: str, headers: dict[str, str], method: str = "GET", body: bytes = b""
    ) -> httpx.Response:
        """A request to the process that stands by."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
                return await client.request(method, path, headers=headers, content=body or None)

        return asyncio.run(send())

    def signed(self, who: Identity, path: str, method: str = "GET", body: bytes = b"") -> httpx.Response:
        return self.there(path, sign_request(who, method, path, body).headers(), method, body)

    def both(self, path: str, who: Identity | None = None) -> tuple[bytes, bytes]:
        """What the two answer to the same question."""
        who = who or self.leader.hospital()
        answers = [self.leader.ask(who, "GET", path), self.signed(who, path)]
        assert [a.status_code for a in answers] == [200, 200], answers[1].text
        assert answers[0].headers["content-type"] == answers[1].headers["content-type"]
        return answers[0].content, answers[1].content

    def close(self) -> None:
        self.stand_by.close()
        self.leader.service.close()
