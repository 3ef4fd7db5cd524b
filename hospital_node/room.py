"""A full disk: the node lets go of its files, waits until there is room, and goes on from what is on disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from hospital_node.journal import UNWRITABLE
from hospital_node.ledger import LedgerClosed, LedgerUnreadable
from hospital_node.transmissions.entries import NotRecorded
from medveil.log import get_logger

ROOM_BYTES = 2**20
"""Less than this is called full: a row, a journal's page and an entry want a few kilobytes each."""
LOOK_S = 5.0
STOPPED_BY = (OSError, NotRecorded, LedgerClosed, LedgerUnreadable, *UNWRITABLE)
"""How a full disk shows, in whatever file it shows first."""
log = get_logger()


async def with_room(folder: Path, work: Callable[[], Awaitable[None]]) -> None:
    """Do the node's work; begin it anew, as after a crash, each time that a full disk has room again.

    Raises: what the work raises while there is room.
    """
    while True:
        try:
            await work()
            return
        except STOPPED_BY as error:
            if not _is_full(folder):
                raise
            log.error("disk.full", code=getattr(error, "code", "system-refused"))
        while _is_full(folder):
            await asyncio.sleep(LOOK_S)
        log.info("disk.room")


def _is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < ROOM_BYTES
