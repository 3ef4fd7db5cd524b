"""The audit log on its way elsewhere: into a file that is gone on with, or to an archive by syslog."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from aggregator.adminkey import open_store
from aggregator.auditlog import START, Keys
from aggregator.monitoring import AuditTarget
from aggregator.settings import Settings
from aggregator.storage.log import AuditLog
from aggregator.storage.store import Store
from aggregator.telling.audit_file import Format, Header, as_json, header_line, line_of, resumed
from medveil import syslog
from medveil.errors import BadFile, BadOption, Error
from medveil.shown import plain
from medveil.syslog import Forwarder, SyslogTarget

AT_ONCE = 2000
"""Entries that are sent before the cursor moves on; some hundred bytes each."""
PORTS = {"syslog": 514, "syslog+tls": 6514}


def target_of(
    address: str, *, authority: Path | None = None, certificate: Path | None = None
) -> SyslogTarget:
    """``syslog://HOST[:PORT]`` or ``syslog+tls://HOST[:PORT]``. Raises: BadOption."""
    try:
        parts = urlsplit(address)
        port = (parts.port or PORTS[parts.scheme]) if parts.scheme in PORTS else 0
    except ValueError:
        raise BadOption(problem="the archive's address is none") from None
    if not port or not parts.hostname or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise BadOption(problem="an archive is named as syslog+tls://HOST:PORT or syslog://HOST:PORT")
    if parts.scheme == "syslog" and (authority or certificate):
        raise BadOption(problem="syslog:// has no TLS; say syslog+tls://")
    return SyslogTarget(
        parts.hostname, port, tls=parts.scheme == "syslog+tls", authority=authority, certificate=certificate
    )


def header_after(store: Store, since: int, consortium: str) -> Header:
    """The first line of an export that begins after this entry. Raises: BadOption if there is none."""
    if not 0 <= since <= store.transactions.head.number:
        raise BadOption(problem=f"the log ends at entry {store.transactions.head.number}")
    previous = START if since == 0 else next(store.log.entries(since - 1)).hash
    keys = Keys.of(store.log.key_changes(), store.transactions.admin_key)
    return Header(since=since, previous=previous.hex(), key=keys.at(since).hex(), consortium=consortium[:200])


def lines_after(store: Store, since: int, form: Format, consortium: str) -> Iterator[bytes]:
    """A whole export, line by line. Raises: BadOption, StorageFailed."""
    header = header_after(store, since, consortium)
    host = syslog.own_host()
    yield header_line(header, form, time_ms=int(time.time() * 1000), host=host)
    for entry in store.log.entries(since):
        yield line_of(entry, form, host=host)


def export_to_file(
    store: Store, path: Path, since: int | None, form: Format, consortium: str
) -> tuple[int, int]:
    """Write the log to a file, or go on with one that an earlier export has begun; from where and to where.

    A crash leaves whole lines and perhaps half a one, which the next export
    cuts off.

    Raises: BadOption, BadFile if the file is none of this log.
    """
    try:
        if path.exists() and path.stat().st_size > 0:
            if since is not None:
                raise BadOption(problem="the file is there already, and is gone on with: leave out --since")
            return _go_on(store, path, form)
        with open(path, "wb") as file:
            number = (since or 0) - 1
            for text in lines_after(store, since or 0, form, consortium):
                file.write(text + b"\n")
                number += 1
            _settle(file)
        return since or 0, number
    except OSError as error:
        raise BadFile(name=path.name, problem=error.strerror or "it cannot be written") from error


def _go_on(store: Store, path: Path, form: Format) -> tuple[int, int]:
    last = resumed(path)
    if last is None:
        raise BadFile(name=path.name, problem="it holds no entry to go on from; remove it")
    there = next(store.log.entries(last.number - 1), None)
    if there is None or there.hash.hex() != last.hash:
        problem = f"its entry {last.number} is not that of this log"
        raise BadFile(name=path.name, problem=problem)
    number = last.number
    with open(path, "ab") as file:
        for entry in store.log.entries(last.number):
            file.write(line_of(entry, form, host=syslog.own_host()) + b"\n")
            number = entry.number
        _settle(file)
    return last.number, number


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class ArchiveAway(Error):
    """An archive that the audit log cannot be sent to."""

    code = "archive-away"

    def __init__(self, *, place: str, reason: str) -> None:
        super().__init__(
            what=f"The archive at {place} does not take the audit log: {reason}.",
            meaning="What was sent before is remembered; nothing is lost.",
            remedy="Is it up, does it speak syslog over TCP, has --authority signed its certificate? The "
            "same command goes on from there.",
        )


class AuditFollower(Forwarder):
    """Sends the audit log to an archive, from a cursor on, for as long as it runs.

    Args:
        folder: the cursor is kept there, one for each archive.
        since: begin here, whatever the cursor says.
    """

    def __init__(
        self, audit_log: AuditLog, target: SyslogTarget, folder: Path, *, since: int | None = None
    ) -> None:
        which = hashlib.sha256(f"{target.host}:{target.port}".encode()).hexdigest()[:12]
        super().__init__(target, folder / f"audit-sent-{which}", broken=(Error,))
        self._log, self._since, self._host = audit_log, since, syslog.own_host()

    def known(self) -> int:
        """See :class:`Forwarder`."""
        return super().known() if self._since is None else self._since

    def keep(self, number: int) -> None:
        """See :class:`Forwarder`."""
        super().keep(number)
        self._since = None

    def batches(self, after: int) -> Generator[list[tuple[int, bytes]], None, None]:
        """See :class:`Forwarder`. Raises: StorageFailed."""
        entries = self._log.entries(after)
        while batch := list(islice(entries, AT_ONCE)):
            yield [
                (entry.number, syslog.counted(line_of(entry, "syslog", host=self._host))) for entry in batch
            ]


def followed(store: Store, target: AuditTarget | None, folder: Path) -> AuditFollower | None:
    """What a running aggregator sends to its archive, if it has one. Raises: BadOption."""
    if target is None:
        return None
    there = target_of(target.to, authority=target.authority, certificate=target.certificate)
    return AuditFollower(store.log, there, folder)


@dataclass(frozen=True)
class Unsent:
    """What an archive lacks of the audit log."""

    entries: int
    since: float | None
    """When the oldest of them was written, Unix time; None if it has all."""


def unsent(store: Store, target: AuditTarget | None, folder: Path) -> Unsent | None:
    """What the archive of a running aggregator lacks; None where there is none. Raises: StorageFailed."""
    follower = followed(store, target, folder)
    if follower is None:
        return None
    entries, oldest_ms = store.log.rest(follower.known())
    return Unsent(entries, None if oldest_ms is None else oldest_ms / 1000)


def send_once(store: Store, target: SyslogTarget, folder: Path, since: int | None) -> tuple[int, int]:
    """Send what an archive was not sent yet; from where and to where. Raises: ArchiveAway, StorageFailed."""

    async def send() -> tuple[int, int]:
        follower = AuditFollower(store.log, target, folder, since=since)
        begin = follower.known()
        try:
            return begin, await follower.send_all(last=True)
        finally:
            follower.drop()

    try:
        return asyncio.run(send())
    except (OSError, TimeoutError) as error:
        reason = plain(getattr(error, "strerror", None) or type(error).__name__)
        raise ArchiveAway(place=plain(f"{target.host}:{target.port}"), reason=reason) from error


@contextmanager
def _opened(settings: Settings) -> Iterator[Store]:
    store = open_store(settings)
    try:
        yield store
    finally:
        store.close()


def export_log(
    settings: Settings, to: str, since: int | None, form: Format, authority: Path | None
) -> tuple[int, int]:
    """Write the log to a file, or send it to an archive, from where it was left off; from where and to where.

    Args:
        to: a path, ``syslog://…`` or ``syslog+tls://…``. since: begin after this entry in place of that.
        authority: that signed the archive's certificate (PEM).
    Raises: BadOption, BadFile, ArchiveAway; what opening the store raises.
    """
    with _opened(settings) as store:
        if since is not None and since > store.transactions.head.number:
            raise BadOption(problem=f"the log ends at entry {store.transactions.head.number}")
        if "://" in to:
            return send_once(store, target_of(to, authority=authority), settings.folder, since)
        return export_to_file(store, Path(to), since, form, settings.title)


def exported_lines(settings: Settings, since: int) -> Iterator[dict[str, Any]]:
    """The log from here on as an exported file has it, a line each. Raises: BadOption."""
    with _opened(settings) as store:
        yield header_after(store, since, settings.title).model_dump(mode="json")
        yield from map(as_json, store.log.entries(since))
