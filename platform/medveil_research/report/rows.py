"""Tables in which each row is a figure: its interval drawn and written, the best guess small beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medveil.groups import HOSPITAL, MARK, UNKNOWN, figure_and_part
from medveil.look import svg
from medveil.readings import UNDETERMINED, Reading, cell_words, guess_words, main_words, read, with_unit
from medveil.reports import Figures
from medveil.tasks import TASKS
from medveil_research.report.scores import Scores
from medveil_research.results import Interval, Result

NOTHING = "—"
LEAST_SPAN = 0.1
"""Of a figure's whole range that a scale shows."""


@dataclass(frozen=True)
class Given:
    """A row before it is drawn."""

    name: str
    reading: Reading | None
    more: tuple[str, ...] = ()
    """The cells behind the figure."""
    missing: str = "too few cases"
    """What stands in place of a figure that there is not."""
    ours: bool = False
    """Whether it is the model that the page is about."""


@dataclass(frozen=True)
class Row:
    """A row as the page shows it."""

    name: str
    drawn: Markup
    interval: str
    guess: str
    more: tuple[str, ...]
    ours: bool


@dataclass(frozen=True)
class Rows:
    """A table of figures on one scale."""

    caption: str
    first: str
    """Head of the column of names."""
    figure: str
    """Name of the figure, for a phone."""
    axis: Markup
    heads: tuple[str, ...]
    rows: tuple[Row, ...]


def table(
    caption: str,
    given: Sequence[Given],
    *,
    first: str,
    figure: str,
    unit: str = "",
    heads: tuple[str, ...] = (),
    limits: tuple[float, float] = (0.0, 1.0),
    mark: float | None = None,
) -> Rows:
    """Draw the rows on one scale.

    Args:
        limits: between what the figure lies; the scale shows as much of it as the rows need.
        mark: a value to which a thin upright belongs.
    """
    low, high = scale([one.reading for one in given], limits, mark)
    known = [one.reading for one in given if one.reading is not None]
    if any(one.interval for one in known):
        caption += f" Lines are 95 % intervals, drawn from {_plain(low)} to {_plain(high)}."
    if any(one.value is None for one in known):
        caption += f" {UNDETERMINED[:1].upper()}{UNDETERMINED[1:]}."
    drawn = any(one.value is not None for one in known)
    return Rows(
        caption,
        first,
        figure,
        _axis(low, high) if drawn else Markup(),
        heads,
        tuple(_row(one, unit, low, high, mark) for one in given),
    )


def scale(readings: Iterable[Reading | None], limits: tuple[float, float], mark: float | None) -> Interval:
    """Round ends that hold every value and interval, within the limits where they are near."""
    values = [] if mark is None else [mark]
    for one in readings:
        if one is not None and one.value is not None:
            values += [one.value, *(one.interval or ())]
    if not values:
        return (limits[0], limits[1]) if limits[1] < float("inf") else (0.0, 1.0)
    low, high = min(values), max(values)
    least = LEAST_SPAN * (limits[1] - limits[0]) if limits[1] < float("inf") else 0.0
    if high - low < least:  # else two equal figures would seem far apart
        low, high = (low + high - least) / 2, (low + high + least) / 2
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    found = svg.ticks(low - room, high + room, 6)
    step = found[1] - found[0] if len(found) > 1 else room
    low = max(limits[0], found[0] - step if low < found[0] else found[0])
    high = min(limits[1], found[-1] + step if high > found[-1] else found[-1])
    return round(low, 10), round(high, 10)


def _row(one: Given, unit: str, low: float, high: float, mark: float | None) -> Row:
    reading = one.reading
    if reading is None:
        return Row(one.name, Markup(), one.missing, "", one.more, one.ours)
    if reading.value is None:
        return Row(one.name, Markup(), cell_words(reading), "", one.more, one.ours)
    if reading.interval is None:
        interval, guess = NOTHING, with_unit(reading.value, unit)
    else:
        interval, guess = main_words(reading, unit), guess_words(reading, unit)
    drawn = _line(reading, f"{one.name}: {interval} {guess}", low, high, mark, ours=one.ours)
    return Row(one.name, drawn, interval, guess, one.more, one.ours)


def _line(reading: Reading, label: str, low: float, high: float, mark: float | None, *, ours: bool) -> Markup:
    """The interval as a line, the best guess as a dot on it."""

    def place(value: float) -> str:
        return svg.percent(min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5)

    inside: list[str] = []
    if mark is not None:
        inside.append(svg.tag("line", class_="hair", x1=place(mark), x2=place(mark), y1=0, y2=34))
    if reading.interval:
        start, end = map(place, reading.interval)
        line = svg.tag("line", class_="accent-line" if ours else "tone-line", x1=start, x2=end, y1=17, y2=17)
        inside.append(line if ours else svg.tag("g", line, class_="waiting"))
    if reading.value is not None:
        kind, radius = ("accent", 6) if ours else ("muted", 4.5)
        inside.append(svg.tag("circle", class_=kind, cx=place(reading.value), cy=17, r=radius))
    return svg.drawing(label, 34, *inside)


def _axis(low: float, high: float) -> Markup:
    marks = []
    found = [value for value in svg.ticks(low, high, 5) if low <= value <= high]
    for value in found:
        share = (value - low) / (high - low) if high > low else 0.5
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        minor = 0.04 <= share <= 0.96 and abs(share - 0.5) > 0.05
        marks.append(
            svg.text(
                _plain(value), "minor" if minor else None, x=svg.percent(share), y=12, text_anchor=anchor
            )
        )
    return svg.tag("svg", *marks, class_="draw", height=16, aria_hidden="true")


def _plain(value: float) -> str:
    return f"{value:.6g}"


# ---- the tables of a report ----


def comparison(result: Result) -> Rows | None:
    """Each hospital alone and the shared model, on the same test patients; where somebody has compared."""
    shared = result.compared
    alone = [(a.hospital, result.reading_of(a.pooled, metric=a.metric)) for a in result.local_only]
    known = [(name, found, found.value) for name, found in alone if found and found.value is not None]
    if shared is None or shared.value is None or not known:
        return None
    rows = [
        Given(f"{name} alone", found, (_difference(value, shared.value, result.unit),))
        for name, found, value in known
    ]
    rows.append(Given("All hospitals together", shared, ("this model",), ours=True))
    exact = result.noised and shared != result.reading()
    if exact:
        rows.append(Given("the same, as released with noise", result.reading(), (NOTHING,)))
    caption = f"{result.headline_name} on the same test patients, those of every hospital."
    if exact:
        caption += " Counted without noise, for which one person must own every site's images."
    heads = ("difference to this model",)
    return table(
        caption, rows, first="trained on", figure=result.headline_name, unit=result.unit, heads=heads,
        limits=_limits(result, result.headline), mark=shared.value,
    )  # fmt: skip


def sites(result: Result) -> Rows | None:
    """The shared model at each hospital; only where one person owns all sites' images."""
    exact = result.federated.exact
    if exact is None or not any(result.headline in figures for figures in exact.sites.values()):
        return None
    rows = [
        Given(name, _judged(result, figures, exact.intervals.get(name)), (_patients(figures),))
        for name, figures in exact.sites.items()
    ]
    rows += [
        Given(f"all {source} sites", _judged(result, figures), (_patients(figures),))
        for source, figures in exact.groups.items()
    ]
    pooled = _judged(result, exact.pooled, exact.interval)
    rows.append(Given("all together", pooled, (_patients(exact.pooled),), ours=True))
    return table(
        f"{result.headline_name} of the shared model on each hospital's own test patients.",
        rows,
        first="hospital",
        figure=result.headline_name,
        unit=result.unit,
        heads=("patients",),
        limits=_limits(result, result.headline),
        mark=pooled.value if pooled else None,
    )


def agreed_sites(result: Result) -> Rows | None:
    """The same out of the study's own sums, where every hospital has agreed to show its part."""
    found = parts(result.federated.figures)
    if not any(part.startswith(f"{HOSPITAL}=") for part in found):
        return None
    return _of_column(result, HOSPITAL, result.hospitals, found)


def classes(result: Result, scores: Sequence[Scores]) -> Rows | None:
    """AUROC of each finding or class, with sensitivity and specificity at one half."""
    figures, by_name = result.federated.figures, {one.name: one for one in scores}
    names = [name for name in result.classes if _known(figures, f"auroc/{name}") or name in by_name]
    if len(names) < 2 or not any(_known(figures, f"auroc/{name}") for name in names):
        return None
    rows = []
    for name in names:
        at = by_name[name].at(by_name[name].cell_at(0.5)) if name in by_name else None
        rows.append(
            Given(
                name,
                read(figures, f"auroc/{name}", limits=(0.0, 1.0)),
                (
                    _cases(figures, name, by_name.get(name)),
                    _short(at.sensitivity if at else None),
                    _short(at.specificity if at else None),
                ),
            )
        )
    what = "Each finding" if result.task == "findings" else "Each class against all others"
    return table(
        f"{what}, on test patients of all hospitals.",
        rows,
        first="finding" if result.task == "findings" else "class",
        figure="AUROC",
        heads=("with it, of known", "sensitivity at 0.50", "specificity at 0.50"),
    )


def structures(result: Result) -> Rows | None:
    """Dice of each structure."""
    figures = result.federated.figures
    names = [name for name in result.classes[1:] if _known(figures, f"dice/{name}")]
    if not names:
        return None
    rows = [
        Given(name, read(figures, f"dice/{name}", limits=(0.0, 1.0)), (_outlined(result, name),))
        for name in names
    ]
    return table(
        "Overlap with the expert's outline (Dice), mean over the patients in whom it was outlined.",
        rows,
        first="structure",
        figure="Dice",
        heads=("patients",),
    )


def lesions(result: Result) -> list[tuple[str, str, str, str]]:
    """Structure, share of lesions found, share that is real, how many; empty if not asked for."""
    figures = result.federated.figures
    found = []
    for name in result.classes[1:]:
        names = [f"sensitivity/{name}", f"precision/{name}"]
        if any(_known(figures, one) for one in names):
            shares = [_short(read(figures, one, limits=(0.0, 1.0))) for one in names]
            count = figures.get(f"lesions/{name}")
            found.append((name, shares[0], shares[1], "" if count is None else f"{count:.0f}"))
    return found


def groups(result: Result) -> list[Rows]:
    """The headline of each group of patients that the study has asked for; a table for each column."""
    found = parts(result.federated.figures)
    declared = dict(result.recipe.groups) if result.recipe else {}
    if not declared:  # a result that does not say what was asked for: what is there
        for part in found:
            column, equals, group = part.partition("=")
            if equals and column != HOSPITAL:
                declared[column] = (*declared.get(column, ()), group)
    return [_of_column(result, column, names, found) for column, names in declared.items()]


def parts(figures: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Figures by the part of the patients that they are of; those of all under the empty name."""
    found: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        figure, part = figure_and_part(name)
        found.setdefault(part.removeprefix(MARK), {})[figure] = value
    return found


def _of_column(
    result: Result, column: str, names: Sequence[str], found: Mapping[str, Mapping[str, float]]
) -> Rows:
    rows, hidden, figures = [], 0, result.federated.figures
    for name in names:
        own = found.get(f"{column}={name}")
        hidden += own is None
        reading = result.reading_of(dict(own)) if own else None
        missing = "not shown" if own is None else "too few cases"
        rows.append(Given(name, reading, (_patients(own or {}),), missing=missing))
    whole, rest = result.reading(), figures.get(f"{UNKNOWN}{MARK}{column}")
    rows.append(Given("all", whole, (_patients(figures),), ours=True))
    words = "" if not rest else f" {rest:,.0f} patients are in none of these groups."
    if hidden:
        least = result.recipe.smallest_group if result.recipe else 0
        words += (
            f" A group of fewer than {least} patients is not shown, nor what would tell of it by subtraction."
        )
    return table(
        f"By {column}.{words}",
        rows,
        first=column,
        figure=result.headline_name,
        unit=result.unit,
        heads=("patients",),
        limits=_limits(result, result.headline),
        mark=whole.value if whole else None,
    )


def _known(figures: Mapping[str, float], name: str) -> bool:
    return read(figures, name) is not None


def _judged(result: Result, figures: Figures, interval: Interval | None = None) -> Reading | None:
    """Exact figures of some patients, with the bootstrap over them where there is one."""
    found = read(figures, result.headline)
    return found and found.over_patients(interval)


def _limits(result: Result, figure: str) -> tuple[float, float]:
    return TASKS[result.task].limits(result, figure)


def _difference(value: float, ours: float, unit: str) -> str:
    written = with_unit(abs(value - ours), unit)
    sign = "+" if value > ours else "−"
    return written if not any(c in "123456789" for c in written) else f"{sign}{written}"


def _patients(figures: Mapping[str, float]) -> str:
    return f"{figures['patients']:,.0f}" if "patients" in figures else NOTHING


def _cases(figures: Mapping[str, float], name: str, scores: Scores | None) -> str:
    if f"known/{name}" in figures:
        return f"{figures.get(f'there/{name}', 0):,.0f} of {figures[f'known/{name}']:,.0f}"
    if scores is None:
        return NOTHING
    there, without = float(scores.positives.sum()), float(scores.negatives.sum())
    return f"{max(there, 0):,.0f} of {max(there + without, 0):,.0f}"


def _outlined(result: Result, name: str) -> str:
    cases = result.federated.sums.get(f"cases/{name}")
    return NOTHING if not cases else f"{max(cases[0], 0):,.0f}"


def _short(reading: Reading | None) -> str:
    if reading is None:
        return NOTHING
    return "not determined" if reading.value is None else main_words(reading)
