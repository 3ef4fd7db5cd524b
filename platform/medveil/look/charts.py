"""Charts over columns (rounds, minutes): a figure with its interval, bars on top of each other, a budget.

They are SVG that the server writes: no script, nothing to load, they print, follow light and dark, and every
value is there to be read: under the pointer as a title, and for everybody else in a table beside the chart.
Widths are in per cent and text in pixels, so nothing shrinks on a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medveil.look import svg

FIRST, LAST = 0.12, 1.0
"""Where columns begin and end; numbers of levels stand before."""
TOP, BOTTOM = 12, 10
"""Pixels above the highest and below the lowest level."""
MOST_DOTS, MOST_TICKS = 45, 9
THICKEST = 60.0
"""Of a bar, in thousandths of the whole."""
Range = tuple[float, float]
Written = Callable[[float], str]


@dataclass(frozen=True)
class Mark:
    """One column of a figure."""

    span: Range | None
    """From the least to the largest value in it; None where there is none."""
    interval: Range | None = None
    """Between what all of them may lie."""
    title: str = ""
    """Under the pointer."""


@dataclass(frozen=True)
class Pile:
    """One column of bars on top of each other."""

    values: Sequence[float]
    """From the bottom."""
    title: str = ""
    failed: bool = False
    """Marked by a dotted line: something in it came to nothing."""


def across(count: int) -> Callable[[int], float]:
    """Column → its middle, from 0 to 1."""
    width = (LAST - FIRST) / max(count, 1)
    return lambda place: FIRST + (place + 0.5) * width


def figure(
    label: str,
    marks: Sequence[Mark],
    written: Written,
    *,
    height: int = 190,
    limits: Range = (float("-inf"), float("inf")),
    level: tuple[float, str] | None = None,
) -> Markup:
    """A figure over columns: its values solid, its intervals tinted.

    Args:
        label: what it shows, in words. limits: between what the axis stays.
        level: a line to compare with, and its name.
    """
    ends = [end for one in marks for pair in (one.span, one.interval) if pair for end in pair]
    ends += [level[0]] if level else []
    if not ends:
        return Markup()
    low, high = _scale(min(ends), max(ends), limits)

    def y(value: float) -> float:
        return TOP + (height - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    x = across(len(marks))
    layer: list[Markup] = []
    for run in _runs(marks, lambda one: one.interval is not None and one.span is not None):
        layer.append(_band([(x(k), marks[k].interval or (0.0, 0.0)) for k in run], y, len(marks)))
    for run in _runs(marks, lambda one: one.span is not None):
        layer += _line([(x(k), marks[k].span or (0.0, 0.0)) for k in run], y)
    inside = [_level(value, y(value), written) for value in svg.ticks(low, high, 5)]
    if level is not None:
        inside += _named_level(level, y(level[0]), at_end=_is_free_at_end(marks, level[0]))
    inside.append(svg.stretched(1000, height, *layer))
    shown = [(k, one.span) for k, one in enumerate(marks) if one.span is not None]
    if len(shown) <= MOST_DOTS:
        inside += [
            svg.tag("circle", class_="accent", cx=svg.percent(x(k)), cy=y((span[0] + span[1]) / 2), r=3.5)
            for k, span in shown
        ]
    return svg.drawing(label, height, *inside, *_titles((one.title for one in marks), len(marks), height))


def piles(
    label: str,
    columns: Sequence[Pile],
    tones: Sequence[str],
    written: Written,
    *,
    height: int = 130,
    top: float | None = None,
    unit: float = 1.0,
) -> Markup:
    """Bars on top of each other.

    Args:
        tones: a state's class for each part, from the bottom.
        top: the end of the axis; the highest pile if left out. unit: levels are round numbers of it.
    """
    if not columns:
        return Markup()
    most = top or max((sum(one.values) for one in columns), default=0.0) or 1.0
    room = height - TOP - 2
    layers = _bars(columns, tones, room / most, height - 2)
    levels = [
        _level(unit * value, height - 2 - unit * value / most * room, written)
        for value in svg.ticks(0, most / unit, 3)
        if value > 0
    ]
    x = across(len(columns))
    failed = [
        svg.tag("line", class_="thread", x1=svg.percent(x(k)), x2=svg.percent(x(k)), y1=TOP, y2=height - 4)
        for k, one in enumerate(columns)
        if one.failed
    ]
    base = svg.tag("line", class_="base", x1=svg.percent(FIRST), x2="100%", y1=height - 2, y2=height - 2)
    return svg.drawing(
        label,
        height,
        *levels,
        base,
        svg.stretched(1000, height, *layers),
        svg.tag("g", *failed, class_="dropped"),
        *_titles((one.title for one in columns), len(columns), height),
    )


def _bars(columns: Sequence[Pile], tones: Sequence[str], unit: float, base: float) -> list[Markup]:
    """A layer for each tone; ``unit``: pixels of 1, ``base``: where the bars stand."""
    width = 1000 * (LAST - FIRST) / len(columns)
    thick = min(width * (0.86 if len(columns) <= 60 else 1.0), THICKEST)
    under, layers = [0.0] * len(columns), []
    for part, tone in enumerate(tones):
        corners = []
        for place, one in enumerate(columns):
            tall = one.values[part] * unit
            if tall > 0:
                left = 1000 * FIRST + place * width + (width - thick) / 2
                corners.append(f"M{left:.2f} {base - under[place]:.2f}v-{tall:.2f}h{thick:.2f}v{tall:.2f}z")
            under[place] += tall
        layers.append(svg.tag("g", svg.tag("path", class_="tone", d="".join(corners)), class_=tone))
    return layers


def axis(names: Sequence[str]) -> Markup:
    """The columns' names under a chart; some of them where there are many. Screen readers have the table."""
    if not names:
        return Markup()
    x, step = across(len(names)), max(1, -(-len(names) // MOST_TICKS))
    places = [*range(0, len(names) - step + 1, step)] or [0]
    marks = [
        svg.text(
            names[place], "minor" if number % 2 else None, x=svg.percent(x(place)), y=12, text_anchor="middle"
        )
        for number, place in enumerate(places)
    ]
    return svg.tag("svg", *marks, class_="draw", height=18, aria_hidden="true")


def spark(label: str, marks: Sequence[Mark], scale: Range, *, height: int = 36) -> Markup:
    """A small figure without an axis, for a table; all of a column share one scale."""
    low, high = scale
    spread = (high - low) or 1.0

    def y(value: float) -> float:
        return 5 + (height - 10) * (1 - (value - low) / spread)

    def x(place: int) -> float:
        return (place + 0.5) / max(len(marks), 1)

    layer: list[Markup] = []
    for run in _runs(marks, lambda one: one.interval is not None and one.span is not None):
        layer.append(_band([(x(k), marks[k].interval or (0.0, 0.0)) for k in run], y, len(marks)))
    for run in _runs(marks, lambda one: one.span is not None):
        layer += _line([(x(k), marks[k].span or (0.0, 0.0)) for k in run], y)
    last = next((k for k in range(len(marks) - 1, -1, -1) if marks[k].span is not None), None)
    dot = []
    if last is not None:
        span = marks[last].span or (0.0, 0.0)
        dot = [svg.tag("circle", class_="accent", cx=svg.percent(x(last)), cy=y(sum(span) / 2), r=3.5)]
    return svg.drawing(label, height, svg.stretched(1000, height, *layer), *dot)


def budget(
    label: str, spent: float | None, at_end: float | None, stated: tuple[float, str] | None = None
) -> Markup:
    """What was spent, solid; what will be at the end, dashed; what was stated, a red line with its name."""
    ends = [value for value in (spent, at_end, stated and stated[0]) if value is not None]
    edge, y = 1.12 * max([*ends, 1e-9]), 20 if stated else 2
    inside = [svg.tag("rect", class_="track", x=0, y=y, width="100%", height=14, rx=4)]
    if at_end is not None and at_end > 0:
        width = svg.percent(at_end / edge)
        inside.append(svg.tag("rect", class_="outline", x=0.75, y=y + 0.75, width=width, height=12.5, rx=4))
    if spent is not None and spent > 0:
        width = svg.percent(spent / edge)
        inside.append(svg.tag("rect", class_="tone", x=0, y=y, width=width, height=14, rx=4))
    if stated is not None:
        x = svg.percent(stated[0] / edge)
        inside.append(svg.tag("line", class_="deadline", x1=x, x2=x, y1=y - 5, y2=y + 19))
        inside.append(svg.text(stated[1], "deadline-word", x=x, y=11, text_anchor="end", dx=4))
    return svg.drawing(label, y + 22, svg.tag("g", *inside, class_="working"))


# ---- parts of a chart


def _scale(low: float, high: float, limits: Range) -> Range:
    spread = (high - low) or max(abs(high), 1e-9) * 0.1
    return max(low - 0.08 * spread, limits[0]), min(high + 0.08 * spread, limits[1])


def _runs(marks: Sequence[Mark], wanted: Callable[[Mark], bool]) -> Iterable[list[int]]:
    """Columns beside each other that are wanted."""
    run: list[int] = []
    for place, one in enumerate(marks):
        if wanted(one):
            run.append(place)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _band(points: Sequence[tuple[float, Range]], y: Callable[[float], float], count: int) -> Markup:
    """What lies between the ends; of a single column as wide as half of it."""
    if len(points) == 1:
        (x, ends) = points[0]
        arm = min(0.25 * (LAST - FIRST) / max(count, 1), 0.012)
        points = [(x - arm, ends), (x + arm, ends)]
    upper = [(1000 * x, y(ends[1])) for x, ends in points]
    lower = [(1000 * x, y(ends[0])) for x, ends in points]
    return svg.tag("polygon", class_="accent-soft", points=svg.path([*upper, *reversed(lower)]))


def _line(points: Sequence[tuple[float, Range]], y: Callable[[float], float]) -> list[Markup]:
    """Through the middles, and from the least to the largest where they differ."""
    middles = [(1000 * x, y((low + high) / 2)) for x, (low, high) in points]
    uprights = [
        f"M{1000 * x:.2f} {y(low):.2f}V{y(high):.2f}" for x, (low, high) in points if high - low > 1e-12
    ]
    found = []
    if len(middles) > 1:
        found.append(_stroke("polyline", points=svg.path(middles)))
    if uprights:
        found.append(_stroke("path", d="".join(uprights)))
    return found


def _stroke(kind: str, **where: str) -> Markup:
    return svg.tag(kind, class_="accent-line", vector_effect="non-scaling-stroke", **where)


def _level(value: float, y: float, written: Written) -> Markup:
    """A level across the chart with its number at the left."""
    line = svg.tag("line", class_="hair", x1=svg.percent(FIRST), x2="100%", y1=y, y2=y)
    words = svg.text(written(value), x=svg.percent(FIRST), dx=-6, y=y + 4, text_anchor="end")
    return svg.tag("g", line, words)


def _named_level(level: tuple[float, str], y: float, *, at_end: bool) -> list[Markup]:
    x, anchor = ("100%", "end") if at_end else (svg.percent(FIRST), "start")
    return [
        svg.tag("line", class_="quorum", x1=svg.percent(FIRST), x2="100%", y1=y, y2=y),
        svg.text(level[1], "quorum-word", x=x, y=y - 5 if y > 2 * TOP else y + 14, text_anchor=anchor),
    ]


def _is_free_at_end(marks: Sequence[Mark], level: float) -> bool:
    """Whether the figure is further from a level at its end than at its beginning."""
    away = [abs(sum(one.span) / 2 - level) for one in marks if one.span is not None]
    return bool(away) and away[-1] > away[0]


def _titles(titles: Iterable[str], count: int, height: int) -> list[Markup]:
    """Places for the pointer, one for each column."""
    width = (LAST - FIRST) / max(count, 1)
    return [
        svg.tag(
            "rect",
            svg.tag("title", title),
            class_="reach",
            x=svg.percent(FIRST + place * width),
            y=0,
            width=svg.percent(width),
            height=height,
        )
        for place, title in enumerate(titles)
        if title
    ]
