"""Bodies of requests, read under a limit and only when there is room for them."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from aggregator.errors import Overloaded, TooLarge
from aggregator.settings import Limits
from medveil.errors import RemoteProtocolError

_LENGTH = re.compile("0|[1-9][0-9]{0,18}")


class BrokenOff(RemoteProtocolError):
    """The sender went away in the middle of a request."""

    code = "broken-off"

    def __init__(self) -> None:
        super().__init__(
            what="The request ended before its body was complete.",
            meaning="The sender or the line to it went away; nothing of it was used.",
            remedy="Nothing to do; the node sends it again.",
        )


class Displaced(Exception):
    """A later body of the same sender took the place of this one while it was being read."""


@dataclass(eq=False)
class _Body:
    size: int
    reading: asyncio.Timeout | None
    """Ends its reading; None once it has been read."""
    leaving: bool = False
    """Whether its reading was ended for another one."""


class BodyMemory:
    """How many bytes of bodies may be in memory at one time. Who finds no room waits, its socket unread.

    Small bodies have a room of their own, in which ``parallel`` bounds each sender's part. Of the room for
    large ones, the half that fills last is for senders who have nothing in it, and nobody has more than
    ``bodies`` there: a further one takes the place of the sender's oldest that is still being read. That is
    how a node behaves whose line was cut: it sends again, and nobody will ever finish the first.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._large: dict[str, list[_Body]] = {}
        self._used = {True: 0, False: 0}
        self._freed = asyncio.Event()

    @property
    def used(self) -> int:
        """Bytes that are reserved, of both rooms."""
        return sum(self._used.values())

    @asynccontextmanager
    async def room(self, size: int, sender: str, leases: ExitStack) -> AsyncIterator[None]:
        """Room for a body that is read inside the block; it is kept until the leases are given back.

        Raises: Overloaded after waiting in vain; Displaced.
        """
        if not size:
            yield
            return
        small = size <= self._limits.small_body
        try:
            async with asyncio.timeout(None) as reading:
                body = _Body(size, reading)
                await self._wait_for_room(body, sender, small=small)
                leases.callback(self._give_back, body, sender, small=small)
                try:
                    yield
                finally:
                    body.reading = None
        except TimeoutError as error:
            raise Displaced() from error

    async def _wait_for_room(self, body: _Body, sender: str, *, small: bool) -> None:
        try:
            async with asyncio.timeout(self._limits.body_wait_s):
                while not self._fits(body, sender, small=small):
                    await self._freed.wait()
        except TimeoutError as error:
            raise Overloaded() from error
        self._used[small] += body.size
        if not small:
            self._large.setdefault(sender, []).append(body)

    def _fits(self, body: _Body, sender: str, *, small: bool) -> bool:
        """Whether there is room now; if the sender itself is in the way, its oldest body makes room soon."""
        limits, used, mine = self._limits, self._used[small], self._large.get(sender, [])
        if small:
            return not used or used + body.size <= limits.small_memory
        if len(mine) >= limits.bodies:
            oldest = next((b for b in mine if b.reading is not None), None)
            if oldest is not None and oldest.reading is not None and not any(b.leaving for b in mine):
                oldest.reading.reschedule(asyncio.get_running_loop().time())
                oldest.leaving = True
            return False
        share = limits.body_memory if not mine else limits.body_memory // 2
        return not used or used + body.size <= share

    def _give_back(self, body: _Body, sender: str, *, small: bool) -> None:
        self._used[small] -= body.size
        if not small:
            self._large[sender].remove(body)
            if not self._large[sender]:
                del self._large[sender]
        self._freed.set()
        self._freed = asyncio.Event()


def declared_length(request: Request, limit: int) -> int | None:
    """How long the body says it is; None if it does not. Raises: TooLarge."""
    declared = request.headers.get("content-length")
    if declared is None:
        return None if "transfer-encoding" in request.headers else 0
    if not (_LENGTH.fullmatch(declared) and int(declared) <= limit):
        raise TooLarge(limit=limit)
    return int(declared)


async def read_body(
    request: Request, limit: int, memory: BodyMemory, leases: ExitStack, *, sender: str
) -> bytes:
    """The body, refused as soon as it is known to be too large; read only when there is room for it.

    Args:
        sender: whose share of the room it takes.
    Raises: TooLarge, Overloaded; BrokenOff, also if a later body of the same sender took its place.
    """
    declared = declared_length(request, limit)
    body = io.BytesIO()  # its bytes are handed out as they lie: no second copy of a segment
    try:
        async with memory.room(limit if declared is None else declared, sender, leases):
            async for piece in request.stream():
                if body.tell() + len(piece) > limit:
                    raise TooLarge(limit=limit)
                body.write(piece)
    except (ClientDisconnect, Displaced) as error:
        raise BrokenOff() from error
    return body.getvalue()
