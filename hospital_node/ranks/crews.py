"""Those who start a job's ranks and tell of their end: this machine itself, or the command of a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from hospital_node.ranks.folder import JobFolder
from hospital_node.ranks.problems import JobNotStarted
from hospital_node.ranks.settings import RanksSettings
from medveil.shown import plain

COUNT, TIED = "MEDVEIL_RANKS", "MEDVEIL_JOB_TIED"
"""How many ranks a job has; whether a rank ends when its standard input does."""
SUBMIT_S = 120.0
"""Longest that a command of a cluster may take."""
END_S = 5.0
LONGEST_NAME = 200


class Crew(Protocol):
    """The ranks of one job."""

    def ended(self) -> tuple[int, int] | None:
        """A rank that has ended, and its exit status, negative for a signal; None if nobody knows of one."""
        ...

    def close(self, *, at_once: bool) -> None:
        """End them; not ``at_once``, they have seen that the job is over."""
        ...


class LocalCrew:
    """Processes of this machine. They end with this one, however it ends: their standard input does."""

    def __init__(self, folder: JobFolder, count: int, command: Sequence[str] | None = None) -> None:
        self._tie, there = -1, -1
        self._processes: list[subprocess.Popen[bytes]] = []
        there, self._tie = os.pipe()
        words = command or (sys.executable, "-m", "medveil", "node", "train-job")
        try:
            for rank in range(count):
                self._processes.append(
                    subprocess.Popen(
                        [*words, str(folder.path)],
                        stdin=there,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env=_environment(folder, rank, count),
                    )
                )
        except OSError as error:
            self.close(at_once=True)
            raise JobNotStarted(problem=plain(error.strerror or "no process", 100)) from error
        finally:
            os.close(there)

    def ended(self) -> tuple[int, int] | None:
        """One that a signal has ended before others: it is why those give up."""
        found = [(rank, s) for rank, one in enumerate(self._processes) if (s := one.poll()) is not None]
        return min(found, key=lambda one: (one[1] >= 0, one[0]), default=None)

    def close(self, *, at_once: bool) -> None:
        """End them."""
        if self._tie >= 0:
            os.close(self._tie)
            self._tie = -1
        for one in self._processes:
            if at_once:
                one.kill()
            try:
                one.wait(END_S)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


def _environment(folder: JobFolder, rank: int, count: int) -> dict[str, str]:
    """This process's own, without the ways out, and a share of its cores."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, COUNT: count, TIED: 1}
    path = os.pathsep.join(filter(None, sys.path))
    return {**kept, **{k: str(v) for k, v in place.items()}, **folder.environment, "PYTHONPATH": path}


class SubmittedCrew:
    """A job that a command has handed to a cluster. How it fares shows in its folder alone."""

    def __init__(self, folder: JobFolder, settings: RanksSettings) -> None:
        self._cancel = settings.cancel
        mine = {**os.environ, **folder.environment, COUNT: str(settings.count)}
        told = _run([*settings.submit, str(folder.path)], mine)
        self.name = plain((told.split() or [""])[0], LONGEST_NAME)
        if not self.name:
            raise JobNotStarted(problem="its command printed no name of a job")

    def ended(self) -> None:
        """Nobody here knows."""

    def close(self, *, at_once: bool) -> None:
        """Tell the cluster, if there is a command for it; ranks that run end by themselves, too."""
        if self._cancel and at_once:
            with suppress(JobNotStarted):
                _run([*self._cancel, self.name], os.environ)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a command of the operator prints. Raises: JobNotStarted."""
    try:
        told = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SUBMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it took too long"
        raise JobNotStarted(problem=f"'{plain(command[0], 60)}': {plain(reason, 100)}") from error
    if told.returncode:
        said = told.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        problem = f"'{plain(command[0], 60)}' ended with {told.returncode}: {plain(said[-1], 200)}"
        raise JobNotStarted(problem=problem)
    return told.stdout.decode(errors="replace")


def crew_of(settings: RanksSettings, folder: JobFolder) -> Crew:
    """Start a job's ranks. Raises: JobNotStarted."""
    if settings.submit:
        return SubmittedCrew(folder, settings)
    return LocalCrew(folder, settings.count)
