"""The file of the record of transmissions: on stable storage before the first byte of a request leaves.

One fsync for each request that holds something; requests that hold nothing (polls) are counted and told once
an hour. What was answered follows without an fsync of its own: a power cut may take it, never the entry of
what was sent. Several processes of one node (the service, a command) write one file, one after the other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hospital_node.transmissions.entries import (
    NOTHING,
    BadTransmission,
    Detail,
    End,
    Entry,
    Header,
    NotRecorded,
    read_header,
    read_line,
    seal,
)
from hospital_node.transmissions.requests import MASKED, Sent, sent
from medveil.authority import fingerprints_in
from medveil.files import new_private, sync
from medveil.identity import Body, Identity

FILE, LOCK, ARCHIVED = "sent.jsonl", "sent.lock", "sent-{:012d}.jsonl"
FILE_BYTES = 16 * 2**20
"""A file that would become longer is put aside, and the chain goes on in a new one."""
TAIL_BYTES = 65_536
CHECKPOINT_EVERY = 32
"""Entries after which the record's end is kept in the journal, too; and at every start and stop."""
QUIET_S = 3600.0
"""How long requests without content are counted before they are written down."""


class Anchor(Protocol):
    """Where the record's end is kept beside the files: the node's journal."""

    def newest(self) -> End | None:
        """The end that was kept last."""
        ...

    def keep(self, end: End) -> None:
        """Keep an end, on stable storage on return."""
        ...


@dataclass(frozen=True)
class About:
    """What this hospital knows of a plan when something leaves for it."""

    epsilon: float | None = None
    """Charged for it so far."""
    approved_by: str = ""
    """The local user who approved it."""


def _nothing_known(_: str) -> About:
    return About()


class Leaving:
    """A request on its way."""

    tries = 0
    """How often its bytes have left."""


class SentRecord:
    """One node's record. Opening it does nothing; the first entry makes the file.

    Args:
        folder: the node's.
        to: the aggregator's address.
        authority: file of the authority that vouches for it.
    """

    about: Callable[[str], About]
    """Tells of a plan what goes into its entries."""

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        *,
        to: str,
        authority: Path,
        most_bytes: int = FILE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._path, self._identity = folder, folder / FILE, identity
        self._to, self._authority, self._authority_name = to, authority, ""
        self._most_bytes, self._clock = most_bytes, clock
        self.about = _nothing_known
        self._anchor: Anchor | None = None
        self._kept = 0
        self._place: tuple[int, int, int] | None = None
        """Device, inode and size of the file when this object last wrote or read it."""
        self._end = NOTHING
        self._stray: End | None = None
        """The end to go on from where the files contradict the journal, until an entry has been written."""
        self._quiet: Counter[str] = Counter()
        self._quiet_since = clock()
        self._thread = threading.Lock()

    def tie(self, anchor: Anchor) -> bool:
        """Keep the record's end there from now on.

        Returns: False if the files are not the newest there were. The chain then goes on from the end that
            is kept, so that :func:`~hospital_node.transmissions.look.verify` names what is missing for ever.
        Raises: NotRecorded.
        """
        kept = anchor.newest() or NOTHING
        with self._locked():
            self._catch_up()
            self._anchor, self._kept = anchor, kept.number
            whole = self._has(kept)
            if not whole:
                self._end = self._stray = End(max(kept.number, self._end.number), kept.hash)
        return whole

    @contextmanager
    def leaving(self, method: str, target: str, body: Body, digest: bytes | None) -> Iterator[Leaving]:
        """Goes around a request. Raises: NotRecorded, and then nothing must leave."""
        what, leaving = sent(method, target), Leaving()
        if what.quiet(body):
            self._count(what.kind)
            yield leaving
            return
        number = self.note(what.kind, self._details(what, body, digest))
        answer, status = "none", 0
        try:
            yield leaving
            answer = "taken"
        except Exception as error:
            status = int(getattr(error, "status", 0))
            answer = "refused" if status else "none"
            raise
        finally:
            told: dict[str, Detail] = {"of": number, "answer": answer, "tries": leaving.tries}
            with suppress(NotRecorded):
                self.note("answer", told | ({"status": status} if status else {}), durable=False)

    def note(self, kind: str, told: dict[str, Detail], *, durable: bool = True) -> int:
        """One more entry; its number. Raises: NotRecorded."""
        with self._locked():
            self._catch_up()
            entry = seal(self._identity, self._end, time_ms=int(self._clock() * 1000), kind=kind, told=told)
            self._write(entry, durable)
        if self._anchor is not None and entry.number >= self._kept + CHECKPOINT_EVERY:
            self._keep()
        return entry.number

    def close(self) -> None:
        """Write down what was counted, and keep the end."""
        with suppress(NotRecorded):
            self._write_counts()
            if self._anchor is not None and self._end.number != self._kept:
                self._keep()

    def _details(self, what: Sent, body: Body, digest: bytes | None) -> dict[str, Detail]:
        name = digest or hashlib.sha256(body or what.ledger.encode()).digest()
        masked = what.kind == MASKED
        told: dict[str, Detail] = {**what.where, "bytes": len(body), "sha256": name.hex(), "masked": masked}
        if what.ledger:
            told["ledger"] = hashlib.sha256(what.ledger.encode()).hexdigest()
        if "plan" in what.where:
            about = self.about(str(what.where["plan"]))
            told |= {} if about.epsilon is None else {"epsilon": about.epsilon}
            told |= {"approved_by": about.approved_by} if about.approved_by else {}
        return told | {"to": self._to, "authority": self._fingerprint()}

    def _fingerprint(self) -> str:
        if not self._authority_name:
            with suppress(OSError, ValueError):
                self._authority_name = fingerprints_in(self._authority.read_bytes())[0]
        return self._authority_name

    def _count(self, kind: str) -> None:
        self._quiet[kind] += 1
        if self._clock() - self._quiet_since >= QUIET_S:
            with suppress(NotRecorded):  # they hold nothing; they are counted on until there is room
                self._write_counts()

    def _write_counts(self) -> None:
        if self._quiet:
            counts, since = dict(sorted(self._quiet.items())), int(self._quiet_since * 1000)
            self.note("requests", {"counts": counts, "since_ms": since, "to": self._to})
            self._quiet.clear()
        self._quiet_since = self._clock()

    def _keep(self) -> None:
        assert self._anchor is not None
        end = self._end
        try:
            sync(self._path)  # the journal is never ahead of the file
            self._anchor.keep(end)
        except Exception as error:
            raise NotRecorded(reason="the journal does not take the record's end") from error
        self._kept = end.number

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the files, among threads and among the processes of this node. Raises: NotRecorded."""
        try:
            with self._thread:
                handle = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    yield
                finally:
                    os.close(handle)
        except OSError as error:
            raise NotRecorded(reason=error.strerror or type(error).__name__) from error

    def _catch_up(self) -> None:
        """Learn the end of the chain where this object does not know it; an unfinished line is cut off."""
        place = _place(self._path)
        if place is not None and place == self._place:
            return
        known = self._end
        try:
            if place is not None:
                self._end = _end_of(self._path)
        except BadTransmission:  # it stays as it is, beside
            os.replace(self._path, self._folder / f"{FILE}.{time.time_ns()}.bad")
            place = None
        if place is None:
            self._begin(self._newest_archived())
            if known.number > self._end.number:  # it was taken away: the gap is to be seen for ever
                self._stray = known
        self._place = _place(self._path)
        if self._stray is not None:
            self._end = self._stray

    def begin_anew(self, by: str) -> Path:
        """The operator's word: put all files aside as they are, and go on in a new one after their end.

        Returns: the folder in which they are now. Raises: NotRecorded.
        """
        with self._locked():
            self._catch_up()
            aside = self._folder / f"sent-until-{self._end.number}"
            aside.mkdir(mode=0o700)
            for path in [*archived(self._folder), *self._folder.glob(f"{FILE}*")]:
                os.replace(path, aside / path.name)
            self._begin(self._end)
            self._place, self._stray = _place(self._path), None
        self.note("begun-anew", {"approved_by": by})
        return aside

    def _begin(self, before: End) -> None:
        """A new file, after this end."""
        header = Header(self._identity.name, self._identity.public_key, before)
        handle = new_private(self._path)
        try:
            os.write(handle, header.to_line())
            os.fsync(handle)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(handle)
        sync(self._folder)
        self._end = before

    def _newest_archived(self) -> End:
        for path in reversed(archived(self._folder)):
            with suppress(BadTransmission, OSError):
                return _end_of(path)
        return NOTHING

    def _write(self, entry: Entry, durable: bool) -> None:
        line = entry.to_line()
        assert self._place is not None
        if self._place[2] + len(line) > self._most_bytes:
            self._put_aside()
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        size = os.fstat(handle).st_size
        try:
            if os.write(handle, line) < len(line):
                raise OSError(None, "there is no room on the disk")
            if durable:
                os.fdatasync(handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, size)
            raise
        finally:
            os.close(handle)
        self._end, self._place, self._stray = entry.end, _place(self._path), None

    def _put_aside(self) -> None:
        """Go on in a new file; a crash between the two steps leaves none, and the next start makes it."""
        before = self._end
        with open(self._path, "rb") as file:
            header = read_header(file.readline(TAIL_BYTES))
        if header.before.number == before.number:
            return  # it holds no entry yet
        sync(self._path)
        os.replace(self._path, self._folder / ARCHIVED.format(header.before.number + 1))
        self._begin(before)
        self._place = _place(self._path)

    def _has(self, kept: End) -> bool:
        """Whether the files hold the entry that the journal knows as the newest."""
        if kept.number == 0 or kept.number == self._end.number:
            return kept.number == 0 or kept.hash == self._end.hash
        if kept.number > self._end.number:
            return False
        for path in reversed([*archived(self._folder), self._path]):
            with suppress(BadTransmission), open(path, "rb") as file:
                if read_header(file.readline(TAIL_BYTES)).before.number >= kept.number:
                    continue
                mark = b'{"number":%d,' % kept.number
                found = next((line for line in file if line.startswith(mark)), b"")
                return read_line(found, number=kept.number).hash == kept.hash
        return False


def archived(folder: Path) -> list[Path]:
    """The files that were put aside, the oldest first."""
    return sorted(folder.glob("sent-" + "[0-9]" * 12 + ".jsonl"))


def _place(path: Path) -> tuple[int, int, int] | None:
    with suppress(FileNotFoundError):
        found = os.stat(path)
        return found.st_dev, found.st_ino, found.st_size
    return None


def _end_of(path: Path) -> End:
    """The newest entry's end; a line that a crash has left unfinished is cut off. Raises: BadTransmission."""
    with open(path, "r+b") as file:
        header = read_header(file.readline(TAIL_BYTES))
        first = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(max(first, size - TAIL_BYTES))
        tail = file.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        if len(whole) < len(tail):
            file.truncate(size - len(tail) + len(whole))
            os.fsync(file.fileno())
    if not whole:
        if size > first + TAIL_BYTES:
            raise BadTransmission(number=0, problem="a line is too long")
        return header.before
    return read_line(whole[:-1].rpartition(b"\n")[2], number=0).end
