"""The aggregator's application over a world's coordinator: requests without a network."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx

from aggregator.access.signatures import Gatekeeper
from aggregator.access.tokens import make_token
from aggregator.settings import Settings
from aggregator.storage.register import Role
from aggregator.web.app import create_app
from aggregator.web.service import Service
from medveil.identity import Identity, sign_request
from world import World


class Door:
    """The application over a world's coordinator; no lifespan, so no clock ticks behind our back."""

    def __init__(self, world: World, clock: Callable[[], float] = time.time, **settings: Any) -> None:
        self.world = world
        database = world.database if isinstance(world.database, str) else ""
        set_up = Settings(world.folder, database=database, **settings)
        self.app = create_app(set_up)
        self.gatekeeper = Gatekeeper(clock)
        self.service = Service(world.store, world.coordinator, self.gatekeeper, set_up)
        self.app.state.service = self.service
        self.stranger = Identity.generate("stranger")
        self.known: dict[str, Identity] = {}

    def enrolled(self, name: str, role: str) -> Identity:
        """Somebody new with a key."""
        newcomer, token = Identity.generate(name), secrets.token_urlsafe(24)
        self.world.store.register.add_token(token, name=name, role=role, expires=2.0)
        self.world.store.register.enrol(token, name=name, public_key=newcomer.public_key, now=1.0)
        self.known[name] = newcomer
        return newcomer

    def token(self, name: str, role: Role) -> str:
        """An API token of a person, good for an hour."""
        now = time.time()
        text, kept = make_token(name, role, now=now, expires=now + 3600)
        self.service.register.add_api_token(kept)
        return text

    def show(self, token: str, method: str, path: str) -> httpx.Response:
        """A request with an API token."""
        return self.raw(method, path, b"", {"Authorization": f"Bearer {token}"})

    def hospital(self, index: int = 1) -> Identity:
        return self.world.identities[index - 1]

    @property
    def at(self) -> str:
        return f"/v1/plans/{self.world.plan.id}"

    def raw(
        self, method: str, path: str, body: Any, headers: Any, *, address: str = "127.0.0.1"
    ) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="https://here") as client:
                return await client.request(method, path, content=body, headers=headers)

        return asyncio.run(send())

    def ask(self, who: Identity, method: str, path: str, body: bytes = b"") -> httpx.Response:
        return self.raw(method, path, body, sign_request(who, method, path, body).headers())

    def refused(self, response: httpx.Response, status: int, code: str) -> None:
        """A refusal in the promised form."""
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        found = response.json()
        assert (found["status"], found["code"], found["type"]) == (status, code, f"urn:medveil:{code}")
        assert found["title"]
        assert found["detail"].endswith(found["remedy"])
        assert "Traceback" not in response.text
