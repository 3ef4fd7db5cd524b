"""Syslog to an archive over TCP or TLS: lines of RFC 5424, counted octets (RFC 5425, RFC 6587), a cursor.

Whoever keeps a record tells it to an archive from the record itself, with a cursor beside it: nothing is
written twice, nothing waits in memory, and an archive that is away blocks nothing. Syslog has no
acknowledgement: the cursor moves on once the connection has stood for another look, so after a break some
messages come twice, each with its number.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import socket
import ssl
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medveil.errors import BadFile, Error
from medveil.files import replace_durably
from medveil.log import get_logger
from medveil.shown import plain

LOOK_S, LONGEST_PAUSE_S, CONNECT_S = 2.0, 300.0, 15.0
AT_ONCE = 200
"""Entries that are read and sent before the cursor may move on."""
BOM = b"\xef\xbb\xbf"
SECURITY = 10
"""Facility of security and authorization messages."""
NOTICE, WARNING = 5, 4
"""Severities: normal but significant, and what to look into."""
log = get_logger()


@dataclass(frozen=True)
class SyslogTarget:
    """Where messages go."""

    host: str
    port: int
    tls: bool = True
    authority: Path | None = None
    """That signed the archive's certificate (PEM); those of this machine if left out."""
    certificate: Path | None = None
    """Our own for it, with its key (PEM), where the archive asks for one."""

    def context(self) -> ssl.SSLContext | None:
        """Raises: BadFile, OSError."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(
                cafile=None if self.authority is None else str(self.authority)
            )
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate)
        except ssl.SSLError as error:
            problem = "its authority or certificate cannot be read"
            raise BadFile(name="the archive's settings", problem=problem) from error
        return context


def own_host() -> str:
    """This machine's name, as a line may hold it."""
    return plain(socket.gethostname(), 60).replace(" ", "-") or "-"


def time_of(time_ms: int) -> str:
    """Unix milliseconds as lines tell time."""
    moment = dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def line(
    text: bytes,
    *,
    time_ms: int,
    severity: int,
    program: str,
    kind: str,
    host: str,
    process: int | None = None,
) -> bytes:
    """One line of RFC 5424.

    Args:
        text: UTF-8. kind: the MSGID. process: this one if left out; 0 for none.
    """
    number = os.getpid() if process is None else process
    head = (
        f"<{8 * SECURITY + severity}>1 {time_of(time_ms)} {host or '-'} {program} {number or '-'} {kind} - "
    )
    return head.encode("ascii", "replace") + BOM + text


def counted(text: bytes) -> bytes:
    """A line with its length before it, as it goes over a stream."""
    return f"{len(text)} ".encode() + text


class Forwarder:
    """Sends what is new in a record for as long as the program runs.

    A subclass says what that is, in :meth:`batches`.

    Args:
        cursor: the file that names the last entry that surely arrived.
        broken: what reading the record raises if it is damaged.
    """

    def __init__(
        self,
        target: SyslogTarget,
        cursor: Path,
        *,
        broken: tuple[type[Error], ...] = (),
    ) -> None:
        self._target, self._cursor = target, cursor
        self._failures: tuple[type[Exception], ...] = (OSError, TimeoutError, BadFile, *broken)
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    def batches(self, after: int) -> Generator[Sequence[tuple[int, bytes]], None, None]:
        """Entries after a number as counted lines, some at a time, until there are no more now.

        An entry that the archive is not told of is empty. On another thread.
        """
        raise NotImplementedError

    async def run(self) -> None:
        """Never returns. Whatever happens to the archive, nothing of it reaches the program's work."""
        pause, away = 1.0, False
        while True:
            try:
                await self.send_all()
            except self._failures as error:
                self.drop()
                if not away:
                    log.warning("audit-archive.away", reason=_reason(error))
                away = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                if away:
                    log.info("audit-archive.back")
                pause, away = 1.0, False
                await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """Send what is left, in a second or not at all: the rest goes with the next start."""
        with suppress(*self._failures):
            async with asyncio.timeout(1.0):
                await self.send_all(last=True)
        self.drop()

    async def send_all(self, *, last: bool = False) -> int:
        """Everything that is there; returns when there is no more, with the cursor at what surely arrived.

        Returns: the cursor. Raises: OSError, TimeoutError, BadFile, what :meth:`batches` raises.
        """
        after = self.known()
        batches = self.batches(after)
        try:
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                await self._send([text for _, text in batch if text])
                await asyncio.sleep(0.2 if last else LOOK_S)
                if self._writer is not None and (self._reader is None or self._reader.at_eof()):
                    raise ConnectionResetError(None, "the archive has closed the connection")
                after = batch[-1][0]
                await asyncio.to_thread(self.keep, after)
            return after
        finally:
            with suppress(ValueError):  # it is at work on another thread, and ends with it
                batches.close()

    async def _send(self, lines: Sequence[bytes]) -> None:
        if not lines:
            return
        async with asyncio.timeout(CONNECT_S):
            if self._writer is None:
                context = await asyncio.to_thread(self._target.context)
                self._reader, self._writer = await asyncio.open_connection(
                    self._target.host, self._target.port, ssl=context
                )
            self._writer.writelines(lines)
            await self._writer.drain()

    def drop(self) -> None:
        """Let go of the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    def known(self) -> int:
        """The last entry that surely arrived; 0 if none has."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            return int(json.loads(self._cursor.read_bytes())["entry"])
        return 0

    def keep(self, number: int) -> None:
        """This entry has surely arrived. Raises: OSError."""
        replace_durably(self._cursor, json.dumps({"entry": number}).encode(), private=True)


def _reason(error: BaseException) -> str:
    return plain(getattr(error, "strerror", None) or getattr(error, "what", None) or type(error).__name__)
