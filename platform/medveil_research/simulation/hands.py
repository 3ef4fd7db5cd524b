"""Some of the hospitals of a simulation, in one process: what the rounds ask of them."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hospital_node.contribution import Contribution
from medveil.errors import Error
from medveil.identity import Identity
from medveil.ids import digest
from medveil.metrics import released
from medveil.parts import in_round
from medveil.plan import Plan
from medveil.rounds import Phase, RoundKind
from medveil.tensors import Update
from medveil_research.simulation.hospital import (
    Box,
    Common,
    Later,
    SimulatedAttempt,
    Truth,
    drawn_update,
)
from medveil_research.simulation.splits import Split
from medveil_research.simulation.spool import Spool
from privacy.encoding import params_for
from privacy.secagg.checkword import AlteredSum, verify_sum
from privacy.secagg.closing import vow
from privacy.secagg.keys import setting_for
from privacy.secagg.node import CommittedState, Party

if TYPE_CHECKING:
    from medveil.reports import Figures
    from medveil.tasks import Sums
    from medveil_research.simulation.patients import DataSet
    from medveil_research.simulation.result import Dealt

Updates = Literal["train", "random"]


@dataclass(frozen=True)
class Given:
    """What every process of a simulation is told."""

    plan: Plan
    key: bytes = field(repr=False)
    """Of which every simulated hospital's key is derived: they are nobody's."""
    masks: bool
    updates: Updates
    data: Path | None
    split: Split
    seed: int
    scratch: Path
    """Where large things lie while a round runs."""


@dataclass(frozen=True)
class Answer:
    """What one hospital has said to one phase."""

    index: int
    box: Box = field(repr=False)
    cpu_s: float
    code: str = ""
    """Of the error for which it left the attempt."""


@dataclass(frozen=True)
class Told:
    """What a process knows of a round beside its answers."""

    words: bytes = field(repr=False)
    """Sum of the encoded vectors of its hospitals, mod 2^64."""
    updates: bytes = field(repr=False)
    """Sum of weight times update, float64."""
    weight: int
    hospitals: int
    neighbours: int
    """Of all of them together."""
    masking_s: float
    """CPU seconds of encoding and masking, of all of them together."""
    peak_bytes: int


def identity_of(key: bytes, index: int) -> Identity:
    """A simulated hospital's key, the same whenever the simulation goes on."""
    seed = digest("simulated-hospital", key, str(index).encode())
    return Identity(name_of(index), Ed25519PrivateKey.from_private_bytes(seed))


def name_of(index: int) -> str:
    """A simulated hospital's name."""
    return f"hospital-{index:04d}"


def peak_bytes() -> int:
    """Largest resident memory that this process has had. ``getrusage`` would count its parent's."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


class Hands:
    """A process's share of the hospitals.

    Args:
        own: their indices.
    Raises: what reading the data set raises.
    """

    def __init__(self, given: Given, own: Sequence[int]) -> None:
        self._given, self._own, self._study = given, tuple(own), given.plan.study
        self._identities = {index: identity_of(given.key, index) for index in own}
        self._data: DataSet | None = None
        if given.updates == "train" and given.data is not None:
            from medveil_research.simulation.patients import DataSet

            hospitals = len(given.plan.roster)
            self._data = DataSet(
                given.data, self._study, given.split, hospitals=hospitals, seed=given.seed, own=own
            )
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(1, "hospital"))
        self._attempts: dict[int, SimulatedAttempt] = {}
        self._spool: Spool | None = None
        self._stored: dict[int, tuple[int, int]] = {}
        self._computed = (0, b"")

    def dealt(self) -> Dealt | None:
        """How the data set was dealt; None without one."""
        return None if self._data is None else self._data.dealt

    def begin(self, number: int, attempt: int, model: bytes, vector: bytes) -> None:
        """A new attempt at a round.

        Args:
            model: its hash. vector: float32, as bytes.
        """
        plan, kind = self._given.plan, RoundKind.TRAIN
        self._number, self._vector = number, np.frombuffer(vector, np.float32)
        self._setting = setting_for(plan, number=number, attempt=attempt, kind=kind, model=model)
        self._params = params_for(self._study, kind, len(plan.roster), number)
        self._common, self._attempts = Common(), {}
        self._truth = Truth(np.zeros(self._params.words, np.uint64), np.zeros(self._params.parameters))
        if self._computed != (number, model):  # a second attempt sends what the first one trained
            if self._spool is not None:
                self._spool.close()
            self._spool, self._stored = Spool(self._given.scratch), {}
            self._computed = number, model

    def answer(self, phase: str, common: bytes, letters: Mapping[int, bytes]) -> list[Answer]:
        """Show a phase to hospitals.

        Args:
            common: what all of them are shown, where that is the same for all.
            letters: what each is shown beside it, by index; empty for ``common`` alone.
        """
        return [self._answer(Phase(phase), index, own or common) for index, own in letters.items()]

    def _answer(self, phase: Phase, index: int, payload: bytes) -> Answer:
        began = time.process_time()
        aside = 0.0
        try:
            if phase is Phase.ADVERTISE:
                self._attempts[index] = self._attempt(index)
            one = self._attempts[index]
            aside = one.aside_s
            box = self._loop.run_until_complete(one.take(phase, payload))
            aside = one.aside_s - aside
        except Error as error:
            return Answer(index, Box(), time.process_time() - began, error.code)
        return Answer(index, box, time.process_time() - began - aside)

    def _attempt(self, index: int) -> SimulatedAttempt:
        later = Later(partial(self._contribution, index), self._loop)
        return SimulatedAttempt(
            self._given.plan, self._party(index), later, common=self._common, truth=self._truth
        )

    def _contribution(self, index: int) -> Contribution:
        """Made once a round, and kept on the disk until it is sent."""
        study = self._study
        if self._data is None:
            masked = study.secure_aggregation
            size, clip = self._params.parameters, self._params.clip
            draw = np.random.default_rng([self._given.seed, index])
            weight = int(draw.integers(masked.least_weight, masked.largest_weight, endpoint=True))
            values = drawn_update(size, clip, seed=self._given.seed, number=self._number, index=index)
            return Contribution(Update(values), self._no_sums(), weight)
        assert self._spool is not None
        if index not in self._stored:
            made = self._data.contribution(index, self._vector, self._number)
            data = pickle.dumps(made)
            self._stored[index] = self._spool.add(data), len(data)
        update, sums = pickle.loads(self._spool.read(*self._stored[index]))  # noqa: S301 (of this process)
        return Contribution(update, sums, self._data.weight(index))

    def _no_sums(self) -> Sums | None:
        """Zeros for a study that counts in every round, where nobody counts anything."""
        if not self._study.evaluation.every_round:
            return None
        kinds = released(in_round(self._study, RoundKind.TRAIN))
        return {name: np.zeros(length) for name, length in kinds.items()}

    def plain(self, indices: Sequence[int]) -> list[Answer]:
        """Add the encoded vectors of these hospitals without keys, shares and masks; nothing is sent."""
        return [self._plain(index) for index in indices]

    def _plain(self, index: int) -> Answer:
        began, code = time.process_time(), ""
        try:
            self._attempt(index).add_plain()
        except Error as error:
            code = error.code
        return Answer(index, Box(), time.process_time() - began, code)

    def told(self) -> Told:
        """What the sum must be, as far as these hospitals are in it."""
        truth = self._truth
        neighbours = sum(one.neighbours for one in self._attempts.values())
        return Told(
            truth.words.tobytes(),
            truth.updates.tobytes(),
            truth.weight,
            truth.hospitals,
            neighbours,
            sum(one.masking_s for one in self._attempts.values()),
            peak_bytes(),
        )

    def fits(self, total: bytes, survivors: Sequence[int]) -> bool | None:
        """Whether a sum passes the check word, as one of these hospitals checks it; None: no one can."""
        for index in survivors:
            state = self._attempts[index].committed if index in self._attempts else None
            if isinstance(state, CommittedState):
                try:
                    verify_sum(
                        np.frombuffer(total, np.uint64), state.check_key, self._params, survivors=survivors
                    )
                except AlteredSum:
                    return False
                return True
        return None

    def vows(self, indices: Sequence[int]) -> list[Answer]:
        """These hospitals give a failed attempt up, but those that have unmasked in it."""
        found = []
        for index in indices:
            began = time.process_time()
            box = Box()
            try:
                if index in self._attempts:
                    self._attempts[index].notes.give_up()
                box.letters.append(("abort", vow(self._party(index)).to_bytes()))
            except Error as error:
                found.append(Answer(index, Box(), 0.0, error.code))
                continue
            found.append(Answer(index, box, time.process_time() - began))
        return found

    def _party(self, index: int) -> Party:
        return Party(self._setting, index, self._identities[index])

    def judge(self, vector: bytes) -> Figures:
        """Exact figures of a model on the test patients; empty without a data set."""
        return {} if self._data is None else self._data.judged(np.frombuffer(vector, np.float32))

    def close(self) -> None:
        """End what was begun for the hospitals."""
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        if self._spool is not None:
            self._spool.close()
