"""``medveil doctor``: whether this machine can do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medveil.examined import show
from medveil.shown import Screen


def doctor(
    folder: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Where MedVeil would keep its files.")
    ] = Path(),
) -> None:
    """Look at this machine: Python, memory, disk, torch, SQLite, clock, ports. Exit status 1 on a problem."""
    from medveil_research.doctor import examine

    if not show(Screen(), examine(folder)):
        raise typer.Exit(1)
