"""This hospital's own courses of a steered study, sealed on its disk; which one holds follows from the sums.

A course is made with an update, before the update leaves, and holds as soon as a published sum has that
update. So two are kept: the one that holds, of the last round whose sum this hospital is in, and the one of
the round in hand. Which of them is to be used nobody has to remember: the node's own version of the model
says in which round this hospital was summed last, and the course is looked up by that round. A crash between
any two steps leaves both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hospital_node.sealed import SealedFile
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
        self._file = SealedFile(path, key, LABEL.encode())

    def find(self, number: int, *, size: int) -> Float32:
        """The course that was made in a round, float32, shape (size,); zeros for round 0: before the first.

        Raises: LostCourse.
        """
        if number == 0:
            return np.zeros(size, np.float32)
        found = self._open().get(number)
        if found is None or found.shape != (size,):
            raise LostCourse(number=number)
        return found

    def keep(self, number: int, course: Float32, *, beside: int) -> None:
        """Keep a round's course on stable storage, and of the others that of round ``beside``."""
        kept = {n: values for n, values in self._open().items() if n == beside} | {number: course}
        self._file.write_arrays({str(n): values for n, values in kept.items()})

    def forget(self) -> None:
        """The plan is over."""
        self._file.path.unlink(missing_ok=True)

    def _open(self) -> dict[int, Float32]:
        """What is kept, by round; nothing if nothing whole is there."""
        try:
            return {int(name): values for name, values in self._file.read_arrays().items()}
        except ValueError:
            return {}


def course_path(folder: Path, plan: str) -> Path:
    """Where a plan's own courses are kept."""
    return folder / f"{plan}.courses"
