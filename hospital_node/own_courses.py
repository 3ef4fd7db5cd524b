"""This hospital's own courses of a steered study, sealed on its disk; the sums say which one holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hospital_node.by_round import ByRound
from medveil.errors import LocalProtocolError
from medveil.identity import Secret
from medveil.tensors import Float32

LABEL = "own-courses"
"""What the sealing key is derived for."""


class LostCourse(LocalProtocolError):
    """The course that a published sum rests on is not here."""

    code = "lost-course"

    def __init__(self, *, number: int) -> None:
        super().__init__(
            what=f"This hospital's own course of round {number} is not on its disk, or is damaged.",
            meaning="Steps without it would pull the model off its course, so nothing was trained or sent.",
            remedy="Restore the node's folder 'models'. Else this plan goes on without this hospital.",
        )


class OwnCourses:
    """One plan's file.

    Args:
        path: where it lies. key: that only this node's identity can derive.
    """

    def __init__(self, path: Path, key: Secret) -> None:
        self._kept = ByRound(path, key, LABEL)

    def find(self, number: int, *, size: int) -> Float32:
        """The course that was made in a round, float32, shape (size,); zeros for round 0: before the first.

        Raises: LostCourse.
        """
        if number == 0:
            return np.zeros(size, np.float32)
        found = self._kept.find(number, size=size)
        if found is None:
            raise LostCourse(number=number)
        return found

    def keep(self, number: int, course: Float32, *, beside: int) -> None:
        """Keep a round's course on stable storage, and of the others that of round ``beside``."""
        self._kept.keep(number, course, beside=beside)

    def forget(self) -> None:
        """The plan is over."""
        self._kept.forget()


def course_path(folder: Path, plan: str) -> Path:
    """Where a plan's own courses are kept."""
    return folder / f"{plan}.courses"
