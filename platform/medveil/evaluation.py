"""What a study counts of its patients, and of which groups of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medveil.bounds import LEAST_SMALLEST, MOST_SMALLEST, SMALLEST
from medveil.groups import GroupsByName
from medveil.values import Frozen


class Evaluation(Frozen):
    """What is counted, bounded per patient, inside the masked vector."""

    bins: Annotated[int, Field(ge=16, le=4096)] = 256
    """Bins of a score histogram; a study with noise releases fewer."""
    images_per_patient: Annotated[int, Field(ge=1, le=1024)] = 64
    lesions: bool = Field(default=False, exclude_if=lambda wanted: not wanted)
    """Whether connected parts of each structure are counted as found, missed or false; of outlines only."""
    every_round: bool = True
    """Whether each update carries the validation figures of the model it started from."""
    groups: GroupsByName = Field(default_factory=dict, exclude_if=lambda given: not given)
    """Groups of patients that the final evaluation counts once more, by columns (:mod:`medveil.parts`)."""
    smallest_group: Annotated[
        int, Field(ge=LEAST_SMALLEST, le=MOST_SMALLEST, exclude_if=lambda given: given == SMALLEST)
    ] = SMALLEST
    """A group of fewer patients is not shown (:mod:`medveil.small_cells`)."""
