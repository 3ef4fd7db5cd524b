"""``medveil research report``: the page of a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medveil.shown import plain
from medveil_research.commands.common import Folder, Replace, progress, screen
from medveil_research.options import FOLDER

if TYPE_CHECKING:
    from medveil_research.results import Result
    from medveil_research.shared_study import SharedStudy


def report(
    study: Annotated[
        str,
        typer.Argument(
            metavar="[STUDY]",
            help="A study as for 'watch', or a result file, written by 'medveil demo --json'.",
        ),
    ] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The HTML file; <study>-report.html without it.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON.")] = None,
    patients: Annotated[
        int | None,
        typer.Option(min=1, help="Training patients of a typical hospital, to tell what the noise costs."),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(help="comparison.json of 'research compare --epsilons': the figure over epsilon."),
    ] = None,
    replace: Replace = False,
    folder: Folder = FOLDER,
) -> None:
    """Make the evaluation report, one HTML file without script or network, from the aggregator or a file.

    Exit status 1, with a report of the rest, if the finished model has no figures.
    """
    from medveil_research.fetching import TargetExists
    from medveil_research.levels import read_measured
    from medveil_research.report.page import write_report
    from medveil_research.results import write_result

    curve = None if measured is None else read_measured(measured)
    result, seen = _result(study, folder, patients)
    if curve is not None:
        result = result.model_copy(update={"measured": curve})
    page = output or Path(f"{result.study}-report.html")
    for path in filter(None, (page, json_file)):
        if path.exists() and not replace:
            raise TargetExists(path=path, option="--replace")
    with progress.waiting():
        write_report(result, page)
    screen.say(f"written  {plain(page)}")
    if json_file:
        write_result(result, json_file)
        screen.say(f"written  {plain(json_file)}")
    if seen is not None and not seen.evaluated:
        seen.figures  # noqa: B018  it raises what is missing, after the report of all the rest


def _result(study: str, folder: Path, patients: int | None) -> tuple[Result, SharedStudy | None]:
    """From a file if there is one of this name, else from the aggregator."""
    from medveil_research.results import read_result

    path = Path(study)
    if study and (path.is_file() or path.suffix == ".json" or "/" in study):
        return read_result(path), None
    from medveil_research.consortium import Consortium

    with Consortium(folder) as consortium, progress.waiting():
        seen = consortium.study(study)
    return seen.result(patients=patients), seen
