"""The record on its way to the hospital's audit archive: DICOM audit messages by :mod:`medveil.syslog`."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from hospital_node.settings import AuditSyslog, Node
from hospital_node.transmissions.audit_messages import AuditSource, framed, is_audited
from hospital_node.transmissions.entries import LINE_BYTES, BadTransmission, Entry, read_header, read_line
from hospital_node.transmissions.look import NoRecord, files_of
from hospital_node.transmissions.page_users import page_users
from medveil.syslog import AT_ONCE, Forwarder, SyslogTarget

CURSOR, PAGE_CURSOR = "sent.exported", "page-events.exported"


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


class AuditArchive(Forwarder):
    """Sends what is new for as long as the node runs."""

    def __init__(self, node: Node, target: AuditSyslog) -> None:
        host, port = target.place
        there = SyslogTarget(host, port, authority=target.authority, certificate=target.certificate)
        super().__init__(there, node.folder / CURSOR, broken=(BadTransmission,))
        self._folder, self._source = node.folder, AuditSource.here(node.settings.name, target.site)

    def batches(self, after: int) -> Generator[list[tuple[int, bytes]], None, None]:
        """See :class:`Forwarder`. Raises: BadTransmission, OSError."""
        with closing(Tail(self._folder, after)) as tail:
            while entries := list(tail.entries(AT_ONCE)):
                yield [(one.number, framed(one, self._source) if is_audited(one) else b"") for one in entries]


class PageArchive(Forwarder):
    """Sends who has signed in at the operator's page, for as long as the node runs."""

    def __init__(self, node: Node, target: AuditSyslog) -> None:
        host, port = target.place
        there = SyslogTarget(host, port, authority=target.authority, certificate=target.certificate)
        super().__init__(there, node.folder / PAGE_CURSOR)
        self._folder, self._source = node.folder, AuditSource.here(node.settings.name, target.site)

    def batches(self, after: int) -> Generator[list[tuple[int, bytes]], None, None]:
        """See :class:`Forwarder`."""
        while entries := page_users(self._folder, after):
            yield [(one.number, framed(one, self._source)) for one in entries]
            after = entries[-1].number
