"""A simulation on disk: what it is, and every round that is over. A crash costs the round that runs.

The folder holds ``asked.json`` (what was asked for, and the key of which simulated hospitals' keys are made),
``attempts/`` (one JSON each), and the model after the last round with its strategy's state.
"""

from __future__ import annotations

import fcntl
import io
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medveil.errors import BadFile, Error
from medveil.files import owners, replace_durably, replace_lightly
from medveil.handed import read_json, read_whole
from medveil.private_files import private_folder
from medveil.shown import plain
from medveil.strategies import State
from medveil.tensors import Float32
from medveil.values import Frozen
from medveil_research.simulation.errors import OtherSimulation
from medveil_research.simulation.result import Dealt, RoundFacts

WHAT, ATTEMPTS, SCRATCH, LOCK, DEALT = "asked.json", "attempts", "scratch", "lock", "patients.json"
LARGEST_MODEL = 2**33


class FolderInUse(Error):
    """Another process works in this folder."""

    code = "simulation-running"

    def __init__(self, *, folder: str) -> None:
        super().__init__(
            what=f"Another simulation is at work in the folder '{folder}'.",
            meaning="Two at once would write over each other's rounds, so this one did not start.",
            remedy="Wait until it has ended, end it, or name another folder with -o.",
        )


class What(Frozen):
    """What a folder was begun with."""

    asked: dict[str, Any]
    key: str
    """In hexadecimal; of simulated hospitals, so it protects nothing."""


@dataclass(frozen=True)
class Reached:
    """Where a simulation has come."""

    attempts: tuple[RoundFacts, ...]
    vector: Float32 = field(repr=False)
    state: State = field(repr=False)

    @property
    def next(self) -> tuple[int, int]:
        """The next round and attempt, if no round has more tries."""
        if not self.attempts:
            return 1, 1
        last = self.attempts[-1]
        return (last.round + 1, 1) if last.outcome == "done" else (last.round, last.attempt + 1)


class Folder:
    """The folder of one simulation."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self.key = path, key

    @property
    def scratch(self) -> Path:
        """What a running round needs; empty before it and after it."""
        return self.path / SCRATCH

    def reached(self, start: Float32) -> Reached:
        """The rounds that are over; what was half written is as if it had not been."""
        attempts: list[RoundFacts] = []
        for path in sorted((self.path / ATTEMPTS).glob("*.json")):
            attempts.append(read_json(path, RoundFacts))
        done = [one.round for one in attempts if one.outcome == "done"]
        if not done:
            return Reached(tuple(attempts), start, {})
        with suppress(OSError, ValueError, KeyError):
            data = read_whole(self._model(done[-1]), LARGEST_MODEL)
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                state = {name[6:]: stored[name] for name in stored.files if name.startswith("state-")}
                return Reached(tuple(attempts), stored["model"], state)
        raise BadFile(name=self._model(done[-1]).name, problem="it is not the model after the last round")

    def keep(self, facts: RoundFacts, vector: Float32, state: Mapping[str, Any]) -> None:
        """A round is over: the model first, then the facts that count on it, then the model before goes."""
        if facts.outcome == "done":
            buffer = io.BytesIO()
            np.savez(buffer, model=vector, **{f"state-{name}": values for name, values in state.items()})
            replace_durably(self._model(facts.round), buffer.getbuffer(), private=True)
        name = f"{facts.round:05d}-{facts.attempt:04d}.json"
        replace_durably(self.path / ATTEMPTS / name, facts.model_dump_json(indent=1).encode(), private=True)
        for old in self.path.glob("model-*.npz"):
            if facts.outcome == "done" and old != self._model(facts.round):
                old.unlink(missing_ok=True)

    def dealt(self, told: Dealt | None) -> Dealt:
        """How patients were dealt: what is told, kept for whoever asks when all rounds are over."""
        path = self.path / DEALT
        if told is not None:
            replace_lightly(path, told.model_dump_json().encode(), private=True)
            return told
        return read_json(path, Dealt) if path.exists() else Dealt()

    def _model(self, number: int) -> Path:
        return self.path / f"model-{number:05d}.npz"


@contextmanager
def open_folder(path: Path, asked: Mapping[str, Any]) -> Iterator[Folder]:
    """The folder of exactly this simulation, made if there is none; nobody else's meanwhile.

    An error before the first round is over leaves nothing in it: whoever mends what was refused begins anew.

    Raises: OtherSimulation: it was begun with something else. FolderInUse; OpenFolder; BadFile.
    """
    private_folder(path)
    with _alone(path):
        what = path / WHAT
        wanted = json.loads(json.dumps(asked))
        if not what.exists():
            if any(one.name != LOCK for one in path.iterdir()):
                raise OtherSimulation(folder=plain(path.name), differs="all, for there is none yet")
            told = What(asked=wanted, key=secrets.token_hex(32))
            replace_durably(what, told.model_dump_json(indent=1).encode(), private=True)
        found = read_json(what, What)
        differs = [name for name in {**wanted, **found.asked} if found.asked.get(name) != wanted.get(name)]
        if differs:
            raise OtherSimulation(folder=plain(path.name), differs=plain(", ".join(differs)))
        for name in (ATTEMPTS, SCRATCH):
            (path / name).mkdir(mode=0o700, exist_ok=True)
        try:
            yield Folder(path, bytes.fromhex(found.key))
        except Error:
            if not any((path / ATTEMPTS).iterdir()):
                _clear(path)
            raise


def _clear(path: Path) -> None:
    """Remove what :func:`open_folder` makes, and the folder if there is nothing else in it."""
    (path / ATTEMPTS).rmdir()
    shutil.rmtree(path / SCRATCH)
    for name in (WHAT, DEALT, LOCK):
        (path / name).unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with open(path / LOCK, "w", opener=owners) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderInUse(folder=plain(path.name)) from error
        yield
