"""What several of the researcher's commands take and show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medveil.shown import Screen

if TYPE_CHECKING:
    from medveil_research.shared_study import SharedStudy

Folder = Annotated[Path, typer.Option("--folder", "-f", help="Where 'enroll' has put this researcher's key.")]
Named = Annotated[
    str,
    typer.Argument(
        metavar="[STUDY]",
        help="The study's name, or the first digits or words of its plan; may be left out if there is one.",
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="Write over a file that is there already.")]
screen, progress = Screen(), Screen(stderr=True)


def figure_words(study: SharedStudy, figures: Mapping[str, float]) -> str:
    """The headline figure's name and its 95 % interval, as it looks everywhere; empty without a figure."""
    from medveil.readings import cell_words
    from medveil.tasks import TASKS

    task = TASKS[study.study.task]
    words = cell_words(study.reading(figures), task.unit(study.study, task.headline))
    return f"{task.headline_name} {words}" if words else ""


def explain(studies: Sequence[SharedStudy]) -> None:
    """Say what the intervals of these studies' figures mean, and what is missing."""
    from medveil.readings import explained

    for noised in (True, False):
        those = [s for s in studies if s.evaluated and (s.study.privacy.kind != "none") == noised]
        for line in explained([study.reading() for study in those], noised=noised):
            screen.say(f"  {line}")


def epsilon_words(epsilon: float | None) -> str:
    """What was spent, in two words; empty without noise."""
    return "" if epsilon is None else f"epsilon {epsilon:.3g}"
