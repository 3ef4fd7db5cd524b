"""What only the process that leads knows, in one value, and the small file by which others hear of it.

The file is replaced whole and never synced: after a crash it is worth little, and says when it was written.
What it says of the past (when a hospital was heard from) stays true; what it says of the present holds only
while it is fresh.
"""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from aggregator.rounds import schedule
from aggregator.rounds.runs import Run, Runs
from aggregator.watching.values import Heard, Live, PlanHeld
from medveil.errors import BadFile
from medveil.files import replace_lightly
from medveil.handed import parsed, read_whole

FILE = "live.json"
MOST_BYTES = 8 * 2**20
EVERY_S = 2.0
"""How often the leading process writes its file."""
FRESH_S = 10.0
"""What an older file says of the present is not held for true."""
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,39}")
REQUESTS = 32
"""Of late, from which a clock's offset is reckoned."""


class HeardBook:
    """What hospitals' requests tell by the way: when, with which software, by which clock. Any thread may.

    Args:
        before: what an earlier process has left; its times are still true.
    """

    def __init__(self, before: Live | None = None) -> None:
        self._known: dict[str, Heard] = dict(before.hospitals) if before is not None else {}
        self._offsets: dict[str, deque[float]] = {}

    def note(self, name: str, *, now: float, signed_at: float, version: str) -> None:
        """A whole request has come in.

        Args:
            now: Unix seconds. signed_at: the time under its signature, whole seconds, rounded down.
        """
        offsets = self._offsets.setdefault(name, deque(maxlen=REQUESTS))
        # A request is late by its way, and by what was cut from its time: the largest comes nearest.
        offsets.append(signed_at - now)
        told = version if VERSION.fullmatch(version) else None
        known = self._known.get(name)
        until = None if known is None else known.certificate_until
        self._known[name] = Heard(
            at=now, version=told, clock_s=round(max(offsets), 1), certificate_until=until
        )

    def certified(self, name: str, *, now: float, until: float) -> None:
        """A hospital was given a client certificate."""
        known = self._known.get(name) or Heard(at=now)
        self._known[name] = known.model_copy(update={"certificate_until": until})

    def all(self) -> dict[str, Heard]:
        """Hospital → what is known of it."""
        return self._known.copy()


def live_of(runs: Runs, known: Mapping[str, Heard], *, started: float) -> Live:
    """What the leading process knows at this moment; any thread may ask.

    Args:
        known: by their requests. started: when this process did, Unix seconds.
    """
    now, ahead = runs.wall_clock(), runs.wall_clock() - runs.now()
    hospitals = dict(known)
    for name in {name for run in tuple(runs.all()) for name in run.plan.names}:
        at, before = runs.heard(name), hospitals.get(name)
        if at is not None and (before is None or before.at < at + ahead):  # an answered poll counts as well
            kept = {} if before is None else dict(before)
            hospitals[name] = Heard.model_validate({**kept, "at": at + ahead})
    plans = {run.plan.id: _held(runs, run, ahead) for run in tuple(runs.all()) if not run.finished}
    return Live(written=now, started=started, pid=os.getpid(), hospitals=hospitals, plans=plans)


def _held(runs: Runs, run: Run, ahead: float) -> PlanHeld:
    attempt, pause = run.attempt, schedule.pause_left(run, runs.now())
    ready = tuple(runs.reachable(run))
    waiting = schedule.waiting_for(run, len(ready), pause)
    told = PlanHeld(
        away=tuple(sorted(run.away)),
        in_reach=tuple(name for name in run.plan.names if runs.is_in_reach(run, name)),
        ready=ready,
        reason="" if waiting is None else waiting.reason,
        next_at=runs.now() + pause + ahead if attempt is None and pause > 0 else None,
    )
    if attempt is None:
        return told
    phase, began = attempt.state.phase, attempt.phase_opened + ahead
    limit = schedule.phase_limit_s(run.plan.study.deadlines, phase)
    return told.model_copy(
        update={
            "round": attempt.key.round,
            "attempt": attempt.key.attempt,
            "phase": phase,
            "phase_began": began,
            "phase_ends": began + limit if math.isfinite(limit) else None,
            "left": tuple(sorted(attempt.sitting_out)),
        }
    )


def write(folder: Path, live: Live) -> None:
    """Replace the file. A disk that does not take it stops nothing."""
    with suppress(OSError):
        replace_lightly(folder / FILE, live.model_dump_json().encode(), private=True)


def read(folder: Path) -> Live | None:
    """What a leading process on this folder has told last; None if none has, or it cannot be read."""
    try:
        return parsed(Live, read_whole(folder / FILE, MOST_BYTES), name=FILE, most=MOST_BYTES)
    except BadFile:
        return None


def is_fresh(live: Live | None, now: float) -> bool:
    """Whether what it says of the present still holds."""
    return live is not None and not live.stopped and abs(now - live.written) <= FRESH_S
