"""The dashboard of one process: makes what its screens show, once for everybody who sees the same.

A page is a function of what the database holds, of who may read what, and of the language. So it is made once
for all who look at it, and again only after somebody has written, or for what changes by itself every few
seconds. It is made on threads of its own, a few at a time: hospitals never wait for a page.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI

from aggregator.errors import Overloaded
from aggregator.settings import Settings
from aggregator.storage.register import Role
from aggregator.storage.store import Store
from aggregator.storage.transactions import NotLeading
from aggregator.watching.measures import Measures
from aggregator.web.dashboard.painter import Painter
from aggregator.web.dashboard.parts import Part, changed, mark_of
from aggregator.web.dashboard.running import running as running_now
from aggregator.web.dashboard.screen import Screen, View
from aggregator.work.threads import in_thread
from medveil.catalogue import Language
from medveil.values import Frozen

THREADS, MOST_WAITING = 2, 64
BY_ITSELF_S = 5.0
"""How long a page holds though nobody writes: when hospitals were heard from is in no table."""
MOST_KEPT = 200


@dataclass(frozen=True)
class Key:
    """Whoever asks with the same key sees the same."""

    screen: str
    path: tuple[tuple[str, str], ...]
    filters: tuple[tuple[str, str], ...]
    role: Role
    plans: frozenset[str] | None
    language: Language


@dataclass(frozen=True)
class Shown:
    """One state of a page."""

    value: Frozen
    parts: dict[str, Part]
    mark: str
    seen: object
    """The edition of the database that it was made from; None if that has no name."""
    at: float
    """Monotonic seconds."""

    def since(self, before: Shown | None) -> str:
        """What leads to it from another state (all of it if that is None), as JSON."""
        return json.dumps(changed({} if before is None else before.parts, self.parts), ensure_ascii=False)


class Board:
    """Makes pages and remembers the newest state of each.

    Args:
        app: whose service, or whose stand-by, is read.
    """

    def __init__(self, app: FastAPI, settings: Settings, screens: tuple[Screen, ...]) -> None:
        self.app, self.settings = app, settings
        self.screens = {screen.key: screen for screen in screens}
        self.painter = Painter(settings, screens)
        self._threads = ThreadPoolExecutor(THREADS, "dashboard")
        self._waiting = 0
        self._measures: tuple[Store, Measures] | None = None
        self.spent_s = 0.0
        """Seconds of a core that pages have taken."""
        self._kept: OrderedDict[Key, Shown] = OrderedDict()
        self._making: dict[Key, asyncio.Task[Shown]] = {}

    def serving(self) -> Any:
        """What answers here. Raises: NotLeading."""
        found = self.app.state.service or self.app.state.stand_by
        if found is None:
            raise NotLeading()
        return found

    def view(self, key: Key) -> View:
        """What a page is made from. Raises: NotLeading."""
        serving = self.serving()
        return View(
            watching=serving.watching,
            store=serving.store,
            measures=self._measures_of(serving),
            settings=self.settings,
            role=key.role,
            plans=key.plans,
            path=dict(key.path),
            filters=dict(key.filters),
            now=time.time(),
        )

    def _measures_of(self, serving: Any) -> Measures:
        """What is measured of the database that is read now; what it has read once it remembers."""
        known, state = self._measures, self.app.state
        if known is None or known[0] is not serving.store:
            reckon, checked = state.reckoning, state.checking.last
            running = partial(running_now, self.app, self.settings, state.recent)
            made = Measures(serving.store, self.settings, reckon=reckon, checked=checked, running=running)
            known = self._measures = serving.store, made
        return known[1]

    async def made(self, key: Key) -> Shown:
        """The present state of a page. Raises: what its value raises; Overloaded, NotLeading."""
        kept = self._kept.get(key)
        if kept is not None and self._holds(kept):
            self._kept.move_to_end(key)
            return kept
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.ensure_future(self._make(key))
            task.add_done_callback(lambda _: self._making.pop(key, None))
        return await asyncio.shield(task)

    def _holds(self, made: Shown) -> bool:
        seen = self.serving().store.log.edition()
        return seen is not None and seen == made.seen and time.monotonic() - made.at < BY_ITSELF_S

    async def _make(self, key: Key) -> Shown:
        if self._waiting >= MOST_WAITING:
            raise Overloaded()
        self._waiting += 1
        try:
            made = await in_thread(self._threads, lambda: self._make_now(key))
        finally:
            self._waiting -= 1
        kept = self._kept.get(key)
        if kept is not None and kept.mark == made.mark:
            made = Shown(made.value, kept.parts, kept.mark, made.seen, made.at)
        self._kept[key] = made
        self._kept.move_to_end(key)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return made

    def _make_now(self, key: Key) -> Shown:
        screen, at = self.screens[key.screen], time.monotonic()
        seen = self.serving().store.log.edition_asked()
        began, view = time.thread_time(), self.view(key)
        value = screen.value(view)
        parts = self.painter.parts(screen, value, view, key.language)
        self.spent_s += time.thread_time() - began
        return Shown(value, parts, mark_of(parts), seen, at)

    async def run(self, action: Callable[[], Any]) -> Any:
        """Run something slow that a page needs on the dashboard's threads."""
        return await in_thread(self._threads, action)

    def warm(self) -> None:
        """Get ready for the first visitor, on a thread of the dashboard."""
        self._threads.submit(self.painter.warm)

    def close(self) -> None:
        """Finish what is being made and stop."""
        self._threads.shutdown()
