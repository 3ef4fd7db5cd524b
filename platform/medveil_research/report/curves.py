"""How well scores separate, whether calls are right and probabilities true: each in a square."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from medveil.histograms import auroc, roc_curve
from medveil.look import svg
from medveil.readings import Reading
from medveil_research.report.scores import Scores, Table, calibration

MOST_CURVES = 6
"""With more classes a picture of curves cannot be read; tables say the same."""
LINES = (
    ("accent-line", None),
    ("ink-line", None),
    ("accent-line", "7 4"),
    ("ink-line", "7 4"),
    ("accent-line", "2 4"),
    ("ink-line", "2 4"),
)
"""Of several classes, told apart without colour too."""


@dataclass(frozen=True)
class Drawing:
    """One drawing of the page, with the words that go with it."""

    title: str
    svg: Markup
    how_to_read: str
    note: str = ""
    legend: tuple[tuple[Markup, str], ...] = ()


def curves(scores: Sequence[Scores], cell_at: Callable[[Scores], int]) -> list[Drawing]:
    """What can be drawn of these classes.

    Args:
        cell_at: the threshold that is marked.
    """
    if not 0 < len(scores) <= MOST_CURVES:
        return []
    if len(scores) > 1:
        return [drawn for drawn in [_several_roc(scores)] if drawn]
    one, cell = scores[0], cell_at(scores[0])
    tables = one.tables()
    marked = one.at(cell)
    drawn = [_roc(one, tables, marked), _precision_recall(one, tables, marked), _calibration(one)]
    return [drawing for drawing in drawn if drawing is not None]


def _points(scores: Scores) -> list[svg.Point]:
    false, true = roc_curve(scores.positives, scores.negatives)
    return [(float(x), float(y)) for x, y in zip(false, true, strict=True)]


def _roc(scores: Scores, tables: Sequence[Table], marked: Table) -> Drawing | None:
    if auroc(scores.positives, scores.negatives) is None:
        return None
    points, inside = _points(scores), [svg.diagonal()]
    upper, lower = [(0.0, 0.0)], [(0.0, 0.0)]
    for table in tables:
        true, false = _ends(table.sensitivity), _ends(table.specificity)
        if true is not None and false is not None:
            upper.append((max(1 - false[1], upper[-1][0]), max(true[1], upper[-1][1])))
            lower.append((max(1 - false[0], lower[-1][0]), max(true[0], lower[-1][1])))
    banded = len(upper) > 2
    if banded:
        inside.append(svg.band([*upper, (1.0, 1.0)], [*lower, (1.0, 1.0)]))
    inside.append(svg.curve(points))
    here, words = _mark(marked.specificity, marked.sensitivity, marked.threshold)
    if here is not None:
        inside.append(svg.dot(here, 5.5, ringed=True))
    label = f"ROC curve of {scores.name}" + (", with the 95 % interval of each point" if banded else "")
    if here is not None:
        label += f"; {words}: sensitivity {here[1]:.3f} at a false alarm rate of {here[0]:.3f}"
    picture = svg.square(
        label, "false alarms, 1 − specificity", "sensitivity", *inside, note=(here, words) if here else None
    )
    return Drawing(
        "How well it separates",
        picture,
        "The nearer the line comes to the upper left corner, the better; the dashed line is guessing."
        + (" The tinted band holds, at each threshold, the 95 % intervals of both shares." if banded else ""),
        "The counts carry noise: the line has few points and is rough." if scores.deviation else "",
    )


def _mark(across: Reading | None, upwards: Reading | None, at: float) -> tuple[svg.Point | None, str]:
    words = f"threshold {at:.2f}"
    if across is None or upwards is None or across.value is None or upwards.value is None:
        return None, words
    return (1 - across.value, upwards.value), words


def _precision_recall(scores: Scores, tables: Sequence[Table], marked: Table) -> Drawing | None:
    known = [
        (t.sensitivity.value, t.precision.value, _ends(t.precision))
        for t in tables
        if t.sensitivity and t.precision and t.sensitivity.value is not None and t.precision.value is not None
    ]
    if len(known) < 2:
        return None
    recalls = np.maximum.accumulate([recall for recall, _, _ in known]).tolist()  # noise can lead back
    known = [(recall, *rest) for recall, (_, *rest) in zip(recalls, known, strict=True)]
    share = scores.prevalence
    (x1, y), (x2, _) = svg.place((0, share)), svg.place((1, share))
    inside = [svg.tag("line", class_="base", stroke_dasharray="4 4", x1=x1, x2=x2, y1=y, y2=y)]
    upper = [(recall, ends[1]) for recall, _, ends in known if ends]
    lower = [(recall, ends[0]) for recall, _, ends in known if ends]
    if len(upper) > 1:
        inside.append(svg.band(upper, lower))
    inside.append(svg.curve([(recall, precision) for recall, precision, _ in known]))
    sensitivity, precision = marked.sensitivity, marked.precision
    note, label = None, f"Precision against sensitivity of {scores.name}"
    if sensitivity and precision and sensitivity.value is not None and precision.value is not None:
        here, words = (sensitivity.value, precision.value), f"threshold {marked.threshold:.2f}"
        inside.append(svg.dot(here, 5.5, ringed=True))
        note = (here, words)
        label += f"; {words}: precision {here[1]:.3f} at sensitivity {here[0]:.3f}"
    return Drawing(
        "How many of its calls are right",
        svg.square(label, "sensitivity", "right when it says yes", *inside, note=note),
        "Further up means fewer false alarms among its calls, further right more cases found. It depends on "
        f"how frequent the finding is: the dashed line, {100 * share:.0f} of 100 cases here, is guessing.",
        "Where the noise drowns the few cases of a high threshold, nothing is drawn."
        if scores.deviation
        else "",
    )


def _calibration(scores: Scores) -> Drawing | None:
    groups = calibration(scores)
    if not groups:
        return None
    inside, words, outside = [svg.diagonal()], [], 0
    for group in groups:
        value = group.observed.value
        assert value is not None
        words.append(f"says {group.said:.2f}, is {value:.2f}")
        ends = group.observed.interval
        if ends:
            inside.append(svg.upright(group.said, *ends))
            outside += not ends[0] <= group.said <= ends[1]
        inside.append(svg.dot((group.said, value)))
    if outside:
        reach = "does" if outside == 1 else "do"
        verdict = f"{outside} of the {len(groups)} intervals {reach} not reach the line."
    else:
        verdict = "All intervals reach the line." if len(groups) > 1 else "The interval reaches the line."
    return Drawing(
        "Whether its percentages are true",
        svg.square(
            f"Calibration of {scores.name} in {len(groups)} groups: {'; '.join(words)}",
            "the model says",
            "cases with the finding",
            *inside,
        ),
        "On the dashed line, of 100 cases with a score of 0.7, 70 have the finding. Below it the model is "
        f"too sure of the finding, above it too cautious. Lines are 95 % intervals. {verdict}",
        "Scores are counted in 20 cells; groups whose cases do not stand clear of the noise are put together "
        "with their neighbours."
        if scores.deviation
        else "",
    )


def _several_roc(scores: Sequence[Scores]) -> Drawing | None:
    inside, words, legend = [svg.diagonal()], [], []
    for one, (kind, dash) in zip(scores, LINES, strict=False):
        area = auroc(one.positives, one.negatives)
        if area is None:
            continue
        area = float(np.clip(area, 0, 1))  # noised counts can lead beyond what an area can be
        inside.append(svg.curve(_points(one), kind, dash))
        line = svg.tag("line", class_=kind, stroke_dasharray=dash, x1=0, x2=26, y1=7, y2=7)
        legend.append((svg.tag("svg", line, width=26, height=14, aria_hidden="true"), one.name))
        words.append(one.name)
    if not words:
        return None
    return Drawing(
        "How well it separates",
        svg.square(
            f"ROC curves of {', '.join(words)}", "false alarms, 1 − specificity", "sensitivity", *inside
        ),
        "Each class against all others. The nearer a line comes to the upper left corner, the better; the "
        "thin dashed line is guessing. Intervals are in the table.",
        "The counts carry noise: the lines have few points and are rough." if scores[0].deviation else "",
        tuple(legend),
    )


def _ends(reading: Reading | None) -> tuple[float, float] | None:
    return None if reading is None else reading.interval
