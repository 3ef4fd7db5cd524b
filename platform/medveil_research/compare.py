"""``medveil research compare``: train, compare, write the page and the JSON, and say what was found."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from medveil.private_files import private_folder
from medveil.shown import Screen
from medveil_research.comparison import told
from medveil_research.comparison.request import request_of, sites_of
from medveil_research.comparison.result import ComparisonResult, write_comparison
from medveil_research.comparison.whole import compare_sites
from medveil_research.options import CompareOptions
from medveil_research.report.comparison import write_comparison_page


def compare(options: CompareOptions) -> ComparisonResult:
    """Make every training that is not there yet, and the report.

    Raises: BadOption, BadSites, NotMadeUp, OpenFolder; what
        :func:`medveil_research.comparison.whole.compare_sites` raises.
    """
    folder = options.output or Path(".medveil") / f"compare-{dt.datetime.now():%Y%m%d-%H%M%S}"
    private_folder(folder)
    screen = Screen()
    sites = sites_of(options, folder)
    with screen.waiting():
        result = compare_sites(
            request_of(options, sites), sites, folder, said=lambda line: screen.say(f"  {line}")
        )
    write_comparison(result, folder / "comparison.json")
    page = write_comparison_page(result, folder / "comparison.html")
    show(screen, result)
    screen.say(f"report   {page.resolve()}")
    return result


def show(screen: Screen, result: ComparisonResult) -> None:
    """The arms, their differences and what is missing."""
    arms = [
        (told.name_of(one), told.value_of(result, one), str(one.seeds), f"{one.steps:,}", f"{one.passes:.3g}")
        for one in result.arms
    ]
    heads = ("training", f"{result.figure_name}, 95 % over patients", "seeds", "steps", "passes")
    screen.table(heads, arms, right=(2, 3, 4))
    together = told.federations_of(result)
    if together:
        screen.say(f"together {together}")
    differences = [told.difference_row(result, one) for one in told.main_differences(result)]
    screen.table(("difference", "mean", "95 % over patients", "95 % over seeds"), differences)
    if result.measured is not None:
        screen.table(*told.level_rows(result, result.measured))
    for problem in result.problems:
        screen.say(f"missing  {problem.what} {problem.meaning}")
