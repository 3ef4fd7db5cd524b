"""A flood of malformed bodies against a real aggregator over HTTPS, and what it does to everybody else."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice

from bombs import BOMBS
from medveil.identity import Identity, sign_request
from medveil.messages import Work, enrolment_path
from served import Served
from world import World

SENDERS = 8
Asked = tuple[str, str, bytes, dict[str, str]]
"""Method, path, body and headers."""


@dataclass
class Flood:
    """What came back."""

    answers: Counter[str] = field(default_factory=Counter)
    """Status and code → how often; "cut" where the connection ended."""
    health_s: list[float] = field(default_factory=list)
    """How long each /healthz took meanwhile."""
    seconds: float = 0.0
    grown: int = 0
    """Bytes by which the process's resident memory grew at most."""


def strangers() -> Iterator[Asked]:
    """Requests of nobody, without end: bombs that are signed with a fresh key, and some that are not."""
    bodies = [body for body in BOMBS.values() if len(body) <= 2**20]
    plan = "/v1/plans/" + "0" * 64
    for number, body in enumerate(cycle(bodies)):
        newcomer = Identity.generate("newcomer")
        path = enrolment_path(newcomer.public_key)
        if number % 4 == 0:
            path = f"{plan}/rounds/1/attempts/1/shares"
        signed = sign_request(newcomer, "POST", path, body).headers()
        yield "POST", path, body, {} if number % 4 == 1 else signed


def member(who: Identity, plan: str, body: bytes) -> Iterator[Asked]:
    """One enrolled hospital's requests, each with the same malformed message."""
    while True:
        path = f"/v1/plans/{plan}/rounds/1/attempts/1/shares"
        yield "POST", path, body, sign_request(who, "POST", path, body).headers()


def open_round(server: Served, world: World) -> None:
    """Have every hospital ask for work until the first round is open."""
    context = ssl.create_default_context(cafile=str(server.settings.folder / "tls" / "ca.pem"))
    line = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=60)
    status = "waiting"
    while status != "running":
        for one in world.identities:
            path = f"/v1/plans/{world.plan.id}/work"
            line.request("GET", path, headers=sign_request(one, "GET", path, b"").headers())
            status = Work.from_bytes(line.getresponse().read()).status
    line.close()


def flood(server: Served, requests: Callable[[], Iterator[Asked]], count: int) -> Flood:
    """Send so many requests from several connections, and ask for /healthz all the while."""
    context = ssl.create_default_context(cafile=str(server.settings.folder / "tls" / "ca.pem"))
    result, over, lock = Flood(), threading.Event(), threading.Lock()
    before = server.resident

    def connect() -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("localhost", server.port, context=context, timeout=60)

    def send(share: int) -> None:
        line = connect()
        for method, path, body, headers in islice(requests(), share):
            try:
                line.request(method, path, body, headers)
                answer = line.getresponse()
                told = f"{answer.status} {json.loads(answer.read())['code']}"
            except (OSError, http.client.HTTPException):  # refused before the body was taken
                told = "cut"
                line.close()
                line = connect()
            with lock:
                result.answers[told] += 1
        line.close()

    def watch() -> None:
        while not over.is_set():
            started, line = time.monotonic(), connect()
            line.request("GET", "/healthz")
            assert line.getresponse().read() == b'{"status":"ok"}'
            line.close()
            result.health_s.append(time.monotonic() - started)
            result.grown = max(result.grown, server.resident - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    threads = [threading.Thread(target=send, args=(count // SENDERS,)) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.seconds = time.monotonic() - started
    over.set()
    watcher.join()
    return result
