"""Who drops out of which round, and when: drawn by shares, or written down.

The moment is the first phase of an attempt that a hospital does not answer. A straggler's training ends after
the deadline, so it is not ready in phase ``commit``; a dropout is ready and vanishes with its masks in the
sum, in phase ``upload``, unless the schedule names another phase.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from medveil.handed import problem_of, read_toml
from medveil.rounds import Phase
from medveil.values import Frozen
from medveil_research.simulation.errors import BadSchedule

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
PHASES = (Phase.ADVERTISE, Phase.SHARE, Phase.COMMIT, Phase.UPLOAD, Phase.AGREE, Phase.UNMASK)
PhaseWord = Literal["advertise", "share", "commit", "upload", "agree", "unmask"]


class Missing(Frozen):
    """Hospitals that do not answer one phase of a round, nor any after it."""

    round: Annotated[int, Field(ge=1)]
    phase: PhaseWord = "upload"
    share: Share | None = None
    """Of all hospitals, drawn."""
    hospitals: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.share is None) == (not self.hospitals):
            raise ValueError("give either share or hospitals")
        return self


class Schedule(Frozen):
    """Dropouts and stragglers of every round, and of single ones.

    A round that is written down has what is written, instead of what the shares would draw.
    """

    dropouts: Share = 0.0
    """Share of all hospitals that vanish between commit and upload."""
    stragglers: Share = 0.0
    """Share of all hospitals that are not ready by the deadline."""
    missing: tuple[Missing, ...] = ()

    def check(self, *, hospitals: int, rounds: int) -> None:
        """Raises: BadSchedule where it names a hospital or a round that does not exist."""
        for one in self.missing:
            if one.round > rounds:
                raise BadSchedule(problem=f"it names round {one.round}, and there are {rounds}")
            if max(one.hospitals, default=0) > hospitals:
                raise BadSchedule(
                    problem=f"it names hospital {max(one.hospitals)}, and there are {hospitals}"
                )
        if self.dropouts + self.stragglers > 1:
            raise BadSchedule(problem="dropouts and stragglers are more than all hospitals together")

    def absent(self, *, hospitals: int, number: int, attempt: int, seed: int) -> dict[int, Phase]:
        """Hospital → the first phase that it does not answer in an attempt; the same for the same numbers.

        What is drawn is drawn anew for a second attempt, what is written down stays.
        """
        draw = random.Random(f"{seed} {number} {attempt}")
        everybody = range(1, hospitals + 1)
        found: dict[int, Phase] = {}
        written = [one for one in self.missing if one.round == number]
        if not written:
            dropped, late = round(self.dropouts * hospitals), round(self.stragglers * hospitals)
            drawn = draw.sample(everybody, min(dropped + late, hospitals))
            found |= dict.fromkeys(drawn[:dropped], Phase.UPLOAD)
            found |= dict.fromkeys(drawn[dropped:], Phase.COMMIT)
        for one in written:
            chosen = one.hospitals or draw.sample(everybody, round((one.share or 0.0) * hospitals))
            for index in chosen:
                found[index] = min(found.get(index, Phase.UNMASK), Phase(one.phase), key=PHASES.index)
        return found


def read_schedule(path: Path) -> Schedule:
    """A schedule file (TOML). Raises: BadFile, BadSchedule."""
    try:
        return Schedule.model_validate(read_toml(path))
    except ValidationError as error:
        raise BadSchedule(problem=problem_of(error)) from error


def scheduled(path: Path | None, *, dropouts: float, stragglers: float) -> Schedule:
    """The schedule of a file, or of two shares. Raises: BadFile, BadSchedule."""
    if path is None:
        return Schedule(dropouts=dropouts, stragglers=stragglers)
    if dropouts or stragglers:
        raise BadSchedule(problem="a file and shares on the command line say it twice")
    return read_schedule(path)


def words_of(absent: Mapping[int, Phase]) -> dict[str, int]:
    """Phase → how many do not answer from there on, in order; without phases in which nobody is missing."""
    counts = {phase.value: sum(one is phase for one in absent.values()) for phase in PHASES}
    return {name: count for name, count in counts.items() if count}
