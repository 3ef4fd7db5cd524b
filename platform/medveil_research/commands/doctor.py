"""``medveil doctor``: whether this machine can do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medveil.shown import Screen, fault, good, plain


def doctor(
    folder: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Where MedVeil would keep its files.")
    ] = Path(),
) -> None:
    """Look at this machine: Python, memory, disk, torch, SQLite, clock, ports. Exit status 1 on a problem."""
    from medveil_research.doctor import examine

    screen = Screen()
    findings = examine(folder)
    for finding in findings:
        mark = good("PASSED ") if finding.passed else fault("problem")
        screen.say(mark, f"{finding.name:<14}", plain(finding.found))
        if finding.remedy:
            screen.say("        fix           ", plain(finding.remedy))
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)
