"""The file of the privacy ledger: rows on stable storage, held by one process, its end kept elsewhere too."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from hospital_node.cohort import is_cohort
from hospital_node.contribution import Lasting
from medveil.errors import Error
from medveil.files import sync
from privacy.dp import ledger as rules
from privacy.dp.ledger import MARKS, Entry, Row


class LedgerBusy(Error):
    """Another process holds the ledger."""

    code = "ledger-busy"

    def __init__(self) -> None:
        super().__init__(
            what="Another process has the privacy ledger open.",
            meaning="Two writers could charge the same budget twice, so this one stops.",
            remedy="Stop the other 'medveil node' process that uses this folder.",
        )


class LedgerUnreadable(Error):
    """The file cannot be opened at all."""

    code = "ledger-unreadable"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The privacy ledger cannot be opened: {reason}.",
            meaning="Without it nobody knows what patients have spent, so nothing private is computed.",
            remedy="Check that ledger.jsonl is a file that the node's user may read and write, and the disk.",
        )


class LedgerClosed(Error, Lasting):
    """The ledger was closed, or a write failed half-way."""

    code = "ledger-closed"

    def __init__(self) -> None:
        super().__init__(
            what="The privacy ledger takes no more rows in this process.",
            meaning="It was closed, or a row could not be brought to stable storage.",
            remedy="Check the disk and start the node again; an unfinished row is cut off then.",
        )


class LedgerSetBack(Error):
    """The node's files contradict each other, or what the aggregator has written down: some are older."""

    code = "ledger-set-back"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The privacy ledger is not the newest there is: {problem}.",
            meaning="Charges may be missing, and patients could spend twice; nothing private is computed.",
            remedy="Put the newest copies of the node's files back. None there? 'medveil node ledger go-on'.",
        )


class LedgerReplaced(Error):
    """The file was changed or exchanged while this process held it."""

    code = "ledger-replaced"

    def __init__(self) -> None:
        super().__init__(
            what="The file of the privacy ledger was exchanged or changed under this process.",
            meaning="Rows would be written where nobody reads them; nothing more is charged or released.",
            remedy="Stop the node, put the right ledger.jsonl back, find out who had access, start again.",
        )


class Anchor(Protocol):
    """Where the end of the chain is kept beside the file: the node's journal."""

    def newest(self) -> tuple[int, str] | None:
        """Number and hash of the row that was kept last."""
        ...

    def keep(self, number: int, hash_: str) -> None:
        """Keep an end, on stable storage on return."""
        ...


class LedgerFile:
    """Rows in a file that only this process may write, each on stable storage before the call returns.

    With an anchor the end of the chain is kept there as well, after each row, so that it is never ahead of
    the file; and the folder is locked, too, so that a file put in this one's place opens no second door.
    """

    def __init__(self, path: Path, descriptor: int, rows: tuple[Row, ...], *, torn: bool) -> None:
        self._path, self._descriptor = path, [descriptor]
        self._anchor: Anchor | None = None
        self.rows = rows
        self.torn = torn
        """Whether an unfinished last line was cut off when the file was opened."""

    @classmethod
    def open(cls, path: Path, *, lock_folder: bool) -> Self:
        """Open or create the file, take the lock, cut off a torn last line and check every row.

        Raises: LedgerBusy, LedgerDamaged, LedgerUnreadable.
        """
        try:
            return cls._opened(path, lock_folder)
        except OSError as error:
            raise LedgerUnreadable(reason=error.strerror or "unknown reason") from error

    @classmethod
    def _opened(cls, path: Path, lock_folder: bool) -> Self:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened: list[int] = []
        try:
            opened.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if lock_folder:
                opened.append(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            for descriptor in reversed(opened):
                _lock(descriptor)
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            rows = _parse(whole)
            rules.verify(rows)
            if len(whole) < len(content):
                os.ftruncate(opened[0], len(whole))
            os.lseek(opened[0], 0, os.SEEK_END)
            _sync(path, opened[0])
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        file = cls(path, opened[0], rows, torn=len(whole) < len(content))
        file._descriptor = opened
        return file

    def tie(self, anchor: Anchor, *, trusting: bool) -> None:
        """Hold the rows against the end that the anchor keeps, and keep theirs there from now on.

        Args:
            trusting: do not compare: the owner goes on from this copy.
        Raises: LedgerSetBack.
        """
        if not trusting:
            check_end(self.rows, anchor.newest())
        self._anchor = anchor
        self._keep_end()

    def append(self, entry: Entry) -> None:
        """One more row. Raises: BadTransition, LedgerClosed, LedgerReplaced."""
        rows = rules.append(self.rows, entry, secrets.token_hex(8))
        if not self._descriptor:
            raise LedgerClosed()
        self._check_place(self._descriptor[0])
        line = json.dumps(rows[-1].as_dict(), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            _write(self._descriptor[0], line)
            _sync(self._path, self._descriptor[0])
        except OSError as error:
            # How much of the row is on disk is unknown; only a fresh start, which reads the file, can tell.
            self.close()
            raise LedgerClosed() from error
        self.rows = rows
        self._keep_end()

    def verify(self) -> None:
        """Read the file again and check every row (LedgerDamaged names the first bad one)."""
        content = self._path.read_bytes()
        rows = _parse(content[: content.rfind(b"\n") + 1])
        rules.verify(rows)
        if rows != self.rows:
            pairs = zip(rows, self.rows, strict=False)
            same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            raise rules.LedgerDamaged(row=same + 1, problem="it is not what this process wrote")

    def close(self) -> None:
        """Let go of the file and its lock."""
        for descriptor in self._descriptor:
            os.close(descriptor)
        self._descriptor = []

    def _check_place(self, descriptor: int) -> None:
        """Raises: LedgerReplaced unless the name still leads to this file, and it ends where it did."""
        mine = os.fstat(descriptor)
        try:
            there = os.stat(self._path)
        except OSError:
            there = None
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino) or mine.st_size != end:
            self.close()
            raise LedgerReplaced()

    def _keep_end(self) -> None:
        if self._anchor is None:
            return
        try:
            self._anchor.keep(len(self.rows), self.rows[-1].hash if self.rows else "")
        except Exception as error:
            self.close()
            raise LedgerClosed() from error


def check_end(rows: Sequence[Row], kept: tuple[int, str] | None, *, still: bool = True) -> None:
    """Hold the rows against the end that is kept elsewhere; a crash may leave the file one row ahead.

    Args:
        still: whether no row can have been written since that end was looked up.
    Raises: LedgerSetBack.
    """
    number, hash_ = kept or (0, "")
    if number > len(rows):
        raise LedgerSetBack(problem=f"it has {len(rows)} rows, and the journal has seen row {number}")
    if number and rows[number - 1].hash != hash_:
        raise LedgerSetBack(problem=f"its row {number} is not the one that the journal has seen")
    since = [r for r in rows if r.entry.state in MARKS or is_cohort(r.entry.dataset)]
    if still and len(rows) > number + 1 and (kept is not None or since):
        raise LedgerSetBack(
            problem=f"it has {len(rows)} rows, but the journal is older and has seen {number}"
        )


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LedgerBusy() from error


def _parse(content: bytes) -> tuple[Row, ...]:
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise rules.LedgerDamaged(row=number, problem="it is not JSON") from error
        rows.append(rules.parse_row(value, number=number))
    return tuple(rows)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync(path: Path, descriptor: int) -> None:
    """The file's content and its name in the folder, both on stable storage."""
    os.fsync(descriptor)
    sync(path.parent)
