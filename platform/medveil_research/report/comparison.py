"""The page of a comparison: one HTML file, made from its result and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from medveil.look import svg
from medveil.readings import Reading
from medveil.tasks import TASKS
from medveil_research.comparison import told
from medveil_research.comparison.result import ArmFacts, ComparisonResult, Difference
from medveil_research.report.base import render_page, write_page
from medveil_research.report.price import priced
from medveil_research.report.rows import Given, Rows, scale, table

LINES: dict[str, tuple[str, str, str | None]] = {
    "federated": ("", "accent-line", None),
    "central": ("", "ink-line", "7 4"),
    "alone": ("waiting", "tone-line", "2 4"),
    "local": ("late", "tone-line", "9 3 2 3"),
    "joint": ("sent", "tone-line", None),
}
"""Group, class and dashes of each arm's line: told apart by its pattern as well as by its colour."""
LEFT, HEIGHT = 0.09, 230


@dataclass(frozen=True)
class Chart:
    """Lines over the rounds, with the words that go with them."""

    drawn: Markup
    legend: list[tuple[Markup, str]]


def write_comparison_page(result: ComparisonResult, path: Path) -> Path:
    """Write the page. Returns: ``path``."""
    return write_page(render_comparison(result), path)


def render_comparison(result: ComparisonResult) -> str:
    """The page as HTML text; equal results give equal text."""
    pairs = [one for one in result.differences if not one.site]
    single = [one for one in result.differences if one.site]
    return render_page(
        "comparison.html.j2",
        result=result,
        told=told,
        verdict=told.verdict(result),
        arms=_arms(result),
        pairs=_differences(result, pairs) if pairs else None,
        single=_differences(result, single) if single else None,
        chart=_chart(result),
        priced=priced(result.measured),
        private=[one for one in result.arms if one.privacy != "none"],
        columns=[one for one in result.arms if not one.site],
    )


def _arms(result: ComparisonResult) -> Rows:
    limits = (0.0, float("inf"))
    if result.figure != "loss":
        limits = TASKS[result.task].limits(result, result.figure)
    return table(
        f"{result.figure_name} on the test patients of all sites, mean over seeds.",
        [
            Given(
                told.name_of(one),
                None if one.value is None else Reading(one.value, one.patients),
                (str(one.rounds), f"{one.steps:,}", f"{one.passes:.3g}", str(one.seeds)),
                ours=one.arm == "federated",
            )
            for one in result.arms
        ],
        first="training",
        figure=result.figure_name,
        unit=result.unit,
        heads=("rounds", "steps", "passes", "seeds"),
        limits=limits,
    )


def _differences(result: ComparisonResult, given: list[Difference]) -> Rows:
    rows = [
        Given(
            told.difference_row(result, one)[0],
            Reading(one.value, one.patients),
            (told.between(result, one.seeds), " · ".join(told.signed(result, v) for v in one.values)),
            ours=told.is_clear(one),
        )
        for one in given
    ]
    return table(
        f"Difference in {result.figure_name} on the same patients, mean over seeds.",
        rows,
        first="the first less the second",
        figure="difference",
        unit=result.unit,
        heads=("95 % over seeds", "seed by seed"),
        limits=(-float("inf"), float("inf")),
        mark=0.0,
    )


def _chart(result: ComparisonResult) -> Chart | None:
    """The compared figure after each round on validation patients; None where nobody was watched."""
    known = [(one, _points(one)) for one in result.arms if not one.site and len(_points(one)) > 1]
    if not known:
        return None
    high_is_good = result.higher_is_better
    low, high = scale(
        [Reading(value) for _, points in known for _, value in points],
        (0.0, 1.0) if high_is_good else (0.0, float("inf")),
        None,
    )

    def y(value: float) -> float:
        return 10 + (HEIGHT - 20) * (1 - (value - low) / ((high - low) or 1.0))

    inside = [_level(value, y(value)) for value in svg.ticks(low, high, 5)]
    legend = []
    for one, points in known:
        group, kind, dash = LINES[one.arm]
        corners = [(1000 * (LEFT + (1 - LEFT) * share), y(value)) for share, value in points]
        line = svg.tag(
            "polyline",
            class_=kind,
            stroke_dasharray=dash,
            vector_effect="non-scaling-stroke",
            points=svg.path(corners),
        )
        inside.append(svg.stretched(1000, HEIGHT, svg.tag("g", line, class_=group or None)))
        sample = svg.tag("line", class_=kind, stroke_dasharray=dash, x1=1, x2=25, y1=7, y2=7)
        legend.append(
            (
                svg.tag("svg", svg.tag("g", sample, class_=group or None), aria_hidden="true"),
                told.NAMES[one.arm],
            )
        )
    words = "; ".join(f"{told.NAMES[one.arm]} {_in_words(result, points)}" for one, points in known)
    return Chart(svg.drawing(f"{result.figure_name} over the rounds: {words}", HEIGHT, *inside), legend)


def _level(value: float, y: float) -> Markup:
    line = svg.tag("line", class_="hair", x1=svg.percent(LEFT), x2="100%", y1=y, y2=y)
    return svg.tag(
        "g", line, svg.text(f"{value:.6g}", x=svg.percent(LEFT - 0.012), y=y + 4, text_anchor="end")
    )


def _points(one: ArmFacts) -> list[tuple[float, float]]:
    """Share of the rounds that are over, and the figure then."""
    return [((k + 1) / len(one.curve), value) for k, value in enumerate(one.curve) if value is not None]


def _in_words(result: ComparisonResult, points: list[tuple[float, float]]) -> str:
    first, last = points[0][1], points[-1][1]
    return f"from {result.written(first)} after the first to {result.written(last)} after the last"
