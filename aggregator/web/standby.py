"""A process that does not lead: it waits for the lead, tells what the database holds, and takes segments."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import Request

from aggregator.access.signatures import Gatekeeper
from aggregator.adminkey import open_store
from aggregator.rounds.status import PlanReader
from aggregator.rounds.taking import Taking
from aggregator.settings import Settings
from aggregator.storage.open import open_blobs
from aggregator.storage.store import Store
from aggregator.storage.transactions import NotLeading
from aggregator.watching import live
from aggregator.watching.watch import Watching
from aggregator.web.callers import Callers
from aggregator.web.reading import Reading
from aggregator.web.service import Service
from aggregator.web.visitors import Visitors
from aggregator.work.threads import Lookups, in_thread

T = TypeVar("T")


class StandBy:
    """Reads a database that another process writes to. What it hands out and who asked it, it tells nobody.

    It remembers the nonces of its own requests only: what is asked here once more is read once more.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, blobs, reader = store, open_blobs(settings.folder, settings.blobs), PlanReader(store)
        self.watching = Watching(store, live=lambda: live.read(settings.folder), reader=reader)
        self._lookups = Lookups(2, "register", store.transactions.break_off)
        self._files = ThreadPoolExecutor(2, "files")
        self._segments = ThreadPoolExecutor(4, "segments")
        self.taking = Taking(reader, blobs)
        self.callers = Callers(
            store.register,
            self._lookups,
            Gatekeeper(),
            settings,
            reader,
            heard_from=lambda sender: None,
        )
        self.visitors = Visitors(store, self._lookups, settings)
        self.reading = Reading(
            self.callers, reader, lambda: blobs, lookups=self._lookups, slowly=self._files, leader=None
        )

    async def with_segments(self, action: Callable[[], T]) -> T:
        """Run something that looks at or writes whole segments, a few at a time. Raises: NotLeading."""
        return await in_thread(self._segments, action)

    def close(self) -> None:
        """Finish the questions in hand and stop."""
        self.callers.tokens.close()
        self.visitors.close()
        self._lookups.close()
        self._files.shutdown()
        self._segments.shutdown()
        self.store.close()


def open_stand_by(settings: Settings) -> StandBy:
    """Raises: what Store raises, NoAdminKey."""
    store = open_store(settings)
    try:
        return StandBy(store, settings)
    except Exception:
        store.close()
        raise


def serving_of(request: Request) -> Service | StandBy:
    """What answers here, whether it leads or stands by. Raises: NotLeading between the two."""
    serving: Service | StandBy | None = request.app.state.service or request.app.state.stand_by
    if serving is None:
        raise NotLeading()
    return serving


def reading_of(request: Request) -> Reading:
    """What this process reads. Raises: NotLeading."""
    return serving_of(request).reading
