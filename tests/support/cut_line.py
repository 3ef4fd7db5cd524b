"""The line between an aggregator and its hospitals, cut again and again."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass
class CutLine:
    """A TCP port in front of whichever aggregator leads; every connection is cut after a random while."""

    draw: random.Random
    mean_s: float
    target: int = 0
    port: int = 0
    cuts: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def start(self) -> None:
        """Listen, on a thread of its own."""
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> None:
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        both = asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        try:
            async with asyncio.timeout(self.draw.expovariate(1 / self.mean_s) if self.mean_s else None):
                await both
        except TimeoutError:
            self.cuts += 1
        finally:
            for end in (writer, far_writer):
                with suppress(OSError, RuntimeError):
                    end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()
