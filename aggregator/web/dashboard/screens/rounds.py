"""Rounds: every attempt that has ended, page by page, and the one timeline of each."""

from __future__ import annotations

from aggregator.errors import NotFound
from aggregator.watching.values import RoundsPage, Timeline, WaitsFor
from aggregator.web.dashboard.screen import Screen, View
from medveil.values import Frozen

A_PAGE = 40


class RoundsSeen(Frozen):
    """A page of a study's history."""

    study: str
    page: RoundsPage
    first: bool
    """Whether it is the newest page."""
    open_round: int
    """The round of which an attempt is open; 0 if none is."""


class RoundTimeline(Frozen):
    """One attempt, with what it waits for if it is open."""

    line: Timeline
    waits_for: WaitsFor | None
    attempts: tuple[int, ...]
    """Numbers of this round's attempts up to this one or later, if there are several."""
    now: WaitsFor | None = None
    """What the study waits for since this attempt, its newest, failed."""


def rounds(view: View) -> RoundsSeen:
    """Attempts that have ended, the newest first. Raises: NotFound."""
    before = _before(view.filters.get("before", ""))
    line = next((one for one in view.watching.studies() if one.plan == view.plan), None)
    if line is None:
        raise NotFound()
    waits = view.watching.waits_for(view.plan)
    return RoundsSeen(
        study=line.name,
        page=view.watching.rounds(view.plan, limit=A_PAGE, before=before),
        first=before is None,
        open_round=waits.round if waits.attempt else 0,
    )


def _before(text: str) -> tuple[int, int] | None:
    """``7.1`` as round and attempt. Raises: NotFound."""
    if not text:
        return None
    parts = text.split(".")
    if len(parts) != 2 or not all(p.isascii() and p.isdecimal() and len(p) <= 9 for p in parts):
        raise NotFound()
    return int(parts[0]), int(parts[1])


def timeline(view: View) -> RoundTimeline:
    """One attempt: the newest of the round, unless another one is asked for. Raises: NotFound."""
    number, attempt = view.number("number"), view.number("attempt")
    line = view.watching.timeline(view.plan, number, attempt)
    newest = line if not attempt else view.watching.timeline(view.plan, number)
    waits = view.watching.waits_for(view.plan) if line.outcome == "open" else None
    since = line.outcome == "failed" and line.attempt == newest.attempt
    now = view.watching.waits_for(view.plan) if since else None
    return RoundTimeline(
        line=line,
        waits_for=waits,
        now=None if now is None or now.round > line.round or now.attempt else now,
        attempts=tuple(range(1, newest.attempt + 1)) if newest.attempt > 1 else (),
    )


SCREENS = (
    Screen(
        "rounds",
        "/studies/{plan}/rounds",
        rounds,
        "medveil aggregator study status {plan}",
        place=20,
        filters=("before",),
    ),
    Screen(
        "round",
        "/studies/{plan}/rounds/{number}",
        timeline,
        "medveil aggregator study watch {plan}",
        under="rounds",
        filters=("attempt",),
    ),
)
