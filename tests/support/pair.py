"""Two aggregator processes on one PostgreSQL database and one folder: one leads, the other stands by."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psycopg

from aggregator.access.tls import make_certificates
from aggregator.settings import Limits
from aggregator.storage.store import Store
from medveil.identity import Identity, sign_request
from postgres import Cluster
from served import Served
from world import World, make_world

PATIENCE_S = 120.0
"""A busy machine may be slow; what never happens is still found."""


class Pair:
    """The two processes over a world's database; the first one leads."""

    def __init__(self, folder: Path, cluster: Cluster, **changes: Any) -> None:
        self.cluster, self.database = cluster, cluster.database()
        self.world: World = make_world(folder / "one", database=cluster.url(self.database), **changes)
        self.world.admin.save(folder / "one" / "admin.key")
        self.world.store.close()
        make_certificates(folder / "one" / "tls", ("localhost", "127.0.0.1"))
        self.authority = folder / "one" / "tls" / "ca.pem"
        (folder / "other").mkdir()
        for name in ("admin.key", "tls", "models", "uploads", "sums"):
            (folder / "one" / name).mkdir(exist_ok=True) if "." not in name else None
            (folder / "other" / name).symlink_to(folder / "one" / name)
        self._client = httpx.Client(verify=ssl.create_default_context(cafile=str(self.authority)), timeout=5)
        self.one = self._started(folder / "one")
        self.wait_until_leading(self.one)
        self.other = self._started(folder / "other")
        self.wait_until(lambda: self.code(self.other) == "not-leading")

    def _started(self, folder: Path, port: int = 0) -> Served:
        return Served(folder, Limits(), port=port, database=self.cluster.url(self.database))

    def start_again(self, server: Served) -> None:
        """A process in the place of one that has ended; it stands by."""
        assert server.process.poll() is not None
        new = self._started(server.settings.folder, server.port)
        if server is self.one:
            self.one = new
        else:
            self.other = new
        self.wait_until(lambda: self.code(new) == "not-leading")

    @property
    def hospital(self) -> Identity:
        return self.world.identities[0]

    def ask(self, server: Served, path: str = "/v1/plans", *, timeout: float = 5.0) -> httpx.Response:
        """A request of the first hospital, to one process and without nginx."""
        headers = sign_request(self.hospital, "GET", path, b"").headers()
        return self._client.get(f"https://localhost:{server.port}{path}", headers=headers, timeout=timeout)

    def code(self, server: Served, path: str = "/v1/plans") -> str:
        """The code of the answer; "ok" for a success, empty without one."""
        try:
            answer = self.ask(server, path)
        except httpx.TransportError:
            return ""
        return "ok" if answer.is_success else str(answer.json()["code"])

    def roles(self) -> tuple[Served, Served]:
        """Who leads and who stands by, once that is settled."""
        both = (self.one, self.other)
        self.wait_until(lambda: sorted(self.code(server) for server in both) == ["not-leading", "ok"])
        return both if self.code(self.one) == "ok" else (self.other, self.one)

    def leaders(self) -> list[object]:
        """The numbers of all leaders so far, from a log that verifies."""
        with contextlib.closing(Store(self.world.database, self.world.admin)) as store:
            store.log.verify()
            return [e.details["lead"] for e in store.log.entries() if e.action == "lead.taken"]

    def look(self, question: str, *values: object) -> list[tuple[object, ...]]:
        """Ask the database behind everybody's back."""
        with psycopg.connect(
            host=str(self.cluster.folder), user="medveil", dbname=self.database, autocommit=True
        ) as link:
            return link.execute(question, values).fetchall()  # type: ignore[arg-type]

    def wait_until_leading(self, server: Served) -> None:
        self.wait_until(lambda: self.code(server) == "ok")

    @staticmethod
    def wait_until(condition: object) -> float:
        """The seconds until a condition held. Raises: AssertionError if it never does."""
        assert callable(condition)
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < PATIENCE_S
            time.sleep(0.02)
        return time.monotonic() - started

    @staticmethod
    def freeze(server: Served) -> None:
        """Stop a process where it stands; it does not end."""
        os.kill(server.process.pid, signal.SIGSTOP)

    @staticmethod
    def thaw(server: Served) -> None:
        """Let a stopped process go on."""
        os.kill(server.process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End both, whatever became of them."""
        self._client.close()
        for server in (self.one, self.other):
            if server.process.poll() is None:
                self.thaw(server)
                server.process.kill()
                server.process.wait()


@contextlib.contextmanager
def pair_of(folder: Path, cluster: Cluster, **changes: Any) -> Iterator[Pair]:
    """A pair that is gone at the end of the block.

    Args:
        changes: of the study, and of what :func:`world.make_world` takes.
    """
    pair = Pair(folder, cluster, **changes)
    try:
        yield pair
    finally:
        pair.close()
