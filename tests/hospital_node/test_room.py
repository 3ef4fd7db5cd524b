"""A node whose disk is full waits for room and begins anew; any other fault ends it as before."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest
import sqlalchemy as sa

from hospital_node import room
from hospital_node.ledger import LedgerClosed
from hospital_node.transmissions.entries import NotRecorded

FAULTS: list[Exception] = [
    NotRecorded(reason="No space left on device"),
    LedgerClosed(),
    OSError(errno.ENOSPC, "No space left on device"),
    sa.exc.OperationalError("INSERT", {}, Exception("database or disk is full")),
]


def play(folder: Path, fault: Exception, full: list[bool], patch: pytest.MonkeyPatch) -> list[str]:
    """Work that fails once; whether the disk is full is asked as often as the list is long."""
    done: list[str] = []

    async def work() -> None:
        done.append("work")
        if len(done) == 1:
            raise fault

    async def sleep(_: float) -> None:
        done.append("wait")

    patch.setattr(room, "_is_full", lambda _: full.pop(0))
    patch.setattr(room.asyncio, "sleep", sleep)
    asyncio.run(room.with_room(folder, work))
    return done


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_work_begins_anew_when_a_full_disk_has_room_again(
    tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = play(tmp_path, fault, [True, True, True, False], monkeypatch)
    assert done == ["work", "wait", "wait", "work"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_the_same_fault_ends_the_node_while_there_is_room(
    tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(type(fault)):
        play(tmp_path, fault, [False], monkeypatch)
