"""Made hospitals (:class:`world.Site`) that reach their coordinator by requests, as nodes do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medveil.identity import Identity
from medveil.messages import Work
from medveil.plan import Plan
from medveil.rounds import AttemptKey
from world import Site


class RemoteCoordinator:
    """What a site asks of its coordinator, as requests to the aggregator's routes."""

    def __init__(self) -> None:
        self.runs = self.intake = self.instructions = self

    def send(self, name: str, method: str, path: str, body: bytes = b"") -> bytes:
        """One request, signed by this hospital; what was answered."""
        raise NotImplementedError

    def touch(self, name: str) -> None:
        """A poll does it."""

    def work(self, plan: str, name: str) -> Work:
        """See the coordinator."""
        return Work.from_bytes(self.send(name, "GET", f"/v1/plans/{plan}/work"))

    def receive(self, key: AttemptKey, name: str, kind: str, body: bytes) -> None:
        """See the coordinator."""
        self.send(name, "POST", f"{_path(key)}/{kind}", body)

    def segment(self, key: AttemptKey, name: str, segment: int, data: bytes) -> None:
        """One segment of a masked vector."""
        self.send(name, "PUT", f"{_path(key)}/segments/{segment}", data)


@dataclass
class Stage:
    """What a site knows of its world."""

    plan: Plan
    identities: list[Identity]
    coordinator: RemoteCoordinator


class RemoteSite(Site):
    """A hospital on the other side of a connection."""

    def send_segment(self, number: int, data: bytes) -> None:
        """See :class:`world.Site`."""
        remote: Any = self.world.coordinator
        remote.segment(self.whole_key, self.name, number, data)


def _path(key: AttemptKey) -> str:
    return f"/v1/plans/{key.plan}/rounds/{key.round}/attempts/{key.attempt}"
