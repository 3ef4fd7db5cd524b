"""A keeper's life: it asks its aggregator for letters, answers them, and accepts no connection."""

from __future__ import annotations

import asyncio
import secrets
import signal
from contextlib import suppress
from typing import Protocol

from aggregator.keeper.book import KeeperBook
from aggregator.keeper.settings import FILE, KeeperFolder
from aggregator.relay.line import AggregatorRefuses, UpstreamLine
from medveil.alive import show_alive
from medveil.errors import Error
from medveil.keeping import Letter
from medveil.log import get_logger
from medveil.messages import MAX_MESSAGE_BYTES
from privacy.oprf.keeper import KeeperSide

WAIT_S, PAUSE_S = 25.0, 5.0
log = get_logger()


class Post(Protocol):
    """Where letters come from."""

    async def next(self, wait_s: float) -> Letter | None:
        """The next one; None if there is none. Raises: AggregatorRefuses, BadMessage."""
        ...

    async def answer(self, letter: str, body: bytes) -> None:
        """Hand in an answer. Raises: AggregatorRefuses."""
        ...


class KeeperLine(UpstreamLine):
    """Signed requests to the aggregator, as a relay's."""

    async def next(self, wait_s: float) -> Letter | None:
        """See :class:`Post`."""
        data = await self._send("GET", f"/v1/letters?wait_s={wait_s:g}", limit=MAX_MESSAGE_BYTES)
        return Letter.from_bytes(data) if data else None

    async def answer(self, letter: str, body: bytes) -> None:
        """See :class:`Post`."""
        await self._send("POST", f"/v1/letters/{letter}", body)


def side_of(folder: KeeperFolder, book: KeeperBook) -> KeeperSide:
    """What answers letters. Raises: NoPersons, BadFile, OtherKeys."""
    persons = folder.persons()
    folder.adopt(persons)  # keys that were exchanged since are noticed before the first answer
    return KeeperSide(folder.settings.name, persons.hash, folder.keys(), book, secrets.token_bytes)


async def answer_letters(side: KeeperSide, post: Post, *, pause_s: float = PAUSE_S) -> None:
    """Answer letters until cancelled. What cannot be answered now is asked again by whoever wants it."""
    while True:
        show_alive()
        try:
            letter = await post.next(WAIT_S)
            if letter is None:
                continue
            body = await asyncio.to_thread(side.answer, letter.body)
            await post.answer(letter.id, body)
            log.info("keeper.answered", size=len(body))
        except AggregatorRefuses as error:
            if error.told == "not-found":
                continue  # nobody waits for this answer any more
            log.warning("keeper.unanswered", code=error.code, reason=error.what)
            await asyncio.sleep(pause_s)
        except Error as error:
            log.error("keeper.unanswered", code=error.code, reason=error.what)
            await asyncio.sleep(pause_s)


def run_keeper(folder: KeeperFolder) -> None:
    """Answer letters until SIGTERM or SIGINT. Raises: what :func:`side_of` raises; BookDamaged."""
    book = KeeperBook(folder.book)
    try:
        side = side_of(folder, book)
        book.log()
        with suppress(asyncio.CancelledError):
            asyncio.run(_until_told(folder, side))
    finally:
        book.close()


async def _until_told(folder: KeeperFolder, side: KeeperSide) -> None:
    told, loop = folder.settings, asyncio.get_running_loop()
    own = asyncio.current_task()
    for name in (signal.SIGTERM, signal.SIGINT):
        if own is not None:
            loop.add_signal_handler(name, own.cancel)
    identity = folder.identity()
    line = KeeperLine(told.aggregator, folder.authority, identity, proxy=told.proxy, file=FILE)
    log.info("keeper.starting", node=told.name)
    try:
        await answer_letters(side, line)
    finally:
        await line.close()
