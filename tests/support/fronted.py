"""A pair of aggregators behind nginx that lose their leader again and again, and hospitals that go on."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx

from aggregator.access.tls import make_certificates
from medveil.identity import Identity, sign_request
from nginx import PRETENDED, front_of
from pair import Pair, pair_of
from postgres import Cluster
from remote_sites import RemoteCoordinator
from served import Served
from world import Site

AGAIN_S = 0.05
PATIENCE_S = 300.0


class Fronted(RemoteCoordinator):
    """What a :class:`world.Site` asks of its coordinator, through nginx; asked again until it is answered.

    One connection for each thread.
    """

    def __init__(self, here: Path, port: int, identities: list[Identity]) -> None:
        super().__init__()
        self._address = f"https://localhost:{port}"
        self._context = ssl.create_default_context(cafile=str(here / "front" / "ca.pem"))
        self._identities = {one.name: one for one in identities}
        self._networks = {one.name: f"10.0.0.{i}" for i, one in enumerate(identities, 1)}
        self._local, self._clients = threading.local(), list[httpx.Client]()

    def close(self) -> None:
        """End the connections of all threads."""
        for client in self._clients:
            client.close()

    def ask(self, name: str, method: str, path: str, body: bytes = b"") -> httpx.Response | None:
        """One signed request; None if there was no answer."""
        if not hasattr(self._local, "client"):
            self._local.client = httpx.Client(verify=self._context, base_url=self._address, timeout=60)
            self._clients.append(self._local.client)
        headers = sign_request(self._identities[name], method, path, body).headers()
        headers[PRETENDED] = self._networks[name]
        try:
            found: httpx.Response = self._local.client.request(method, path, content=body, headers=headers)
        except httpx.TransportError:
            return None
        return found

    def send(self, name: str, method: str, path: str, body: bytes = b"") -> bytes:
        """The same request, signed anew, until it is taken.

        A message whose answer was lost may have ended its attempt: to the repeat of it that round is over.
        """
        deadline, before = time.monotonic() + PATIENCE_S, 0
        while time.monotonic() < deadline:
            answer = self.ask(name, method, path, body)
            if answer is not None and answer.is_success:
                return bytes(answer.content)
            if answer is not None and answer.status_code not in (429, 502, 503, 504):
                code = answer.json()["code"]
                if before and method == "POST" and code == "wrong-round":
                    return b""
                raise AssertionError(f"{method} {path}: {code}")
            before += 1
            time.sleep(AGAIN_S)
        raise AssertionError(f"nobody answered {method} {path}")


class Playing:
    """Hospitals, each in a thread of its own, until told to stop."""

    def __init__(self, sites: list[Site]) -> None:
        self._enough = threading.Event()
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._play, args=(site,), daemon=True) for site in sites]
        for thread in self._threads:
            thread.start()

    def _play(self, site: Site) -> None:
        try:
            while not self._enough.is_set():
                if not site.act():
                    self._enough.wait(AGAIN_S)
        except BaseException as error:
            self.errors.append(error)

    def stop(self) -> None:
        """No more; what went wrong is raised."""
        self._enough.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        if self.errors:
            raise self.errors[0]


class Front:
    """The pair, and the door to it."""

    def __init__(self, here: Path, port: int, pair: Pair) -> None:
        self.pair = pair
        self.remote = Fronted(here, port, pair.world.identities)

    def leader(self) -> Served:
        """Who leads at this moment."""
        while True:
            for server in (self.pair.one, self.pair.other):
                if self.pair.code(server, "/leadz") == "ok":
                    return server
            time.sleep(AGAIN_S)

    def kill_the_leader(self) -> float:
        """SIGKILL; the seconds until a hospital's question to the leader is answered through nginx."""
        leader = self.leader()
        leader.process.kill()
        started = time.monotonic()
        name = self.pair.world.identities[-1].name
        while (answer := self.remote.ask(name, "GET", "/v1/plans")) is None or not answer.is_success:
            assert time.monotonic() - started < PATIENCE_S
            time.sleep(0.01)
        seconds = time.monotonic() - started
        leader.process.wait()
        self.pair.start_again(leader)
        return seconds


@contextmanager
def front_with(here: Path, cluster: Cluster, **changes: Any) -> Iterator[Front]:
    """A pair behind nginx that is gone at the end of the block.

    Args:
        changes: of the study.
    """
    make_certificates(here / "front", ("localhost", "127.0.0.1"))
    with (
        pair_of(here, cluster, **changes) as pair,
        front_of(here, [pair.one.port, pair.other.port], pair.authority) as port,
    ):
        front = Front(here, port, pair)
        try:
            yield front
        finally:
            front.remote.close()
