"""One training job, as the node sees it: started, asked for sums, watched, ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hospital_node.ranks.crews import Crew, crew_of
from hospital_node.ranks.folder import (
    NODE,
    ORDER,
    Arrays,
    Beating,
    Damaged,
    JobFolder,
    Signs,
    Waiting,
)
from hospital_node.ranks.problems import (
    JobFolderFailed,
    JobNotStarted,
    RankAnswer,
    RankFailed,
    RankLost,
    RankSilent,
)
from hospital_node.ranks.settings import RanksSettings
from medveil.log import get_logger
from medveil.shown import plain
from medveil.stopping import check_stopped

Kind = Literal["clipped", "loss"]
"""The sum of patients' clipped gradients, or the gradient of images' summed losses."""
LOOK_S = 0.2
"""How often a wait looks whether everybody lives."""
LOST, SILENT, ANSWER = RankLost.code, RankSilent.code, RankAnswer.code
log = get_logger()


@dataclass(frozen=True)
class Order:
    """What the ranks of a job must know before the first step. Nothing in it tells who a patient is."""

    study: str
    """As JSON."""
    precision: Literal["float32", "float64"]


@dataclass(frozen=True)
class Card:
    """What the hospital's policy says of a machine's cards."""

    gpu: bool = True
    gpu_memory_share: float | None = None


@dataclass(frozen=True)
class Block:
    """Some patients' images for one step, one after the other."""

    images: NDArray[Any] = field(repr=False)
    labels: NDArray[Any] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    """Images of each patient."""

    @property
    def arrays(self) -> Arrays:
        """For the folder."""
        return {"images": self.images, "labels": self.labels, "counts": self.counts}


class Job:
    """Ranks that stand ready. Open one with :func:`opened`."""

    def __init__(self, folder: JobFolder, crew: Crew, settings: RanksSettings) -> None:
        self._folder, self._crew, self._settings = folder, crew, settings
        self._signs = Signs(folder, settings.silent_s)
        self._asked = 0

    def await_ready(self) -> None:
        """Until every rank has come. Raises: JobNotStarted; what :meth:`sum_of` raises; Stopped."""
        waiting, count = Waiting(), self._settings.count
        for rank in range(count):
            while self._read(f"ready-{rank}", rank) is None:
                if waiting.seconds > self._settings.start_s:
                    raise JobNotStarted(problem=f"rank {rank} of {count} has not come in time")
                self._look(watched=())
                waiting.pause()

    def sum_of(self, kind: Kind, weights: NDArray[Any], blocks: Sequence[Block]) -> NDArray[Any]:
        """The sum over all blocks' patients (images) of what ``kind`` says, at these weights.

        Args:
            weights: all trained ones, one after the other, shape (d,).
        Returns: shape (d,), of the weights' precision.
        Raises: RankLost, RankSilent, RankAnswer, RankFailed, JobFolderFailed; Stopped.
        """
        self._asked += 1
        number, names = self._asked, [f"block-{self._asked}-{k}" for k in range(len(blocks))]
        with _folder_problems():
            self._folder.write_arrays(f"weights-{number}", {"weights": weights})
            for name, block in zip(names, blocks, strict=True):
                self._folder.write_arrays(name, block.arrays)
            self._folder.write(f"go-{number}", {"kind": kind, "blocks": len(blocks)})
        found = self._answer(f"sum-{number}")
        with _folder_problems():
            self._folder.forget(f"go-{number}", f"weights-{number}", *names, f"sum-{number}")
        total = found.get("sum", np.empty(0))
        if total.shape != weights.shape or total.dtype != weights.dtype:
            problem = f"{total.dtype} of shape {total.shape} in place of {weights.dtype} of {weights.shape}"
            raise RankAnswer(rank=0, problem=problem)
        return total

    def _answer(self, name: str) -> Arrays:
        waiting, looked = Waiting(), 0.0
        watched = [str(rank) for rank in range(self._settings.count)]
        while True:
            try:
                found = self._folder.read_arrays(name)
            except Damaged as error:
                raise RankAnswer(rank=0, problem="a file that this job has not sealed") from error
            if found is not None:
                return found
            if waiting.seconds - looked > LOOK_S:
                looked = waiting.seconds
                self._look(watched)
            if waiting.seconds > self._settings.step_s:
                raise RankSilent(rank=0, seconds=self._settings.step_s)
            waiting.pause()

    def _look(self, watched: Sequence[str]) -> None:
        """Raises: what a rank says of itself, or its silence of it; Stopped."""
        check_stopped()
        ended = self._crew.ended()
        if ended is not None and ended[1] < 0:
            raise RankLost(rank=ended[0], how=f"signal {-ended[1]}")
        told = [(rank, self._read(f"failed-{rank}", rank)) for rank in range(self._settings.count)]
        failed = [(rank, one) for rank, one in told if one is not None]
        failed.sort(key=lambda one: one[1].get("code") in (LOST, SILENT))  # others' loss follows from a cause
        if failed:
            raise _problem_of(*failed[0])
        if ended is not None:
            raise RankLost(rank=ended[0], how=f"exit status {ended[1]}")
        for who in watched:
            if self._signs.silent(who):
                raise RankSilent(rank=int(who), seconds=self._settings.silent_s)

    def _read(self, name: str, rank: int) -> dict[str, Any] | None:
        try:
            return self._folder.read(name)
        except (Damaged, ValueError) as error:
            raise RankAnswer(rank=rank, problem="a file that this job has not sealed") from error


def _problem_of(rank: int, said: dict[str, Any]) -> RankLost | RankSilent | RankAnswer | RankFailed:
    """A rank's own word on why it has ended, or whose fault it was."""
    code, what, other = said.get("code"), plain(said.get("what", ""), 300), said.get("rank", rank)
    who = other if isinstance(other, int) else rank
    if code == LOST:
        return RankLost(rank=who, how=what)
    if code == SILENT:
        return RankSilent(rank=who, seconds=float(said.get("seconds", 0.0)))
    if code == ANSWER:
        return RankAnswer(rank=who, problem=what)
    return RankFailed(rank=rank, problem=f"{what} [{plain(code, 60)}]")


OpenJob = Callable[[Order], AbstractContextManager[Job]]
"""Starts the ranks that an order is for."""


@contextmanager
def _folder_problems() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JobFolderFailed(problem=error.strerror or type(error).__name__) from error


@contextmanager
def opened(settings: RanksSettings, base: Path, card: Card, order: Order) -> Iterator[Job]:
    """A job whose ranks all stand ready; it ends with the block, however that ends, and its folder with it.

    Args:
        base: the folder of jobs, where the settings name none.
    Raises: JobNotStarted, JobFolderFailed; RankLost and its kin; Stopped.
    """
    with _folder_problems():
        folder = JobFolder.make(settings.folder or base)
    beating, crew, whole = Beating(folder, NODE), None, False
    try:
        with _folder_problems():
            limits = settings.model_dump(include={"count", "interface", "step_s", "silent_s"})
            folder.write(ORDER, vars(order) | vars(card) | limits)
        crew = crew_of(settings, folder)
        job = Job(folder, crew, settings)
        job.await_ready()
        log.info("ranks.ready", count=settings.count)
        yield job
        whole = True
    finally:
        beating.close()
        if crew is not None:
            crew.close(at_once=not whole)
        folder.remove()
