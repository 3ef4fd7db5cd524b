"""A region in one process: the real relay, the real coordinator, and hospitals that send by way of both."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aggregator.relay.line import AggregatorRefuses
from aggregator.relay.relay import Relay
from aggregator.storage.register import Party
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity
from medveil.messages import Work
from medveil.relaying import RelayedUploads, RelayWork
from medveil.rounds import AttemptKey, Phase, RoundKind
from privacy.secagg import node
from privacy.secagg.messages import Committed
from world import Site, World

T = TypeVar("T")


@dataclass
class Upstream:
    """A relay's line to the coordinator of a world, which may be cut or tamper with sums."""

    world: World
    party: Party
    cut: bool = False
    tamper: bool = False
    altered: list[bytes] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    """The messages about sums, as they went out."""

    async def work(self, key: AttemptKey) -> RelayWork:
        return self._asked(lambda: self.world.coordinator.intake.relay_work(key))

    async def segment(self, key: AttemptKey, number: int, data: bytes) -> None:
        intake = self.world.coordinator.intake
        if self.tamper:
            data = bytes([data[0] ^ 1]) + data[1:]
            self.altered.append(hashlib.sha256(data).digest())

        def take() -> None:
            claim = intake.claim_segment(key, self.party.name, number, size=len(data), relay=True)
            if claim is not None:
                intake.keep_segment(claim, data)
                intake.settle_segment(claim)

        self._asked(take)

    async def uploads(self, key: AttemptKey, body: bytes) -> None:
        if self.altered:
            told = RelayedUploads.from_bytes(body)
            body = told.model_copy(update={"segments": tuple(self.altered)}).to_bytes()
            self.altered.clear()
        self.sent.append(body)
        self._asked(lambda: self.world.coordinator.intake.receive_relayed(key, self.party, body))

    def _asked(self, action: Callable[[], T]) -> T:
        if self.cut:
            raise AggregatorRefuses(reason="the connection was cut")
        try:
            return action()
        except RemoteProtocolError as error:
            raise AggregatorRefuses(reason="refused", told=error.code) from error


class Region:
    """A relay, the hospitals that use it, and the loop that both live on."""

    def __init__(self, world: World, folder: Path, members: Collection[int]) -> None:
        self.world, self.runner = world, asyncio.Runner()
        self.identity = Identity.generate("north")
        self.line = Upstream(world, Party("north", "relay", self.identity.public_key))
        self.folder, self.names = folder, [world.identities[i - 1].name for i in members]
        self.relay = self.started()

    def started(self) -> Relay:
        """A new process of the relay."""

        async def make() -> Relay:
            return Relay(self.folder / "held", self.identity, self.names, self.line, look_s=0.02)

        self.relay = self.runner.run(make())
        return self.relay

    def close(self) -> None:
        self.runner.run(self.relay.close())
        self.runner.close()


@dataclass
class RegionSite(Site):
    """A hospital that sends its masked vector by way of the relay, and itself if that fails."""

    region: Region | None = None
    waiting: bytes = b""
    """Its word for a vector that the relay has and the aggregator does not have yet."""
    hashes: list[bytes] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Codes of what the relay has refused."""

    def act(self) -> bool:
        if self.waiting:
            return self._again(self.poll())
        return super().act()

    def answer(self, work: Work) -> bytes:
        region = self.region
        if Phase(work.phase) is not Phase.UPLOAD or region is None:
            return super().answer(work)
        self.state = node.commit(self.state, Committed.from_bytes(work.payload))
        self.segments = self.masked(work.round, RoundKind(work.kind))
        self.hashes = [hashlib.sha256(s).digest() for s in self.segments]
        self.waiting = node.upload(self.state, self.hashes, relay=region.identity.public_key).to_bytes()
        try:
            region.runner.run(self._hand_over(region))
        except Error as error:
            return self._directly(error)
        return b""

    def send(self, kind: str, body: bytes) -> None:
        if body:
            super().send(kind, body)

    async def _hand_over(self, region: Region) -> None:
        sender = await region.relay.uploader(self.whole_key, self.name)
        for number, data in enumerate(self.segments):
            await region.relay.put_segment(self.whole_key, self.name, number, data)
        await region.relay.hold(self.whole_key, sender, self.waiting, wait_s=0.0)

    def _again(self, work: Work) -> bool:
        """Ask the relay again; whether that has ended the wait."""
        region = self.region
        assert region is not None

        async def ask() -> bool:
            sender = await region.relay.uploader(self.whole_key, self.name)
            held = await region.relay.hold(self.whole_key, sender, self.waiting, wait_s=0.05)
            return held.state == "taken"

        try:
            taken = region.runner.run(ask())
        except Error as error:
            body = self._directly(error)
            if work.phase == Phase.UPLOAD:
                super().send("upload", body)
            return True
        if taken or work.phase != Phase.UPLOAD:
            self.waiting = b""
            return True
        return False

    def _directly(self, error: Error) -> bytes:
        self.waiting = b""
        self.refused.append(error.code)
        for number, data in enumerate(self.segments):
            self.send_segment(number, data)
        return node.upload(self.state, self.hashes).to_bytes()


def with_region(world: World, sites: list[Site], region: Region) -> list[Site]:
    """The same sites, those of the region sending by way of its relay."""
    return [
        RegionSite(world, s.index, s.update, region=region) if s.name in region.names else s for s in sites
    ]


def unknown_relay() -> Identity:
    """A relay that nobody has named."""
    return Identity.generate(f"relay-{secrets.token_hex(2)}")
