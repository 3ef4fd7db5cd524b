"""Streams: whoever has a page open is sent what changes of it, as server-sent events.

One loop serves all streams of a process. It makes each page that somebody has open once for all of them, and
never works for more than a small share of a core: the longer a look takes, the rarer it is. A stream's event
ids name what its page shows; a browser that comes back with the id of what it has is sent what is new since,
by this process or by the next one. An id that is made up names nothing, and is answered by the whole page.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from aggregator.storage.transactions import NotLeading
from aggregator.web.dashboard.board import Board, Key, Shown
from medveil.log import get_logger

EVERY_S, SLOWEST_S = 1.0, 8.0
"""Between two looks, at least and at most."""
SHARE = 0.05
"""Of a core: what all looks together may take."""
BEAT_S = 4.0
"""How often a stream without news says that it lives. Pages call themselves stale after 10 s without."""
CHECK_S = 15.0
"""How often is asked whether a stream's person is still signed in."""
MOST_STREAMS = 400
RETRY_MS = 2_000
log = get_logger()


@dataclass
class _Channel:
    """A page that somebody has open."""

    key: Key
    made: Shown
    news: str = ""
    """What led to it from the state before, as JSON."""
    before: str | None = None
    """The mark of that state."""
    streams: set[asyncio.Event] = field(default_factory=set)
    looked: float = field(default_factory=time.monotonic)
    """When it was known to be so last, monotonic seconds."""
    failing: bool = False

    def take(self, made: Shown) -> None:
        """What it is now."""
        self.looked, self.failing = time.monotonic(), False
        if made.mark != self.made.mark:
            self.news, self.before, self.made = made.since(self.made), self.made.mark, made
            self.wake()

    def wake(self) -> None:
        """Let every stream look."""
        for one in self.streams:
            one.set()


class Streams:
    """All streams of one process.

    Args:
        clock: Unix seconds, sent along so that a browser's own clock does not matter.
    """

    def __init__(self, board: Board, clock: Callable[[], float] = time.time) -> None:
        self._board, self._clock = board, clock
        self._channels: dict[Key, _Channel] = {}
        self._loop: asyncio.Task[None] | None = None
        self.open = 0

    @property
    def full(self) -> bool:
        """Whether as many are open as may be."""
        return self.open >= MOST_STREAMS

    async def follow(
        self, key: Key, seen: str, may_look: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[bytes]:
        """One stream.

        Args:
            seen: the mark of what the browser shows, as it says.
            may_look: asked every now and then; the stream ends when it says no.
        """
        made = await self._board.made(key)
        channel = self._channels.setdefault(key, _Channel(key, made))
        channel.take(made)
        news = asyncio.Event()
        channel.streams.add(news)
        self.open += 1
        self._begin()
        checked = time.monotonic()
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            while not self._ends():
                if time.monotonic() - checked > CHECK_S:
                    checked = time.monotonic()
                    if not await may_look():
                        yield b"event: gone\ndata: {}\n\n"
                        return
                news.clear()
                yield self._event(channel, seen)
                seen = channel.made.mark
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_S):
                        await news.wait()
        finally:
            self.open -= 1
            channel.streams.discard(news)
            if not channel.streams and self._channels.get(key) is channel:
                del self._channels[key]

    def _event(self, channel: _Channel, seen: str) -> bytes:
        """What is new for somebody who has seen that; an empty one says that nothing is."""
        if seen == channel.made.mark:
            data = "{}"
        elif seen == channel.before:
            data = channel.news
        else:
            data = channel.made.since(None)
        head = f"id: {channel.made.mark}\nevent: parts\ndata: "
        age = time.monotonic() - channel.looked
        body = json.dumps({"now": round(self._clock(), 2), "age": round(age, 1)})
        return f'{head}{body[:-1]}, "parts": {data}}}\n\n'.encode()

    def _ends(self) -> bool:
        """Whether this process ends, or has lost what it reads from."""
        try:
            return bool(getattr(self._board.serving(), "stopping", False))
        except NotLeading:
            return True

    def _begin(self) -> None:
        if self._loop is None or self._loop.done():
            self._loop = asyncio.ensure_future(self._look_on())

    async def _look_on(self) -> None:
        """Look at every open page again and again, while there is one."""
        pause = EVERY_S
        while self._channels:
            await asyncio.sleep(pause)
            if self._ends():
                for channel in self._channels.values():
                    channel.wake()
                await asyncio.sleep(0)
                continue
            before = self._board.spent_s
            for channel in list(self._channels.values()):
                await self._look(channel)
            took = self._board.spent_s - before
            pause = min(max(EVERY_S, took / SHARE), SLOWEST_S)

    async def _look(self, channel: _Channel) -> None:
        try:
            channel.take(await self._board.made(channel.key))
        except NotLeading:
            channel.wake()
        except Exception as error:  # the page grows old, and says so; the others go on
            if not channel.failing:
                log.warning("page.failed", code=getattr(error, "code", type(error).__name__))
            channel.failing = True
