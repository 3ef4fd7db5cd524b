"""The processes that play a simulation's hospitals, and what is asked of them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from medveil.errors import Error
from medveil.identity import remember_verified
from medveil.log import set_up
from medveil_research.apart import WorkerLost
from medveil_research.simulation.hands import Answer, Given, Hands, Told

CHUNK = 16
"""Hospitals that are asked together."""
AHEAD = 2
"""Questions that wait at a process, so that it never waits for the next one."""
_HANDS: list[Hands] = []


class ProcessTrouble(Error):
    """An error of a process that plays hospitals, as it told it."""

    code = "simulation-process"

    def __init__(self, *, code: str, what: str, meaning: str, remedy: str) -> None:
        super().__init__(what=what, meaning=meaning, remedy=remedy)
        self.code = code


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller hears it, too, and ends this process
    threading.Thread(target=_end_with_caller, daemon=True).start()
    set_up("critical")  # a simulated hospital's log is nobody's
    remember_verified()


def _end_with_caller() -> None:
    """A caller that was killed ends nobody; its end of the pool's pipe stays open in this process."""
    caller = multiprocessing.parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)


def _ask(name: str, *arguments: Any) -> Any:
    """An answer, or the words of an error: an error itself does not travel between processes."""
    try:
        if name == "open":
            _HANDS.append(Hands(*arguments))
            return True, None
        return True, getattr(_HANDS[0], name)(*arguments)
    except Error as error:
        return False, (error.code, error.what, error.meaning, error.remedy)


class _Here:
    """In this process, for few hospitals: starting others takes longer than they would save."""

    def __init__(self, given: Given, own: Sequence[int]) -> None:
        self._hands = Hands(given, own)

    def submit(self, name: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result((True, getattr(self._hands, name)(*arguments)))
        except Exception as error:
            future.set_exception(error)
        return future

    def end(self) -> None:
        self._hands.close()


class _Apart:
    """A process of its own."""

    def __init__(self, given: Given, own: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._executor: Executor = ProcessPoolExecutor(1, mp_context=context, initializer=_start)
        self._opening = self._executor.submit(_ask, "open", given, own)

    def submit(self, name: str, *arguments: Any) -> Future[Any]:
        _result(self._opening)
        return self._executor.submit(_ask, name, *arguments)

    def end(self) -> None:
        processes = list((getattr(self._executor, "_processes", None) or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
            process.join()


class Crew:
    """All hospitals, dealt to processes in turn.

    Args:
        processes: how many; 0 plays all in this one.
    Guarantees: after :meth:`close` none of its processes lives.
    """

    def __init__(self, given: Given, *, processes: int) -> None:
        self._hospitals = len(given.plan.roster)
        self._count = max(1, min(processes, self._hospitals))
        kind = _Apart if processes else _Here
        shares = [tuple(range(k + 1, self._hospitals + 1, self._count)) for k in range(self._count)]
        self._hands: list[_Here | _Apart] = []
        for own in shares:
            self._hands.append(kind(given, own))

    def close(self) -> None:
        """End every process."""
        for one in self._hands:
            one.end()

    def each(self, name: str, *arguments: Any) -> list[Any]:
        """Ask every process the same; their answers. Raises: what they raise, WorkerLost."""
        return [_result(future) for future in [one.submit(name, *arguments) for one in self._hands]]

    def first(self, name: str, *arguments: Any) -> Any:
        """Ask the first process. Raises: what it raises, WorkerLost."""
        return _result(self._hands[0].submit(name, *arguments))

    def told(self) -> list[Told]:
        """What every process knows of the round."""
        return list(self.each("told"))

    def fits(self, total: bytes, survivors: Sequence[int]) -> bool | None:
        """Whether a sum passes the check word, by the first process that has a hospital in it."""
        answers = [one for one in self.each("fits", total, survivors) if one is not None]
        return all(answers) if answers else None

    def answers(
        self, phase: str, indices: Sequence[int], shown: Callable[[int], bytes] | bytes
    ) -> Iterator[Answer]:
        """Show a phase to these hospitals; what they say, as it comes.

        Args:
            shown: what each is shown; bytes if that is the same for all.
        """

        def question(chunk: Sequence[int]) -> tuple[Any, ...]:
            if isinstance(shown, bytes):
                return ("answer", phase, shown, dict.fromkeys(chunk, b""))
            return ("answer", phase, b"", {index: shown(index) for index in chunk})

        for part in self._spread(indices, question):
            yield from part

    def plain(self, indices: Sequence[int]) -> Iterator[Answer]:
        """Vectors without masks, added in each process."""
        for part in self._spread(indices, lambda chunk: ("plain", chunk)):
            yield from part

    def vows(self, indices: Sequence[int]) -> Iterator[Answer]:
        """Hospitals give up a failed attempt."""
        for part in self._spread(indices, lambda chunk: ("vows", chunk)):
            yield from part

    def _spread(
        self, indices: Sequence[int], question: Callable[[Sequence[int]], tuple[Any, ...]]
    ) -> Iterator[Any]:
        """Each chunk to the process of its hospitals; few questions at a time, so few bytes in memory."""
        queues = [deque(_chunks(self._of(k, indices))) for k in range(self._count)]
        waiting: dict[Future[Any], int] = {}

        def send(place: int) -> None:
            if queues[place]:
                name, *arguments = question(queues[place].popleft())
                waiting[self._hands[place].submit(name, *arguments)] = place

        for _ in range(AHEAD):
            for place in range(self._count):
                send(place)
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                place = waiting.pop(future)
                send(place)
                yield _result(future)

    def _of(self, place: int, indices: Iterable[int]) -> list[int]:
        return [index for index in indices if (index - 1) % self._count == place]


def _chunks(indices: Sequence[int]) -> list[Sequence[int]]:
    return [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]


def _result(future: Future[Any]) -> Any:
    try:
        good, told = future.result()
    except BrokenProcessPool as error:
        raise WorkerLost(status=None) from error
    if not good:
        code, what, meaning, remedy = told
        raise ProcessTrouble(code=code, what=what, meaning=meaning, remedy=remedy)
    return told
