"""``medveil research compare``: alone, federated, with noise and in one place, held against each other."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from medveil.shown import Screen
from medveil_research.options import CompareOptions

if TYPE_CHECKING:
    from medveil_research.comparison.result import ComparisonResult


def compare(options: CompareOptions) -> None:
    """Train alone, together, with noise and in one place, on images you hold; one page tells them apart."""
    from medveil.private_files import private_folder
    from medveil_research.comparison.request import request_of, sites_of
    from medveil_research.comparison.result import write_comparison
    from medveil_research.comparison.whole import compare_sites
    from medveil_research.report.comparison import write_comparison_page

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


def show(screen: Screen, result: ComparisonResult) -> None:
    """The arms, their differences and what is missing."""
    from medveil_research.comparison import told

    arms = [
        (told.name_of(one), told.value_of(result, one), str(one.seeds), f"{one.steps:,}", f"{one.passes:.3g}")
        for one in result.arms
    ]
    heads = ("training", f"{result.figure_name}, 95 % over patients", "seeds", "steps", "passes")
    screen.table(heads, arms, right=(2, 3, 4))
    differences = [told.difference_row(result, one) for one in told.main_differences(result)]
    screen.table(("difference", "mean", "95 % over patients", "95 % over seeds"), differences)
    for problem in result.problems:
        screen.say(f"missing  {problem.what} {problem.meaning}")
