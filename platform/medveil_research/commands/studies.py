"""``medveil research studies`` and ``ask``: what is open to a researcher, and how to have more opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medveil.shown import plain
from medveil_research.commands.common import Folder, epsilon_words, explain, figure_words, progress, screen
from medveil_research.commands.enroll import show_open
from medveil_research.options import FOLDER

if TYPE_CHECKING:
    from medveil_research.shared_study import SharedStudy


def studies(
    folder: Folder = FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, for programs.")] = False,
) -> None:
    """List the studies that are open to you: how far each is, its figure, what it waits for."""
    from medveil_research.consortium import Consortium

    with Consortium(folder) as consortium:
        with progress.waiting():
            found = consortium.studies()
        if as_json:
            screen.json([study.row() for study in found])
        elif found or show_open(consortium):
            heads = ("study", "plan", "figure of the finished model", "privacy", "now")
            screen.table(heads, [_row(study) for study in found])
            explain(found)


def _row(study: SharedStudy) -> tuple[str, ...]:
    figures = figure_words(study, study.figures) if study.evaluated else ""
    spent = epsilon_words(study.epsilon) or "none"
    return study.name, study.id[:8], plain(figures), spent, plain(study.standing)


def ask(
    study: Annotated[
        str,
        typer.Argument(
            help="The study's name, its plan's words in quotation marks, or 8 digits of its hash."
        ),
    ],
    folder: Folder = FOLDER,
) -> None:
    """Print the line by which the admin opens a study to you. Nothing is asked over the network."""
    from medveil_research.client import NoAnswer
    from medveil_research.consortium import Consortium, NoSuchStudy, grant_line

    with Consortium(folder) as consortium:
        try:
            line = consortium.line(study)
            screen.say(f"{line.name} ({line.plan[:8]}) is open to {plain(consortium.name)} already.")
            return
        except (NoSuchStudy, NoAnswer):
            screen.say("Give the consortium's admin this line:")
            screen.say(f"  {grant_line(consortium.name, plain(study, 200))}")
