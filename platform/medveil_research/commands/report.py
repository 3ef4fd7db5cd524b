"""``medveil research report``: the page of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medveil.shown import Screen


def report(
    result: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Written by 'medveil demo --json'.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Make the evaluation report, one HTML file without script or network, from a result file."""
    from medveil_research.report.page import write_report
    from medveil_research.results import read_result

    write_report(read_result(result), output)
    Screen().say(f"written  {output}")
