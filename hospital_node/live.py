"""What a node that runs is doing now: a small file in its folder, for ``medveil node status`` and for pages.

The node tells it where it stands (:func:`note` and the like). As with :mod:`medveil.progress` whoever listens
stands around the call, so nothing is handed through, and where nobody listens nothing happens. The file is
replaced whole, and never synced: after a crash it is worth nothing. No identity, loss or file name is in it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import Literal

from hospital_node.settings import Node
from medveil.errors import BadFile, Error
from medveil.files import owners
from medveil.handed import parsed, read_whole
from medveil.messages import Work
from medveil.plan import NotApproved
from medveil.progress import Done, Look, Pace, listening
from medveil.rounds import Phase
from medveil.shown import plain
from medveil.values import Frozen, Name, Sha256

MOST_BYTES = 2**20
MOST_LINES, MOST_WORDS = 20, 300
"""Of the log."""
EVERY_S = 1.0
"""Between two looks at whether there is something new to write."""
HEARTBEAT_S = 10.0
"""The file is written anew this often, even if nothing has changed."""
SILENT_S = 60.0
"""A node that has written nothing for so long hangs, or is of a machine that is gone."""
Part = Literal["images", "training"]
PARTS: dict[str, Part] = {"steps of training": "training"}
"""How a part is called that is no reading of images."""
OWN = {Phase.COMMIT: "this hospital's own computation", Phase.UPLOAD: "this hospital's own upload"}
"""What the others wait for in phases that take long."""
Stand = Literal["preparing", "approvals", "waiting", "ready", "running", "away", "finished"]


class Going(Frozen):
    """How far a long piece of work is."""

    part: Part
    done: int
    total: int
    rate: float
    """A second: images read, steps of training."""
    left_s: float
    """Seconds that the rest takes at this rate."""


class PlanLive(Frozen):
    """One approved plan, as this node works on it."""

    plan: Sha256
    study: Name
    rounds: int
    """Of training and the last evaluation."""
    stand: Stand = "waiting"
    """``approvals``: too few hospitals have signed. ``ready``: between two rounds. ``away``: this hospital
    joins no attempt, as its operator or its policy says."""
    waits_for: str = "the aggregator's answer"
    """In words, for people."""
    code: str = ""
    """Of what keeps it waiting."""
    approvals: int = 0
    approvals_needed: int = 0
    round: int = 0
    attempt: int = 0
    phase: str = ""
    """A word of the protocol; empty between attempts."""
    device: str = ""
    """What it is computed on."""
    going: Going | None = None
    leaving: bool = False
    """Whether it is left after this round."""


class Problem(Frozen):
    """The last problem. It may be over."""

    code: str
    what: str
    """Empty where it could name a file."""
    remedy: str
    at: float
    """Unix seconds."""


class Said(Frozen):
    """A line of the node's log, as a terminal shows it."""

    at: float
    """Unix seconds."""
    words: str


class Live(Frozen):
    """A node's own word on what it is doing."""

    pid: int
    born: str
    """What tells this process from a later one of the same number; empty where the system does not say."""
    space: str
    """The space of process numbers that ``pid`` is of; empty where the system does not say."""
    started: float
    updated: float
    stopped: bool = False
    """Whether it has ended as it was asked to."""
    connected: bool = False
    since: float = 0.0
    """Since when it has been, or has not been, connected."""
    problem: Problem | None = None
    paused: bool = False
    plans: tuple[PlanLive, ...] = ()
    log: tuple[Said, ...] = ()
    """The newest lines, the newest last: of the log's allow-list, like those at the terminal."""

    @property
    def running(self) -> bool:
        """Whether the process that wrote this still runs, as far as this machine can tell."""
        if self.stopped:
            return False
        if self.space != _space():  # of another container, or of a system that does not say
            return time.time() - self.updated < SILENT_S
        return _born(self.pid) == self.born if self.born else _exists(self.pid)

    @property
    def silent(self) -> bool:
        """Whether it has told nothing for so long that something holds it up."""
        return time.time() - self.updated > SILENT_S

    @property
    def asks_nobody(self) -> bool:
        """Whether it has no approved study to work on, and so no word with the aggregator since its start."""
        return not self.connected and not self.plans and self.problem is None


def path_of(node: Node) -> Path:
    """Where a running node writes what it is doing."""
    return node.folder / "live.json"


def read(node: Node) -> Live | None:
    """What the node's process told last; None if none has ever run, or what is there cannot be read.

    Look at :attr:`Live.running` first: a killed process leaves its last word behind.
    """
    try:
        return parsed(Live, read_whole(path_of(node), MOST_BYTES), name="live.json", most=MOST_BYTES)
    except BadFile:
        return None


class Board:
    """Where a running node's parts tell what they do. Any thread may."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock, self._lock = path_of(node), clock, Lock()
        now, pid = clock(), os.getpid()
        self._live = Live(pid=pid, born=_born(pid), space=_space(), started=now, updated=now, since=now)
        self._changed = True

    @property
    def live(self) -> Live:
        """What has been told so far."""
        return self._live

    def change(self, **changes: object) -> None:
        """Tell something about the node as a whole."""
        with self._lock:
            self._set(**changes)

    def connected(self, yes: bool) -> None:
        """Tell whether the aggregator has just answered."""
        with self._lock:
            if self._live.connected is not yes:
                self._set(connected=yes, since=self._clock())

    def problem(self, error: Error) -> None:
        """Tell what went wrong. Of a file that people write only the code is told, for its name is theirs."""
        what = "" if isinstance(error, BadFile) else plain(error.what)
        told = Problem(code=plain(error.code, 60), what=what, remedy=plain(error.remedy), at=self._clock())
        self.change(problem=told)

    def hear(self, words: str) -> None:
        """Keep a line of the log; one that says the same as the last is that one."""
        with self._lock:
            last = self._live.log[-1].words if self._live.log else ""
            if words != last:
                said = Said(at=self._clock(), words=plain(words, MOST_WORDS))
                self._set(log=(*self._live.log, said)[-MOST_LINES:])

    def plan(self, plan: str, **changes: object) -> None:
        """Tell something about one plan."""
        with self._lock:
            known = {one.plan: one for one in self._live.plans}
            before = known.get(plan)
            if before is None and "study" not in changes:
                return
            values = {"plan": plan} if before is None else dict(before)
            known[plan] = PlanLive(**(values | changes))
            if known[plan] != before:
                self._set(plans=tuple(known.values()))

    def drop(self, plan: str) -> None:
        """Forget a plan."""
        with self._lock:
            left = tuple(one for one in self._live.plans if one.plan != plan)
            if left != self._live.plans:
                self._set(plans=left)

    def only(self, plans: set[str]) -> None:
        """Forget every other plan."""
        with self._lock:
            left = tuple(one for one in self._live.plans if one.plan in plans)
            if left != self._live.plans:
                self._set(plans=left)

    def _set(self, **changes: object) -> None:
        self._live, self._changed = self._live.model_copy(update=changes), True

    def write(self) -> None:
        """Replace the file. A disk that does not take it stops nothing."""
        with self._lock:
            self._live = self._live.model_copy(update={"updated": self._clock()})
            self._changed, text = False, self._live.model_dump_json()
        scratch = self._path.with_name(self._path.name + ".part")
        with suppress(OSError):
            with open(scratch, "w", encoding="utf-8", opener=owners) as file:
                file.write(text)
            os.replace(scratch, self._path)

    async def keep(self) -> None:
        """Write whatever is new, until cancelled; a slow disk holds up nobody."""
        while True:
            if self._changed or self._clock() - self._live.updated >= HEARTBEAT_S:
                await asyncio.to_thread(self.write)
            await asyncio.sleep(EVERY_S)

    def close(self) -> None:
        """The node has ended as it was asked to."""
        self.change(stopped=True, connected=False, since=self._clock())
        self.write()


_BOARD: ContextVar[Board | None] = ContextVar("board", default=None)


@contextmanager
def told_to(board: Board) -> Iterator[None]:
    """Whatever runs inside, with the tasks that it starts, tells this board what it does."""
    before = _BOARD.set(board)
    try:
        yield
    finally:
        _BOARD.reset(before)


def note(plan: str, **changes: object) -> None:
    """Tell something about a plan, in fields of :class:`PlanLive`."""
    board = _BOARD.get()
    if board is not None:
        board.plan(plan, **changes)


def note_waiting(plan: str, refused: Error) -> None:
    """Tell what keeps a plan waiting: too few approvals, or something that somebody must put right."""
    if isinstance(refused, NotApproved):
        note(
            plan,
            stand="approvals",
            waits_for="the approvals of other hospitals",
            code="",
            phase="",
            attempt=0,
        )
        return
    note(plan, stand="waiting", waits_for=plain(refused.remedy), code=refused.code, phase="", attempt=0)
    note_problem(refused)


def waiting_in(work: Work, *, joined: bool, answered: bool) -> tuple[Stand, str]:
    """Where a plan stands, and whom it waits for, by what the aggregator has told last.

    Args:
        joined: whether this hospital is in the attempt.
        answered: whether it has answered its phase.
    """
    if work.status == "finished":
        return "finished", ""
    if work.status == "waiting":
        return "ready", "the next round: it opens when enough hospitals are in reach"
    if work.phase == Phase.ABORT:
        return "running", "the other hospitals, to give a failed attempt up"
    if not joined and work.phase != Phase.ADVERTISE:
        return "running", "the next attempt: this hospital is not in this one"
    if joined and not answered and work.phase in OWN:
        return "running", OWN[Phase(work.phase)]
    return "running", "the other hospitals"


def note_problem(error: Error) -> None:
    """Tell what went wrong."""
    board = _BOARD.get()
    if board is not None:
        board.problem(error)


def is_news(error: Error) -> bool:
    """Whether the last problem that was told is another one."""
    board = _BOARD.get()
    last = None if board is None else board.live.problem
    return last is None or last.code != error.code


def note_connected(yes: bool) -> None:
    """Tell whether the aggregator has just answered."""
    board = _BOARD.get()
    if board is not None:
        board.connected(yes)


def note_held(*, paused: bool, leaving: set[str]) -> None:
    """Tell what the operator has said."""
    board = _BOARD.get()
    if board is None:
        return
    if board.live.paused is not paused:
        board.change(paused=paused)
    for one in board.live.plans:
        board.plan(one.plan, leaving=one.plan in leaving)


def own_birth() -> tuple[int, str]:
    """This process's number, and what tells it from a later one of the same number."""
    return os.getpid(), _born(os.getpid())


def note_gone(plan: str) -> None:
    """A plan is over here, or this hospital takes no part in it."""
    board = _BOARD.get()
    if board is not None:
        board.drop(plan)


def note_only(plans: set[str]) -> None:
    """Forget every plan but these."""
    board = _BOARD.get()
    if board is not None:
        board.only(plans)


@contextmanager
def followed(plan: str, also: Callable[[Done], None] | None = None) -> Iterator[None]:
    """How far a plan's work inside is (:mod:`medveil.progress`) is told here, and to one more listener."""

    def show(look: Look) -> None:
        now = look.now
        going = Going(
            part=PARTS.get(now.part, "images"),
            done=now.done,
            total=now.total,
            rate=round(look.rate, 2),
            left_s=round(look.left_s, 1),
        )
        note(plan, going=going)

    pace = Pace(show, every_s=EVERY_S)

    def heard(now: Done) -> None:
        pace(now)
        if also is not None:
            also(now)

    try:
        with listening(heard):
            yield
    finally:
        note(plan, going=None)


def _born(pid: int) -> str:
    """When a process began, by the system's own clock (proc(5), field 22); empty if it is not told."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return text.rpartition(")")[2].split()[19]  # the name before it may hold blanks and brackets
    except (OSError, IndexError):
        return ""


def _space() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
