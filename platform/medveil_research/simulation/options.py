"""What ``medveil simulate`` takes, as it stands on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer


@dataclass(frozen=True)
class SimulateOptions:
    """Of ``medveil simulate``."""

    study: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A study.toml, its initial model beside it.")
    ]
    hospitals: Annotated[int, typer.Option(min=3, help="How many hospitals there shall be.")]
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="One images folder with its manifest; hospitals are drawn from it.",
        ),
    ] = None
    split: Annotated[
        str,
        typer.Option(
            help="How patients are dealt: equal, dirichlet:0.5, shards:2, or column:NAME of the manifest."
        ),
    ] = "equal"
    updates: Annotated[
        Literal["train", "random"],
        typer.Option(help="'random' measures the protocol alone: updates are drawn, nobody trains."),
    ] = "train"
    masks: Annotated[
        bool, typer.Option("--masks/--plain", help="--plain sums the same vectors without keys and masks.")
    ] = True
    dropouts: Annotated[
        float, typer.Option(min=0, max=1, help="Share that vanishes in each round after the commit.")
    ] = 0.0
    stragglers: Annotated[
        float, typer.Option(min=0, max=1, help="Share that is not ready by the deadline of each round.")
    ] = 0.0
    schedule: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A file that says who is missing in which round."),
    ] = None
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Stop after that many rounds; all of the study's without it.")
    ] = None
    seed: Annotated[
        int,
        typer.Option(min=0, help="Decides who gets which patient and who drops out; never masks or noise."),
    ] = 0
    processes: Annotated[
        int, typer.Option(min=0, max=64, help="That play the hospitals; 0: this one does, for a few.")
    ] = 2
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Its folder, with the report; goes on there after an end."),
    ] = None
