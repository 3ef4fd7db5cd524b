"""A world that is looked at: one clock for deadlines, records and the audit log, and its watching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aggregator.watching.live import HeardBook, live_of
from aggregator.watching.watch import Watching
from world import World

Build = Callable[..., World]
BEGUN = 1_700_000_000.0


def watched(build: Build, **options: Any) -> tuple[World, Watching]:
    """A world whose every clock shows the same time, and its watching, as the leading process has it."""
    world = build(**options)
    world.wall = lambda: BEGUN + world.clock()
    world.restart()
    return world, watching_of(world)


def watching_of(world: World, *, live: bool = True) -> Watching:
    """The watching of a world; with ``live`` as the process has it that leads."""
    assert world.wall is not None
    book = HeardBook()

    def now() -> Any:
        return live_of(world.coordinator.runs, book.all(), started=BEGUN)

    return Watching(world.store, live=now if live else lambda: None, now=world.wall)
