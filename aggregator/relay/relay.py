"""The relay at work: it asks what an attempt waits for, holds vectors, and hands in their sum in time.

Whatever goes wrong, its hospitals are told so and send their vectors themselves: a relay that dies costs
bytes and no round.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec

from aggregator.relay.line import AggregatorRefuses, Upstream
from aggregator.relay.region import Region, told
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity
from medveil.log import get_logger
from medveil.relaying import Held, RelayIdentity, RelayWork, Uploader
from medveil.rounds import AttemptKey
from privacy.secagg.messages import Upload

LOOK_S = 2.0
"""Between two looks at what an attempt still waits for."""
KEPT_S = 600.0
"""How long the end of an attempt is remembered for a hospital that asks again."""
P = ParamSpec("P")
log = get_logger()


class NotInRegion(RemoteProtocolError):
    """A sender whose vector this relay does not add."""

    code = "not-in-region"

    def __init__(self) -> None:
        super().__init__(
            what="This relay adds no vector of this sender in this attempt.",
            meaning="Nothing was kept.",
            remedy="The node sends it to the aggregator. Does it belong here? Tell the relay's operator.",
        )


class RelayClosed(RemoteProtocolError):
    """A relay that cannot hand in a vector any more in this attempt."""

    code = "relay-closed"

    def __init__(self, *, reason: str = "its sum is handed in") -> None:
        super().__init__(
            what=f"The relay takes no vector in this attempt any more: {reason}.",
            meaning="The vector is not in the region's sum.",
            remedy="Nothing to do: the node sends it to the aggregator itself.",
        )


@dataclass
class _Holding:
    """One attempt at this relay."""

    region: Region
    work: RelayWork
    looked: float
    latest: float
    """By when its sum must be on its way (the event loop's seconds)."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    taken: frozenset[str] = frozenset()
    failure: str = ""
    task: asyncio.Task[None] | None = None
    delivering: bool = False


class Relay:
    """Adds the vectors of some hospitals, attempt by attempt. One event loop; files in threads.

    Args:
        folder: for vectors that wait; what an earlier process has left there is removed.
        look_s: between two looks at what an attempt still waits for.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        hospitals: Collection[str],
        line: Upstream,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        self._folder, self._line, self._hospitals = folder, line, frozenset(hospitals)
        self.identity = RelayIdentity(name=identity.name, key=identity.public_key)
        self._held: dict[AttemptKey, _Holding] = {}
        self._look_s = look_s
        self._asking = asyncio.Lock()
        self.sums: Counter[str] = Counter()
        """Regions' sums that were to be handed in, by outcome: ``sent``, ``failed``."""
        self.vectors = 0
        """Masked vectors in those that were sent."""

    @property
    def in_hand(self) -> int:
        """Attempts for which vectors are kept."""
        return sum(not one.ended.is_set() for one in self._held.values())

    async def uploader(self, key: AttemptKey, name: str) -> Uploader:
        """A hospital of this region that the attempt has committed to.

        Raises: NotInRegion, RelayClosed.
        """
        if name not in self._hospitals:
            raise NotInRegion()
        holding = await self._holding(key)
        for one in holding.work.missing:
            if one.name == name:
                return one
        raise NotInRegion()

    async def put_segment(self, key: AttemptKey, name: str, number: int, data: bytes) -> None:
        """Keep a segment of a masked vector. Raises: RelayClosed, WrongLength."""
        holding = self._open(key, name)
        if name not in holding.region.whole:
            await _on_disk(holding.region.put, name, number, data)

    async def hold(self, key: AttemptKey, sender: Uploader, body: bytes, *, wait_s: float) -> Held:
        """Take a hospital's word for its vector, and wait a while for its region.

        Raises: BadMessage, NotInRegion, NotWhole; RelayClosed once it is known that the vector is in no sum.
        """
        word, name = Upload.from_bytes(body), sender.name
        if word.sender != sender.index or word.relay != self.identity.key:
            raise NotInRegion()
        holding = self._held.get(key)
        if holding is None or holding.region.whole.get(name) != word:
            holding = self._open(key, name)
            await _on_disk(holding.region.sign_for, name, word)
            holding.changed.set()
        if holding.task is None:
            holding.task = asyncio.create_task(self._attend(key, holding))
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await holding.ended.wait()
        if holding.ended.is_set() and name not in holding.taken:
            raise RelayClosed(reason=holding.failure or "its sum is handed in")
        return Held(state="taken" if holding.ended.is_set() else "held")

    async def close(self) -> None:
        """The process is to stop: whoever waits is told to send its vector itself."""
        for holding in self._held.values():
            if holding.task is not None:
                holding.task.cancel()
                with suppress(asyncio.CancelledError):
                    await holding.task
            self._end(holding, "it stops")

    def _open(self, key: AttemptKey, name: str) -> _Holding:
        holding = self._held.get(key)
        if holding is None or holding.ended.is_set() or holding.delivering:
            raise RelayClosed()
        if all(one.name != name for one in holding.work.missing):
            raise NotInRegion()
        return holding

    async def _holding(self, key: AttemptKey) -> _Holding:
        """What is known of an attempt, asked for if it is not known yet. Raises: RelayClosed."""
        async with self._asking:  # strangers cannot have the aggregator asked by many at once
            now = asyncio.get_running_loop().time()
            for old, kept in list(self._held.items()):
                if kept.ended.is_set() and now > kept.looked + KEPT_S:
                    del self._held[old]
            holding = self._held.get(key)
            if holding is None:
                try:
                    work = await self._line.work(key)
                except AggregatorRefuses as error:
                    raise RelayClosed(reason="the aggregator does not collect vectors in it") from error
                region = Region(self._folder / key.folder, work.words)
                holding = _Holding(region, work, now, now + work.seconds_left / 2)
                self._held[key] = holding
        return holding

    async def _attend(self, key: AttemptKey, holding: _Holding) -> None:
        """Until everybody of the region who can come has come, or time presses: then hand in the sum."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                holding.changed.clear()
                holding.work, holding.looked = await self._line.work(key), loop.time()
                there = {one.name for one in holding.work.missing} & holding.region.whole.keys()
                awaited = {one.name for one in holding.work.missing} & {*holding.work.in_reach}
                if there and ((awaited & self._hospitals) <= there or loop.time() > holding.latest):
                    holding.delivering = True
                    words = {name: holding.region.whole[name] for name in sorted(there)}
                    await self._deliver(key, holding, words)
                    holding.taken = frozenset(words)
                    self._end(holding)
                    self.sums["sent"] += 1
                    self.vectors += len(words)
                    log.info("region.sent", **key.where, count=len(words))
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._look_s):
                        await holding.changed.wait()
        except Error as error:
            self.sums["failed"] += 1
            log.warning("region.failed", **key.where, code=error.code)
            self._end(holding, "the aggregator did not take it")
        except OSError as error:
            self.sums["failed"] += 1
            log.error("region.failed", **key.where, reason=type(error).__name__)
            self._end(holding, "its disk failed")

    async def _deliver(self, key: AttemptKey, holding: _Holding, words: dict[str, Upload]) -> None:
        digests, sums = [], holding.region.sums(words)
        while (data := await asyncio.to_thread(next, sums, None)) is not None:
            digests.append(hashlib.sha256(data).digest())
            await self._line.segment(key, len(digests) - 1, data)
        await self._line.uploads(key, told(self.identity, words, tuple(digests)).to_bytes())

    @staticmethod
    def _end(holding: _Holding, failure: str = "") -> None:
        holding.failure = holding.failure or failure
        holding.ended.set()
        holding.region.forget()


async def _on_disk(action: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Raises: RelayClosed if the disk does not take it, what the action raises."""
    try:
        await asyncio.to_thread(action, *args, **kwargs)
    except OSError as error:
        raise RelayClosed(reason="its disk does not take it") from error
