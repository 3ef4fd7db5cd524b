"""What a hospital's operator should know of a folder, gathered while it is read."""

from __future__ import annotations

from medveil_imaging.sources.raw import Note, Problem, Unusable

MAX_PROBLEMS = 10_000


class Findings:
    """Problems for the operator's screen; beyond the most that anybody reads they are counted only."""

    def __init__(self) -> None:
        self._listed: list[Problem] = []
        self._more = 0

    def refuse(self, error: Unusable, file: str, row: int | None) -> None:
        """An item that is not used."""
        self.add(Problem(file, row, error.code, error.what, error.remedy))

    def warn(self, note: Note, file: str, row: int) -> None:
        """An item that is used, but somebody should look."""
        self.add(Problem(file, row, note.code, note.reason, note.remedy, "warning"))

    def add(self, problem: Problem) -> None:
        """One more, of a line or of the whole site."""
        if problem.row is None or len(self._listed) < MAX_PROBLEMS:
            self._listed.append(problem)
        else:
            self._more += 1

    def sorted(self, whole: str) -> tuple[Problem, ...]:
        """Those about the whole site first, then line by line.

        Args:
            whole: the file that a problem of the whole site is told of.
        """
        found = self._listed
        if self._more:
            rest = Problem(
                whole,
                None,
                "more-problems",
                f"There are {self._more} more problems than are listed here.",
                "Repair these first.",
                "warning",
            )
            found = [*found, rest]
        return tuple(sorted(found, key=lambda p: (p.row is not None, p.row or 0)))
