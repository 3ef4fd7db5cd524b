"""Tells receivers what waits for a person, beside the rounds and never in their way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from aggregator.monitoring import Receiver
from aggregator.telling.notices import Notice
from aggregator.telling.queue import Owed, Queue
from aggregator.telling.receivers import deliver, name_of
from medveil.errors import Error
from medveil.log import get_logger

LOOK_S = 5.0
"""Between two looks at what there is to tell, and at what is due."""
Deliver = Callable[[Receiver, Notice, Path], Awaitable[None]]
log = get_logger()


class Messenger:
    """Keeps the queue and delivers it.

    Args:
        look: what stands now (see :class:`aggregator.telling.notices.Lookout`).
        deliver: tells one receiver. Raises Error if it was not told.
    """

    def __init__(
        self,
        receivers: Iterable[Receiver],
        queue: Queue,
        look: Callable[[], Awaitable[list[Notice]]],
        folder: Path,
        *,
        deliver: Deliver = deliver,
    ) -> None:
        self._receivers = {name_of(receiver): receiver for receiver in receivers}
        self._queue, self._look, self._folder, self._deliver = queue, look, folder, deliver
        self._away: set[str] = set()

    async def run(self) -> None:
        """Never returns. A receiver, a full disk or a database that is away hold nothing up."""
        while True:
            try:
                await self.step()
            except (Error, OSError) as error:
                log.warning("notices.failed", reason=type(error).__name__)
            await asyncio.sleep(LOOK_S)

    async def step(self) -> None:
        """Look once, and try everything that is due. Raises: Error, OSError."""
        if not self._queue.begun:  # what was there before anybody was to be told is no news
            found = await self._look()
            await asyncio.to_thread(self._queue.take, found, lambda notice: ())
        else:
            await asyncio.to_thread(self._queue.take, await self._look(), self._told_of)
        while (one := self._queue.due()) is not None:
            taken = await self._try(one)
            await asyncio.to_thread(self._queue.settle, one, taken=taken)

    def _told_of(self, notice: Notice) -> list[str]:
        return [name for name, one in self._receivers.items() if notice.event in one.events]

    async def _try(self, one: Owed) -> bool:
        receiver = self._receivers.get(one.receiver)
        if receiver is None:
            return True  # it is not in the settings any more
        try:
            await self._deliver(receiver, one.notice, self._folder)
        except Error as error:
            if one.receiver not in self._away:
                log.warning("notice.not-taken", kind=one.notice.event, code=error.code)
            self._away.add(one.receiver)
            return False
        self._away.discard(one.receiver)
        log.info("notice.told", kind=one.notice.event)
        return True
