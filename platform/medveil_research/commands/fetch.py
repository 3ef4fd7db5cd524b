"""``medveil research fetch`` and ``curves``: a study's model and its rounds on this machine."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from medveil.shown import plain
from medveil_research.commands.common import Folder, Named, Replace, epsilon_words, progress, screen
from medveil_research.options import FOLDER


def fetch(
    study: Named = "",
    version: Annotated[
        str, typer.Option(help="Its number, or 8 digits of its hash; the newest without it.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A new folder; <study>-version-<number> without it.")
    ] = None,
    folder: Folder = FOLDER,
) -> None:
    """Save a model with its study file, checked against its hash. A broken fetch goes on where it stopped."""
    from medveil_research.consortium import Consortium

    with Consortium(folder) as consortium, progress.waiting():
        seen = consortium.study(study)
        made = seen.fetch(version or None, output)
    found = made.version
    spent = epsilon_words(found.epsilon) or "no differential privacy"
    screen.say(f"written  {plain(made.weights)}")
    screen.say(f"{seen.name} version {found.number} of plan {seen.id[:8]}, {spent}, model {found.model[:12]}")
    kept, adapt = len(seen.study.model.personal), ""
    if kept:
        screen.say(
            f"{kept} tensors stay in the hospitals: in their place are the study's initial values, so the"
        )
        screen.say("model says nothing of an image before it is fitted to somebody's patients")
        adapt = " --adapt STEPS"
    screen.say(f"Next: medveil research evaluate --model {quote(str(made.folder))} --data FOLDER{adapt}")


def curves(
    study: Named = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The CSV file; <study>-rounds.csv without it.")
    ] = None,
    mlflow: Annotated[
        str, typer.Option(help="Log to this MLflow store instead, e.g. sqlite:///curves.db")
    ] = "",
    replace: Replace = False,
    folder: Folder = FOLDER,
) -> None:
    """Write every round's figures as CSV, or log them to MLflow."""
    from medveil_research.consortium import Consortium

    with Consortium(folder) as consortium, progress.waiting():
        seen = consortium.study(study)
    if mlflow:
        with progress.waiting():
            run = seen.to_mlflow(mlflow)
        screen.say(f"logged  {len(seen.rounds)} rounds to run {plain(run)} of the experiment medveil")
    if output or not mlflow:
        path = seen.curves_csv(output or Path(f"{seen.name}-rounds.csv"), replace=replace)
        screen.say(f"written  {plain(path)}")
