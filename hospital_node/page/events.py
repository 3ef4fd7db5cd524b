"""What was done and refused at the page: a line each in a file of the node's folder."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hospital_node.settings import Node
from hospital_node.transmissions.person import local_user
from medveil.files import owners
from medveil.log import get_logger

MOST_BYTES = 1_000_000
"""Of one file; the one before it is kept, so at most twice that."""
NEWEST = 50
log = get_logger()


@dataclass(frozen=True)
class Event:
    """One thing that happened at the page."""

    at: float
    """Unix seconds."""
    event: str
    """``signed-in``, ``refused``, ``approved`` and so on."""
    route: str
    """The kind of address, never what stood in it."""
    code: str = ""
    user: str = ""
    """Of this machine, as whom the page runs."""


class Events:
    """The record of one page. A disk that takes nothing stops nothing; the log has it, too."""

    def __init__(self, node: Node, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock = node.folder / "page-events.jsonl", clock
        self._user = local_user()
        self.newest: deque[Event] = deque(_read(self.path), maxlen=NEWEST)

    def note(self, event: str, route: str, code: str = "") -> None:
        """Keep one more."""
        one = Event(round(self._clock(), 3), event, route, code, self._user)
        self.newest.append(one)
        if code:
            log.warning(f"page.{event}", route=route, code=code)
        else:
            log.info(f"page.{event}", route=route)
        with suppress(OSError):
            self._write(json.dumps(asdict(one)) + "\n")

    @property
    def refused(self) -> int:
        """How many of the newest were refusals."""
        return sum(bool(one.code) for one in self.newest)

    def _write(self, line: str) -> None:
        with suppress(FileNotFoundError):
            if self.path.stat().st_size > MOST_BYTES:
                os.replace(self.path, _older(self.path))
        with open(self.path, "a", encoding="utf-8", opener=owners) as file:
            file.write(line)


def _older(path: Path) -> Path:
    return path.with_name("page-events.old.jsonl")


def _read(path: Path) -> list[Event]:
    found = []
    with suppress(OSError, UnicodeDecodeError):
        for line in path.read_text("utf-8").splitlines()[-NEWEST:]:
            with suppress(ValueError, TypeError):
                found.append(Event(**json.loads(line)))
    return found
