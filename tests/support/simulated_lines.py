"""How simulated hospitals reach their aggregator: by calls of its coordinator, or through the application.

The real application is spoken to as a server would speak to it (ASGI), with signed requests. Both clocks are
the simulation's: the one of the deadlines, and the wall clock against which signatures are held.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from fastapi import FastAPI

from aggregator.access.nonces import EarlyNonces
from aggregator.access.signatures import Gatekeeper, Replayed, SignedBeforeStart
from aggregator.settings import Limits, Settings
from aggregator.web.app import create_app
from aggregator.web.service import Service
from aggregator.work.workers import Inline
from hospital_node.line import AggregatorProblem
from medveil.identity import Identity, StaleRequest, sign_request
from medveil.messages import Work
from medveil.rounds import AttemptKey
from world import World, model_in

EPOCH = 1_700_000_000.0
"""Unix time of the simulation's second zero."""
ROOMY = Limits(requests_per_s=1e6, burst=10**6)
"""Quotas count on the machine's clock, on which a whole sequence is over in no time."""
RECENT = 8
"""So many of the last requests are sent again after a restart."""
WRONG_CLOCK = frozenset({StaleRequest.code, SignedBeforeStart.code})
"""How a request is refused whose time is not the aggregator's."""


class Straight:
    """Calls of the coordinator, which trusts its caller to know who asks."""

    entries_of_a_restart: ClassVar[list[str]] = []
    """What a new process writes into the audit log."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._plan = world.plan.id

    def work(self, sender: Identity, *, sitting_out: str = "") -> Work:
        """A poll. Raises: RemoteProtocolError, as everything here does that a hospital asks."""
        self.world.coordinator.runs.touch(sender.name)
        if sitting_out:
            left = AttemptKey(self._plan, *map(int, sitting_out.split(".")))
            self.world.coordinator.intake.sits_out(left, sender.name)
        return self.world.coordinator.instructions.work(self._plan, sender.name)

    def message(self, sender: Identity, number: int, attempt: int, kind: str, body: bytes) -> None:
        """A protocol message; returns when it is acknowledged."""
        self.world.receive(sender.name, number, attempt, kind, body)

    def segment(self, sender: Identity, number: int, attempt: int, segment: int, data: bytes) -> None:
        """A segment of a masked vector."""
        self.world.take_segment(sender.name, number, attempt, segment, data)

    def tick(self) -> bool:
        """The aggregator's clock."""
        return self.world.coordinator.tick()

    def settle(self, sender: Identity) -> None:
        """Let all happen that a repeated message of this sender may set off besides."""

    def status(self) -> dict[str, Any]:
        """The plan's progress."""
        return self.world.status

    def model(self, model: str) -> bytes:
        """A model version's file."""
        return model_in(self.world.blobs, model)

    def restart(self) -> None:
        """A new aggregator over the same folder and database."""
        self.world.restart()

    def close(self) -> None:
        """Nothing to give back; the world's owner closes it."""


@dataclass(frozen=True)
class Request:
    """A request as it went out."""

    method: str
    target: str
    body: bytes
    headers: dict[str, str]


class ThroughTheApp(Straight):
    """Signed requests to the application, whose every process takes the lead and remembers used nonces.

    Nothing happens behind a sequence's back: the application's lifespan, which starts a clock, is left out,
    and the coordinator works on the thread of the requests.
    """

    entries_of_a_restart: ClassVar[list[str]] = ["lead.taken"]

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.skews: defaultdict[str, float] = defaultdict(float)
        """Seconds by which a sender's clock is ahead."""
        self.used: list[Request] = []
        """Requests whose signature was good."""
        self._at = f"/v1/plans/{self._plan}"
        self._runner = asyncio.Runner()
        self._open()

    def _open(self) -> None:
        world, app = self.world, _application()
        assert world.store.transactions.lead()
        early = EarlyNonces(world.folder / "nonces")
        if early.existed:  # as open_service() waits
            world.clock.now = math.floor(world.clock.now) + 1.0
        gatekeeper = Gatekeeper(self._now, early)
        settings = Settings(world.folder, limits=ROOMY)
        self._service = Service(world.store, world.coordinator, gatekeeper, settings)
        self._service._thread = self._service.lookups._threads = Inline()  # type: ignore[assignment]
        app.state.service = self._service

    def _now(self) -> float:
        return EPOCH + self.world.clock.now

    def work(self, sender: Identity, *, sitting_out: str = "") -> Work:
        target = f"{self._at}/work" + (f"?sitting_out={sitting_out}" if sitting_out else "")
        return Work.from_bytes(self._ask(sender, "GET", target))

    def message(self, sender: Identity, number: int, attempt: int, kind: str, body: bytes) -> None:
        self._ask(sender, "POST", self._message(number, attempt, kind), body)

    def segment(self, sender: Identity, number: int, attempt: int, segment: int, data: bytes) -> None:
        self._ask(sender, "PUT", f"{self._at}/rounds/{number}/attempts/{attempt}/segments/{segment}", data)

    def tick(self) -> bool:
        return self._runner.run(self._service.run(self.world.coordinator.tick))

    def settle(self, sender: Identity) -> None:
        with suppress(AggregatorProblem):  # its clock may be wrong
            self.work(sender)  # the aggregator hears from it
            self.tick()  # as the route does with every message

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._read(f"{self._at}/status"))
        return found

    def model(self, model: str) -> bytes:
        return self._read(f"{self._at}/models/{model}")

    def restart(self) -> None:
        self._service.close()
        self.world.restart()
        self._open()
        for recent in range(min(RECENT, len(self.used))):
            self.replay(-1 - recent)  # what an earlier process took is not taken again

    def close(self) -> None:
        self._service.close()
        self._runner.close()

    def replay(self, which: int) -> None:
        """A used request, bit for bit: refused as such, whoever asks again and whenever."""
        if self.used:
            request = self.used[which % len(self.used)]
            status, body = self._runner.run(_carried(request))
            assert status in (401, 409, 503)
            assert json.loads(body)["code"] in WRONG_CLOCK | {Replayed.code}

    def refusal(
        self,
        sender: Identity,
        number: int,
        attempt: int,
        kind: str,
        body: bytes,
        *,
        arriving: bytes | None,
        size: int | None,
    ) -> str:
        """The code with which a message is refused; empty if it is taken.

        Args:
            arriving: what arrives in place of the body that was signed.
            size: the line breaks after so many bytes.
        """
        request = self._signed(sender, "POST", self._message(number, attempt, kind), body)
        try:
            self._answer(replace(request, body=body if arriving is None else arriving), size)
            return ""
        except AggregatorProblem as problem:
            return problem.code

    def _message(self, number: int, attempt: int, kind: str) -> str:
        return f"{self._at}/rounds/{number}/attempts/{attempt}/{kind}"

    def _read(self, target: str) -> bytes:
        """As a hospital whose clock is right."""
        return self._answer(self._signed(self.world.identities[0], "GET", target, b"", skew=0.0))

    def _ask(self, sender: Identity, method: str, target: str, body: bytes = b"") -> bytes:
        return self._answer(self._signed(sender, method, target, body))

    def _signed(
        self, sender: Identity, method: str, target: str, body: bytes, *, skew: float | None = None
    ) -> Request:
        now = self._now() + (self.skews[sender.name] if skew is None else skew)
        headers = sign_request(sender, method, target, body, now=now).headers()
        return Request(method, target, body, headers)

    def _answer(self, request: Request, size: int | None = None) -> bytes:
        status, body = self._runner.run(_carried(request, size))
        if status not in (401, 503):
            self.used.append(request)
        if 200 <= status < 300:
            return body
        problem = json.loads(body)
        assert status < 500 or problem["code"] == SignedBeforeStart.code, problem
        assert problem["status"] == status
        raise AggregatorProblem(
            status=status, code=problem["code"], title=problem["title"], detail=problem["detail"]
        )


@functools.cache
def _application() -> FastAPI:
    """One for all sequences: what it remembers is in its service."""
    return create_app(Settings(Path("/nowhere"), limits=ROOMY))


async def _carried(request: Request, size: int | None = None) -> tuple[int, bytes]:
    """Status and body of the application's answer; the line breaks after ``size`` bytes of the request."""
    path, _, query = request.target.partition("?")
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"here"), (b"content-length", b"%d" % len(request.body)), *headers],
        "server": ("here", 443),
        "client": ("127.0.0.1", 1),
        "state": {},
    }
    arriving: list[dict[str, Any]] = [{"type": "http.request", "body": request.body[:size]}]
    if size is not None:
        arriving[0]["more_body"] = True
        arriving.append({"type": "http.disconnect"})
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not arriving:
            await asyncio.Event().wait()  # the sender waits for its answer
        return arriving.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await _application()(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
