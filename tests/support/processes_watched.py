"""What processes hold in memory and what passes through a port, seen from outside."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

RESIDENT_S, SHARED_S = 0.3, 4.0
"""The proportional sets are dear to read, so they are read seldom."""
MIB = 2**20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        with suppress(OSError):  # one that has just ended
            for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
                with suppress(OSError):  # or a thread of it
                    waiting += map(int, children.read_text().split())
    return found


def in_memory(pids: Iterable[int]) -> dict[int, str]:
    """Those processes that hold memory of their own, and what the system says of it (proc(5), statm).

    Between vfork and exec a child stands in its parent's memory, to the last page, which is counted once.
    """
    found: dict[str, int] = {}
    for pid in pids:
        with suppress(OSError):
            found.setdefault(Path(f"/proc/{pid}/statm").read_text(), pid)
    return {pid: told for told, pid in found.items()}


def resident(pid: int) -> int:
    """Resident set in bytes; pages shared with other processes count in full."""
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


def proportional(pid: int) -> int:
    """Proportional set in bytes: a page shared by k processes counts 1/k for each."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that these processes and their descendants have used so far."""
    ticks = 0
    for pid in {member for each in pids for member in family(each)}:
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass
class Peak:
    """The largest sums seen over a process and its descendants, in MiB."""

    resident: float = 0.0
    proportional: float = 0.0


class MemoryWatch:
    """Samples processes by name until left; the resident sets as often as was done for the others."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.peaks = {name: Peak() for name in pids}
        self._pids, self._stop = pids, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample(thorough=True)

    def _watch(self) -> None:
        next_shared = time.monotonic() + SHARED_S
        while not self._stop.wait(RESIDENT_S):
            thorough = time.monotonic() > next_shared
            if thorough:
                next_shared = time.monotonic() + SHARED_S
            self._sample(thorough=thorough)

    def _sample(self, *, thorough: bool) -> None:
        for name, pid in self._pids.items():
            everybody, peak = in_memory(family(pid)), self.peaks[name]
            pages = sum(int(told.split()[1]) for told in everybody.values())
            peak.resident = max(peak.resident, pages * PAGE_BYTES / MIB)
            if thorough:
                peak.proportional = max(peak.proportional, sum(map(proportional, everybody)) / MIB)


@dataclass
class Relay:
    """A port of its own for one hospital, passed on to the aggregator's; it counts all that passes."""

    target: int
    up: int = 0
    down: int = 0
    port: int = 0
    _server: asyncio.Server | None = field(default=None, repr=False)

    async def open(self) -> None:
        """Start to listen on a free port."""
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._copy(reader, far_writer, "up"), self._copy(far_reader, writer, "down"))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with suppress(OSError):
            while data := await reader.read(2**18):
                setattr(self, way, getattr(self, way) + len(data))
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()


class Relays:
    """One :class:`Relay` for each hospital, on a thread with a loop of its own."""

    def __init__(self, target: int, count: int) -> None:
        self.each = [Relay(target) for _ in range(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for relay in self.each:
            asyncio.run_coroutine_threadsafe(relay.open(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def bytes(self) -> tuple[float, float]:
        """(up, down), mean over the hospitals, so far."""
        return (
            sum(r.up for r in self.each) / len(self.each),
            sum(r.down for r in self.each) / len(self.each),
        )
