"""What this hospital adds to a sum, and whoever computes it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from medveil.rounds import AttemptKey, RoundKind
from medveil.tasks import Sums
from medveil.tensors import Float32, Update


class Lasting:
    """Mark of an error that does not end with the attempt: only opening the node's files again helps."""


class Passing:
    """Mark of an error of machines that compute, not of what they compute: the next attempt computes the
    round anew, under the same charge."""


@dataclass(frozen=True)
class Contribution:
    """What this hospital adds to a sum; in a study with noise it is noised, charged and marked as such."""

    update: Update
    sums: Sums | None
    """None where the study evaluates at its end only."""
    weight: int


@dataclass(frozen=True)
class CommonCourse:
    """What this node's own version of the model says of courses and personal weights, for the round that
    starts from it."""

    values: Float32
    """float32, shape (d,); zeros before the first sum."""
    summed: int
    """The last round whose sum has this hospital's update: its own course and its personal weights of then
    hold. 0: none yet."""


class ContributionSource(Protocol):
    """One plan's contributions: :class:`hospital_node.computation.Computation`, or a simulation's."""

    def read_ahead(self) -> object:
        """Begin to read the images before the first round wants them."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether images are read, or anything is computed."""
        ...

    def prepare(
        self,
        key: AttemptKey,
        kind: RoundKind,
        model: bytes,
        vector: Float32,
        course: CommonCourse | None = None,
    ) -> asyncio.Future[Contribution]:
        """Start the round's computation, or hand out the one that an earlier attempt started."""
        ...
