"""Work in processes of its own, one for each piece, that ends when its caller does.

A ``multiprocessing.Pool`` shares locks: when a signal ends a worker that holds one (a service manager sends
SIGTERM to all processes of a group), the pool waits for it for ever, also to end itself. Here nothing is
shared: each process has a pipe to its caller, and whatever ends the caller's wait kills them all.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar

from medveil.errors import Error

Given = TypeVar("Given")
Found = TypeVar("Found")


class WorkerLost(Error):
    """A process ended without an answer."""

    code = "worker-lost"

    def __init__(self, *, status: int | None) -> None:
        how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        super().__init__(
            what=f"A process that was working for this command ended with {how}.",
            meaning="Its part of the work is missing, so the whole was stopped.",
            remedy="Was it killed, perhaps for want of memory? Close other programs and run it again.",
        )


def each_apart(
    work: Callable[[Given], Found], pieces: Sequence[Given], *, most: int | None = None
) -> list[Found]:
    """``[work(piece) for piece in pieces]``, each in a process of its own.

    Args:
        work, pieces: are handed over by pickling. most: processes at a time; as many as processors without.
    Guarantees: every process has ended when this returns or raises, whatever signal reached it or this one.
    Raises: what ``work`` raises, of the first piece that fails; WorkerLost.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(pieces))[::-1]
    room = max(1, most or os.cpu_count() or 1)
    running: dict[Connection, tuple[int, SpawnProcess]] = {}
    found: dict[int, Found] = {}
    try:
        while waiting or running:
            while waiting and len(running) < room:
                place, piece = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, work, piece), daemon=True)
                running[ours] = place, process
                process.start()
                theirs.close()
            ready = wait(list(running))
            for ours in [one for one in running if one in ready]:
                place, process = running.pop(ours)
                found[place] = _answer(ours, process)
    finally:
        for ours, (_, process) in running.items():
            _end(ours, process)
    return [found[place] for place in range(len(pieces))]


def _answer(ours: Connection, process: SpawnProcess) -> Found:  # type: ignore[type-var]
    try:
        answer, error = ours.recv()
    except (EOFError, OSError) as lost:
        process.join()
        raise WorkerLost(status=process.exitcode) from lost
    finally:
        _end(ours, process)
    if error is not None:
        raise error
    return answer  # type: ignore[no-any-return]


def _end(ours: Connection, process: SpawnProcess) -> None:
    ours.close()
    if process.pid is not None:
        process.kill()
        process.join()


def _work(theirs: Connection, work: Callable[[Given], Found], piece: Given) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller hears it, too, and ends this process
    try:
        answer: tuple[object, BaseException | None] = (work(piece), None)
    except Exception as error:
        answer = (None, error)
    theirs.send(answer)
