"""``medveil research seed``: the plain examples, each by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Seed = Literal["mnist", "vision", "xray", "mri"]


def seed(
    name: Annotated[Seed, typer.Argument(help="Digits, colour pictures, films or volumes.")],
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="mnist: the four IDX files. Else: one folder a site. Images drawn by code without it.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Keep everything in this folder.")
    ] = None,
) -> None:
    """Play a plain example of federated learning: accuracy after each round, and a report."""
    from medveil_research.seeds.run import run_seed

    run_seed(name, data, output)
