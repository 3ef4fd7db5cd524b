"""The record on its way to the hospital's audit archive: syslog over TLS, kept until the archive takes it.

The spool is the record itself with a cursor beside it, so nothing is written twice, nothing waits in memory,
and an archive that is away blocks nothing. Syslog has no acknowledgement: the cursor moves on once the
connection has stood for another look, so after a break some messages come twice, each with its number.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from hospital_node.settings import AuditSyslog, Node
from hospital_node.transmissions.audit_messages import AuditSource, framed, is_audited
from hospital_node.transmissions.entries import LINE_BYTES, BadTransmission, Entry, read_header, read_line
from hospital_node.transmissions.look import NoRecord, files_of
from medveil.errors import BadFile
from medveil.files import replace_durably
from medveil.log import get_logger
from medveil.shown import plain

CURSOR = "sent.exported"
LOOK_S, LONGEST_PAUSE_S, CONNECT_S = 2.0, 300.0, 15.0
AT_ONCE = 200
"""Entries that are read and sent before the cursor may move on."""
log = get_logger()


@dataclass
class Tail:
    """Reads the record's entries after a number, file by file, as they are written."""

    folder: Path
    after: int
    _file: BinaryIO | None = field(default=None, repr=False)
    _done: set[int] = field(default_factory=set)
    """Files that were read to their end, by inode."""

    def entries(self, most: int) -> Iterator[Entry]:
        """The next ones that are there, at most so many. Raises: BadTransmission, OSError."""
        for _ in range(most):
            entry = self._next()
            if entry is None:
                return
            yield entry

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _next(self) -> Entry | None:
        while True:
            if self._file is None and not self._open():
                return None
            assert self._file is not None
            place = self._file.tell()
            line = self._file.readline(LINE_BYTES)
            if line.endswith(b"\n"):
                entry = read_line(line, number=self.after + 1)
                if entry.number > self.after:
                    self.after = entry.number
                    return entry
                continue
            self._file.seek(place)
            if not self._put_aside():
                return None
            self.close()  # it was read to its end; the next one has begun

    def _open(self) -> bool:
        """The oldest file that may hold an entry which was not read yet."""
        files: list[Path] = []
        with suppress(NoRecord):
            files = [path for path in files_of(self.folder) if path.stat().st_ino not in self._done]
        for number, path in enumerate(files):
            if path == files[-1] or _before(files[number + 1]) > self.after:
                self._file = open(path, "rb")  # noqa: SIM115  (it is read on at the next look)
                self._file.readline(LINE_BYTES)
                return True
        return False

    def _put_aside(self) -> bool:
        """Whether the file in hand is no longer the one that is written."""
        assert self._file is not None
        mine = os.fstat(self._file.fileno())
        with suppress(NoRecord, FileNotFoundError):
            there = os.stat(files_of(self.folder)[-1])
            if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
                self._done.add(mine.st_ino)
                return True
        return False


def _before(path: Path) -> int:
    with open(path, "rb") as file:
        return read_header(file.readline(LINE_BYTES)).before.number


class AuditArchive:
    """Sends what is new for as long as the node runs."""

    def __init__(self, node: Node, target: AuditSyslog) -> None:
        self._folder, self._target = node.folder, target
        self._source = AuditSource.here(node.settings.name, target.site)
        self._cursor = node.folder / CURSOR
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    async def run(self) -> None:
        """Never returns. Whatever happens to the archive, nothing of it reaches the node's work."""
        pause, away = 1.0, False
        while True:
            try:
                await self._send_all()
            except (OSError, TimeoutError, BadTransmission, BadFile) as error:
                self._drop()
                if not away:
                    log.warning("audit-archive.away", reason=_reason(error))
                away = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                pause, away = 1.0, False
                await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """Send what is left, in a second or not at all: the rest goes with the next start."""
        with suppress(OSError, TimeoutError, BadTransmission, BadFile):
            async with asyncio.timeout(1.0):
                await self._send_all(last=True)
        self._drop()

    async def _send_all(self, *, last: bool = False) -> None:
        """Everything that is there; returns when there is no more, with the cursor at what surely arrived."""
        tail = Tail(self._folder, self._known())
        try:
            while True:
                entries = await asyncio.to_thread(lambda: list(tail.entries(AT_ONCE)))
                if not entries:
                    return
                await self._send([entry for entry in entries if is_audited(entry)])
                await asyncio.sleep(0.2 if last else LOOK_S)
                if self._writer is not None and (self._reader is None or self._reader.at_eof()):
                    raise ConnectionResetError(None, "the archive has closed the connection")
                await asyncio.to_thread(self._keep, entries[-1].number)
        finally:
            tail.close()

    async def _send(self, entries: list[Entry]) -> None:
        if not entries:
            return
        async with asyncio.timeout(CONNECT_S):
            if self._writer is None:
                context = await asyncio.to_thread(_context, self._target)
                host, port = self._target.place
                self._reader, self._writer = await asyncio.open_connection(host, port, ssl=context)
            for entry in entries:
                self._writer.write(framed(entry, self._source))
            await self._writer.drain()

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    def _known(self) -> int:
        with suppress(OSError, ValueError, TypeError, KeyError):
            return int(json.loads(self._cursor.read_bytes())["entry"])
        return 0

    def _keep(self, number: int) -> None:
        replace_durably(self._cursor, json.dumps({"entry": number}).encode(), private=True)


def _context(target: AuditSyslog) -> ssl.SSLContext:
    """Raises: BadFile, OSError."""
    try:
        context = ssl.create_default_context(cafile=str(target.authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if target.certificate is not None:
            context.load_cert_chain(target.certificate)
    except ssl.SSLError as error:
        raise BadFile(name="audit_syslog", problem="its authority or certificate cannot be read") from error
    return context


def _reason(error: Exception) -> str:
    return plain(getattr(error, "strerror", None) or getattr(error, "what", None) or type(error).__name__)
