"""What a study counts of its patients, and of which groups of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from medveil.bounds import LEAST_SMALLEST, MOST_SMALLEST, SMALLEST
from medveil.groups import HOSPITAL, MARK, GroupsByName
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
    blended: bool = Field(default=False, exclude_if=lambda wanted: not wanted)
    """Whether histograms that get noise are sent as blends of their cells (:mod:`medveil.blending`)."""
    per_site: bool = Field(default=False, exclude_if=lambda wanted: not wanted)
    """Whether the final evaluation shows each hospital's own figures; its operator must have allowed it."""

    def parts_besides(self, hospitals: int) -> int:
        """How many times the final evaluation counts beside all patients, with at most so many hospitals."""
        groups = sum(len(each.names) for each in self.groups.values())
        return groups + (hospitals if self.per_site else 0)


def sums_problem(asked: Evaluation, *, outlines: bool, blends: bool) -> str | None:
    """Why the sums of an evaluation are not those of its study; None if they are.

    Args:
        outlines: whether its task outlines.
        blends: whether it has histograms that get noise.
    """
    if asked.lesions and not outlines:
        return "evaluation.lesions is for tasks that outline"
    if asked.blended and not blends:
        return "evaluation.blended is for histograms of scores that get noise"
    return None


def parts_problem(asked: Evaluation, classes: Sequence[str], *, shared: bool) -> str | None:
    """Why the groups or hospitals of an evaluation cannot be told apart, or not shown; None if they can.

    Args:
        shared: whether several hospitals share the noise of the figures.
    """
    if (asked.groups or asked.per_site) and any(MARK in name for name in classes):
        return f"evaluation: with groups or per_site no class may have '{MARK}' in its name"
    if asked.per_site and HOSPITAL in asked.groups:
        return f"evaluation.groups: with per_site no groups can be called '{HOSPITAL}'"
    if asked.per_site and shared:  # a hospital's own sums have its own share of the noise only
        return "evaluation.per_site is for noise of each hospital's own, not for joint noise"
    return None
