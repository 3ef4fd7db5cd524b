"""Files from outside are read in processes of their own: what a file does there, it does to itself.

A crash, an endless loop or a bomb of a decoder costs one file. The process is replaced, the file is refused
with a code of its own, and the rest goes on. See :mod:`medveil_imaging.sources.reader_process` for the other
side and :mod:`medveil_imaging.sources.confinement` for what it may not do.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic

from medveil.errors import Error
from medveil.stopping import check_stopped
from medveil_imaging.sources import reader_process
from medveil_imaging.sources.frames import BadFrame, receive
from medveil_imaging.sources.raw import Film, Unusable, Volume, too_large
from medveil_imaging.sources.read import FILMS, Wanted
from medveil_imaging.sources.reader_process import ENDED, FORK, FORKED, KILL, READY, WORD
from medveil_imaging.sources.readers import Item, Raw

START_S = 120.0
"""Longest that the server may take to start, on a machine that is busy."""
ANSWER_S = 20.0
"""Longest that it may take for a word."""
DEPTH = 2
"""Files that one reader is given at once, so that it never waits for the next one."""
AHEAD_BYTES = 2**28
"""Images that wait for their turn; beyond it only the file whose turn it is goes on."""
ALONE_S = 0.3
"""A reading that takes longer than this gets more than one reader."""
LOOK_S = 0.2
"""How often somebody who waits looks whether it shall end."""
TRIES = 2
"""A reader that was ended from outside may have stood beside the one who took too much: once more, then."""


@dataclass(frozen=True)
class Limits:
    """What reading one file may take."""

    memory_bytes: int = 2**32
    cpu_s: int = 60
    wall_s: float = 300.0


class ReadersMissing(Error):
    """The processes that open files could not be started."""

    code = "no-readers"

    def __init__(self) -> None:
        super().__init__(
            what="The processes that read images could not be started.",
            meaning="No file from outside is opened in any other process, so no image was read.",
            remedy="Look whether this machine is out of memory or of processes, then try again.",
        )


@dataclass
class _File:
    wanted: Wanted
    found: Film | Volume | Unusable | None = None
    tries: int = 0

    @property
    def size(self) -> int:
        image = self.found
        if isinstance(image, Film):
            return image.pixels.nbytes
        return image.voxels.nbytes if isinstance(image, Volume) else 0


@dataclass
class _Reader:
    """One process and the files it was given; it reads the first of them."""

    pid: int
    socket: socket.socket
    files: deque[_File] = field(default_factory=deque)
    deadline: float = 0.0

    def give(self, file: _File, limits: Limits) -> None:
        if not self.files:
            self.deadline = time.monotonic() + limits.wall_s
        self.files.append(file)
        file.tries += 1
        asked = file.wanted
        with suppress(OSError):  # it has ended; that shows when it is listened to
            self.socket.sendall(reader_process.request(asked.kind, asked.path, asked.beside))

    def answer(self, limits: Limits) -> None:
        """Take what it says of its first file. Raises: BadFrame, EOFError, OSError (also TimeoutError)."""
        file = self.files[0]
        self.socket.settimeout(max(0.01, self.deadline - time.monotonic()))
        file.found = receive(self.socket, Film if file.wanted.kind in FILMS else Volume)
        self.files.popleft()
        self.deadline = time.monotonic() + limits.wall_s


class _Server:
    """The process that makes readers."""

    def __init__(self, limits: Limits, formats: Sequence[str]) -> None:
        here, there = socket.socketpair()
        path = os.pathsep.join(filter(None, sys.path))
        quiet = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        told = (str(there.fileno()), str(limits.memory_bytes), str(limits.cpu_s))
        self._process = subprocess.Popen(
            [sys.executable, "-m", reader_process.__name__, *told, *formats],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": path, **quiet},
        )
        there.close()
        self._control, self._ready = here, False
        self._statuses: dict[int, int] = {}
        self.lives = True

    def reader(self) -> _Reader:
        """A new one. Raises: ReadersMissing."""
        here, there = socket.socketpair()
        try:
            if not self._ready:
                self._word(READY, None, START_S)
                self._ready = True
            socket.send_fds(self._control, [WORD.pack(FORK, 0, 0)], [there.fileno()])
            return _Reader(self._word(FORKED, None, ANSWER_S)[0], here)
        except BaseException as error:
            self.lives = False  # a word that nobody has waited for would be taken for the answer to the next
            here.close()
            if isinstance(error, OSError | EOFError):
                raise ReadersMissing() from error
            raise
        finally:
            there.close()

    def end(self, reader: _Reader) -> int | None:
        """End a reader, if it has not ended. Returns: how it ended; None if the server has gone."""
        reader.socket.close()
        try:
            if reader.pid not in self._statuses:
                self._control.sendall(WORD.pack(KILL, reader.pid, 0))
                self._word(ENDED, reader.pid, ANSWER_S)
            return self._statuses.pop(reader.pid)
        except (OSError, EOFError):
            self.lives = False
            return None

    def close(self) -> None:
        """End the server and every reader."""
        self._control.close()
        try:
            self._process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _word(self, what: bytes, pid: int | None, wait_s: float) -> tuple[int, int]:
        """The next word of a kind. Raises: OSError, EOFError."""
        self._control.settimeout(wait_s)
        while True:
            word = self._control.recv(WORD.size, socket.MSG_WAITALL)
            if len(word) < WORD.size:
                raise EOFError
            told, who, status = WORD.unpack(word)
            if told == ENDED:
                self._statuses[who] = status
            if told == what and pid in (None, who):
                return who, status


class Workers:
    """Up to ``count`` readers (0: one for each core), started when they are first needed.

    It is a :class:`medveil_imaging.sources.readers.Readers`. Several threads may read at once. Readers that
    are at rest stay for the next folder; all of them end with this process, however it ends.

    Args:
        formats: modules that bring further formats of files; readers load them as well.
    """

    def __init__(self, count: int = 0, limits: Limits | None = None, *, formats: Sequence[str] = ()) -> None:
        self.count = count or _cores()
        self.limits, self._formats = limits or Limits(), formats
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._resting: list[_Reader] = []
        self._at_work = 0

    def start(self) -> None:
        """Begin to start, in the background: readers are there sooner when they are wanted."""
        with self._lock:
            self._living()

    def __call__(
        self, items: Iterable[Item], wanted: Callable[[Item], Sequence[Wanted]]
    ) -> Iterator[tuple[Item, Raw | Unusable]]:
        """See :class:`medveil_imaging.sources.readers.Readers`. Raises: Stopped, ReadersMissing."""
        return _Reading(self, iter(items), wanted).each()

    def hire(self, first: bool) -> _Reader | None:
        """A reader for somebody who has none; for somebody who has some, if there are more."""
        with self._lock:
            if not first and self._at_work >= self.count:
                return None
            server = self._living()
            reader = self._resting.pop() if self._resting else server.reader()
            self._at_work += 1
            return reader

    def release(self, reader: _Reader) -> None:
        """It rests until somebody wants it."""
        with self._lock:
            self._at_work -= 1
            self._resting.append(reader)

    def dismiss(self, reader: _Reader) -> int | None:
        """End it. Returns: how it ended; None if that cannot be known."""
        with self._lock:
            self._at_work -= 1
            return self._server.end(reader) if self._server is not None and self._server.lives else None

    def rest(self) -> None:
        """End every process, unless one of them is at work; they start again when they are wanted."""
        self._end(only_resting=True)

    def close(self) -> None:
        """End every process."""
        self._end(only_resting=False)

    def _end(self, *, only_resting: bool) -> None:
        with self._lock:
            if only_resting and self._at_work:
                return
            server, self._server = self._server, None
            for reader in self._resting:
                reader.socket.close()
            self._resting = []
        if server is not None:
            server.close()

    def _living(self) -> _Server:
        if self._server is not None and not self._server.lives:
            self._server.close()
            self._server, self._resting = None, []
        if self._server is None:
            self._server = _Server(self.limits, self._formats)
        return self._server


class _Reading(Generic[Item]):
    """One folder's files on their way through the readers."""

    def __init__(
        self, workers: Workers, items: Iterator[Item], wanted: Callable[[Item], Sequence[Wanted]]
    ) -> None:
        self._workers, self._items, self._wanted = workers, items, wanted
        self._ahead: deque[tuple[Item, list[_File]]] = deque()
        self._waiting: deque[_File] = deque()
        self._crew: list[_Reader] = []
        self._begun, self._all_taken = time.monotonic(), False

    def each(self) -> Iterator[tuple[Item, Raw | Unusable]]:
        try:
            while True:
                check_stopped()
                self._hand_out()
                if not self._ahead:
                    return
                if all(file.found is not None for file in self._ahead[0][1]):
                    item, files = self._ahead.popleft()
                    yield item, _together(files)
                else:
                    self._listen()
        finally:
            for reader in self._crew:
                if reader.files:
                    self._workers.dismiss(reader)
                else:
                    self._workers.release(reader)

    def _hand_out(self) -> None:
        most = 2 * DEPTH * self._workers.count
        while not self._all_taken and len(self._ahead) < most:
            try:
                item = next(self._items)
            except StopIteration:
                self._all_taken = True
                break
            files = [_File(one) for one in self._wanted(item)]
            self._ahead.append((item, files))
            self._waiting.extend(files)
        held = sum(file.size for _, files in self._ahead for file in files)
        while self._waiting:
            if held > AHEAD_BYTES and not any(file is self._waiting[0] for file in self._ahead[0][1]):
                return
            reader = self._free()
            if reader is None:
                return
            reader.give(self._waiting.popleft(), self._workers.limits)

    def _free(self) -> _Reader | None:
        """The reader with the least to do, if it has room; a further one where it pays."""
        least = min(self._crew, key=lambda one: len(one.files), default=None)
        if least is not None and not least.files:
            return least
        if least is None or time.monotonic() > self._begun + ALONE_S:
            hired = self._workers.hire(first=least is None)
            if hired is not None:
                self._crew.append(hired)
                return hired
        return least if least is not None and len(least.files) < DEPTH else None

    def _listen(self) -> None:
        """Wait until a reader says something, has ended, or has taken too long; no longer than a moment."""
        busy = {reader.socket.fileno(): reader for reader in self._crew if reader.files}
        poll = select.poll()
        for handle in busy:
            poll.register(handle, select.POLLIN)
        heard = [busy[handle] for handle, _ in poll.poll(1000 * LOOK_S)]
        for reader in heard:
            try:
                reader.answer(self._workers.limits)
            except TimeoutError:
                self._lost(reader, too_slow())
            except (EOFError, OSError):
                self._lost(reader, None)
            except BadFrame:
                self._lost(reader, crashed())
        for reader in busy.values():
            if reader not in heard and time.monotonic() > reader.deadline:
                self._lost(reader, too_slow())

    def _lost(self, reader: _Reader, why: Unusable | None) -> None:
        """The file that a reader was at is refused, or read once more; its others go to somebody else."""
        self._crew.remove(reader)
        status = self._workers.dismiss(reader)
        file = reader.files.popleft()
        if why is None:
            number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else 0
            if number == signal.SIGXCPU:
                why = too_slow()
            elif status is None or number == signal.SIGKILL:
                why = too_large() if number else crashed()
                if file.tries < TRIES:
                    why = None
                    reader.files.appendleft(file)
            else:
                why = crashed()
        file.found = why
        self._waiting.extendleft(reversed(reader.files))


def _together(files: list[_File]) -> Raw | Unusable:
    images: list[Film | Volume] = []
    for file in files:
        if isinstance(file.found, Unusable):
            return file.found
        if file.found is not None:
            images.append(file.found)
    return images


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def crashed() -> Unusable:
    """Why a file is not used that ended its reader."""
    return Unusable(
        "reader-crashed",
        "Reading the file ends the program that decodes it.",
        "It may be damaged, or made to do harm. Export the image again.",
    )


def too_slow() -> Unusable:
    """Why a file is not used whose reading took no end."""
    return Unusable(
        "reader-too-slow",
        "Reading the file takes no end.",
        "It may be damaged, or lie on a disk that does not answer. Export the image again.",
    )


_SHARED: list[Workers] = []


def workers() -> Workers:
    """This process's readers, for everybody in it."""
    if not _SHARED:
        _SHARED.append(Workers())
        atexit.register(_SHARED[0].close)
    return _SHARED[0]
