"""Rounds, attempts, phases and what comes out of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from medveil.study import Study
from medveil.values import Frozen, Name, Sha256

MAX_EARLY_FAILURES = 1000
"""Attempts at one round that may fail before anything masked was sent; then the plan ends."""


class RoundKind(StrEnum):
    """What is summed: updates (with validation figures) or evaluation figures only."""

    TRAIN = "train"
    EVALUATE = "evaluate"


class Phase(StrEnum):
    """The steps of one attempt at a secure sum, in order, the step of one that fails, and the two ends."""

    ADVERTISE = "advertise"
    SHARE = "share"
    COMMIT = "commit"
    UPLOAD = "upload"
    AGREE = "agree"
    UNMASK = "unmask"
    ABORT = "abort"
    DONE = "done"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether the attempt is over."""
        return self in (Phase.DONE, Phase.FAILED)


EARLY = (Phase.ADVERTISE, Phase.SHARE, Phase.COMMIT)
"""Phases in which nothing masked has been sent: failing here costs nobody anything."""


@dataclass(frozen=True)
class AttemptKey:
    """Which attempt: plan (hexadecimal), round, attempt."""

    plan: str
    round: int
    attempt: int

    @property
    def where(self) -> dict[str, str | int]:
        """As column values."""
        return {"plan": self.plan, "round": self.round, "attempt": self.attempt}

    @property
    def folder(self) -> str:
        """Name of the attempt's upload folder."""
        return f"{self.plan[:16]}-{self.round}-{self.attempt}"


class ModelVersion(Frozen):
    """An immutable global model: its hash names it, its parent is the model the round started from."""

    plan: Sha256
    number: int
    """0 is the initial model; each successful training round adds one."""
    model: Sha256
    parent: Sha256 | None
    round: int
    survivors: tuple[Name, ...]
    epsilon: float | None
    """What a patient of a hospital that took part in every round so far has spent; None without privacy."""
    created: str
    """UTC time, ISO 8601."""


def most_attempts(study: Study) -> int:
    """Largest number that an attempt can have: tries with masked vectors, and those that ended before."""
    return study.attempts + MAX_EARLY_FAILURES - 1


def kind_of(study: Study, number: int) -> RoundKind:
    """Which kind of round a number is: after the last one that trains comes one that evaluates."""
    return RoundKind.TRAIN if number <= study.training.rounds else RoundKind.EVALUATE
