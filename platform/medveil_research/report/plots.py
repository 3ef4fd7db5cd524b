"""The figures of the report, each drawn from a :class:`Result` and each absent when its data is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medveil.histograms import auroc, calibration_curve, roc_curve
from medveil.readings import main_words
from medveil.reports import Figures
from medveil_research.report.drawing import ACCENT, INK, LINE, MUTED, PAPER, SECOND, Drawing, canvas, to_svg
from medveil_research.results import ExactFacts, Interval, Result, RoundFacts

MOST_CURVES = 6
"""With more classes a picture of curves cannot be read."""
MOST_ROWS = 14
"""More hospitals than this are shown as a count per round instead of a row each."""


def draw_all(result: Result) -> list[Drawing]:
    """Every figure this result has the data for, in reading order."""
    makers: Sequence[Callable[[Result], Drawing | None]] = (
        learning_curve,
        together_against_alone,
        structures,
        findings,
        roc,
        calibration,
        forest,
    )
    return [drawing for make in makers if (drawing := make(result)) is not None]


def learning_curve(result: Result) -> Drawing | None:
    """Headline figure of the shared model round by round, and who was in each sum.

    Of a study that evaluates at its end only, nothing: the table of rounds says the rest.
    """
    rounds = [r for r in result.rounds if r.kind == "train"]
    points = [(r.round, metric) for r in rounds if (metric := _metric(result, r)) is not None]
    if not points:
        return None
    rows = len(result.hospitals) if len(result.hospitals) <= MOST_ROWS else 5
    last = max(r.round for r in rounds)
    with canvas(2.5 + 0.24 * rows) as figure:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=[10, max(3, rows)])
        _curve(top, result, points, last + 1)
        for failed in (r for r in rounds if r.outcome == "failed"):
            _mark_failed(top, failed.round)
        _who_was_in(below, result, rounds)
        below.set_xlim(min(r.round for r in rounds) - 0.6, last + 1.6)
        below.set_xlabel("round")
        steps = _round_ticks([r.round for r in rounds])
        below.set_xticks([*steps, last + 1], [*(str(s) for s in steps), "end"])
        text = _curve_in_words(result, points)
        return Drawing(
            title="Round by round",
            how_to_read=(
                "Upper part: how good the shared model was at the start of each round, on validation "
                f"patients of all hospitals together ({result.headline_name}: {_perfect(result)} is "
                "perfect); the diamond is the finished model on test patients it never saw. Lower part: a "
                "filled dot means that the hospital's contribution is in that round's sum; an open dot means "
                "that the hospital started the round but was not there at its end. A dotted line marks a "
                "round that failed; it leaves the model as it was."
            ),
            description=text,
            svg=to_svg(figure, "rounds", "Round by round", text),
        )


def _curve(axes: Any, result: Result, points: Sequence[tuple[int, float]], end: int) -> None:
    """The validation figures, and at ``end`` that of the finished model on test patients."""
    axes.plot(*zip(*points, strict=True), "o-", color=ACCENT)
    if result.metric is not None:
        axes.plot([end], [result.metric], "D", color=SECOND, clip_on=False)
        axes.annotate(
            f"test {result.written(result.metric)}",
            (end, result.metric),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=SECOND,
            fontsize=9.5,
        )
    axes.set_ylabel(result.headline_label)
    axes.margins(y=0.22)


def _mark_failed(axes: Any, number: int) -> None:
    axes.axvline(number, color=SECOND, linestyle=":", linewidth=1.4)
    axes.annotate(
        "failed",
        (number, 0),
        xycoords=("data", "axes fraction"),
        xytext=(4, 4),
        textcoords="offset points",
        color=SECOND,
        fontsize=9,
    )


def _who_was_in(axes: Any, result: Result, rounds: Sequence[RoundFacts]) -> None:
    if len(result.hospitals) > MOST_ROWS:
        axes.bar([r.round for r in rounds], [len(r.survivors) for r in rounds], color=ACCENT, width=0.7)
        axes.set_ylabel("in the sum")
        return
    for row, name in enumerate(result.hospitals):
        inside = [r.round for r in rounds if name in r.survivors]
        started = [
            r.round for r in rounds if name in (*r.advertised, *r.committed) and name not in r.survivors
        ]
        axes.plot(inside, [row] * len(inside), "o", color=ACCENT, markersize=5)
        axes.plot(started, [row] * len(started), "o", color=SECOND, markerfacecolor="none", markersize=6)
    axes.set_yticks(range(len(result.hospitals)), result.hospitals)
    axes.set_ylim(len(result.hospitals) - 0.4, -0.6)
    axes.grid(axis="x", visible=False)


def _round_ticks(rounds: Sequence[int]) -> list[int]:
    step = max(1, -(-len(rounds) // 10))
    return list(rounds)[::step]


def _metric(result: Result, facts: RoundFacts) -> float | None:
    return facts.figures.get(result.headline) if facts.metric is None else facts.metric


def _curve_in_words(result: Result, points: Sequence[tuple[int, float]]) -> str:
    name = result.headline_name
    values = "; ".join(f"round {r}: {result.written(value)}" for r, value in points)
    done = sum(r.outcome == "done" for r in result.rounds if r.kind == "train")
    end = (
        "" if result.metric is None else f" Finished model on test patients: {result.written(result.metric)}."
    )
    return f"{name} at the start of each round: {values}.{end} {done} training rounds gave a new model."


def together_against_alone(result: Result) -> Drawing | None:
    """The shared model beside each hospital's model trained alone, all on the same test patients."""
    alone = [(a.hospital, a.pooled.get(result.headline, a.metric)) for a in result.local_only]
    known = [(name, value) for name, value in alone if value is not None]
    compared = result.compared
    if compared is None or compared.value is None or not known:
        return None
    shared, interval = compared.value, compared.interval
    labels = ["all together", *(f"{name} alone" for name, _ in known)]
    values = [shared, *(value for _, value in known)]
    with canvas(1.3 + 0.33 * len(values)) as figure:
        axes = figure.subplots()
        low, high = min(values), max(values)
        for row, value in enumerate(values):
            colour = ACCENT if row == 0 else MUTED
            axes.plot([value], [row], "D" if row == 0 else "o", color=colour, markersize=8 if row == 0 else 7)
            _write_value(axes, result.digits(value), value, row, colour)
        if interval:
            axes.plot(interval, [0, 0], color=ACCENT, linewidth=2)
            low, high = min(low, interval[0]), max(high, interval[1])
        if result.local_only_mean is not None:
            axes.axvline(result.local_only_mean, color=SECOND, linestyle="--", linewidth=1.3)
        _rows(
            axes, labels, low, high, f"{result.headline_label} on the test patients of all hospitals", result
        )
        mean = (
            ""
            if result.local_only_mean is None
            else f" Mean of the models alone: {result.written(result.local_only_mean)}."
        )
        each = (f"{k}: {result.written(v)}" for k, v in zip(labels, values, strict=True))
        text = "; ".join(each) + "." + mean
        better = "right" if result.higher_is_better else "left"
        return Drawing(
            title="Together against alone",
            how_to_read=(
                "Each grey dot is a model that one hospital trained alone, with the same recipe, the "
                "same number of rounds and the same privacy budget; the diamond is the model trained "
                "together. All are judged on the same test patients, those of every hospital. Further "
                f"{better} is better; the dashed line is the mean of the hospitals alone. The scale does "
                "not start at zero."
            ),
            description=text,
            svg=to_svg(figure, "alone", "Together against alone", text),
            note=""
            if shared == result.metric
            else "All figures here are exact: in this run one person owns every site's images. The "
            f"{_shared(result)} above is what leaves the hospitals, and it has noise.",
        )


def roc(result: Result) -> Drawing | None:
    """ROC curves from the pooled histograms."""
    curves = []
    for name in result.scored_classes:
        positives, negatives = result.histogram(f"positives/{name}"), result.histogram(f"negatives/{name}")
        area = auroc(positives, negatives)
        if area is not None:
            # Noised counts can lead beyond what an area can be.
            curves.append((name, min(max(area, 0.0), 1.0), roc_curve(positives, negatives)))
    if not 0 < len(curves) <= MOST_CURVES:
        return None
    with canvas(3.9) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.2)
        for place, (name, area, (false, true)) in enumerate(curves):
            style, colour = _line(place)
            axes.plot(false, true, linestyle=style, color=colour, label=f"{name}: {area:.3f}", clip_on=False)
        axes.set(xlabel="healthy called ill (false positive rate)", ylabel="ill found (true positive rate)")
        if len(curves) > 1:
            axes.set(xlabel="false positive rate", ylabel="true positive rate")
        axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        axes.legend(loc="lower right", title="area under the curve (AUROC)", title_fontsize=9.5)
        text = "AUROC " + "; ".join(f"{name}: {area:.3f}" for name, area, _ in curves) + "."
        return Drawing(
            title="Telling the classes apart (ROC)",
            how_to_read=(
                "Every point of the curve is one possible alarm threshold. The closer the curve comes "
                "to the upper left corner, the more cases are found with few false alarms; the dotted "
                "diagonal is guessing. The curve comes from a masked sum of histograms over all "
                "hospitals; nobody saw one hospital's curve."
            ),
            note=""
            if not result.noised
            else "Noise was added to the counts, so that they tell little of one patient: the curve has few "
            "points, and its area is as unsure as the result above says.",
            description=text,
            svg=to_svg(figure, "roc", "ROC curve, pooled test patients", text),
        )


def calibration(result: Result) -> Drawing | None:
    """Predicted probability against observed frequency, pooled; not from a few bins with noise."""
    if result.noised:
        return None
    curves = []
    for name in result.scored_classes:
        positives, negatives = result.histogram(f"positives/{name}"), result.histogram(f"negatives/{name}")
        if positives.sum() + negatives.sum() > 0:
            curves.append((name, calibration_curve(positives, negatives, 10)))
    if not 0 < len(curves) <= MOST_CURVES:
        return None
    error = result.federated.figures.get("ece")
    with canvas(3.9) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.2)
        for place, (name, (predicted, observed, count)) in enumerate(curves):
            style, colour = _line(place)
            axes.plot(predicted, observed, linestyle=style, color=colour, label=name, linewidth=1.4)
            axes.scatter(
                predicted, observed, s=14 + 420 * count / count.sum(), alpha=0.85, color=colour, clip_on=False
            )
        axes.set(xlabel="probability the model gave", ylabel="share that really had it")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.legend(loc="upper left")
        parts = "; ".join(
            f"{name}: " + ", ".join(f"said {p:.2f}, was {o:.2f}" for p, o, _ in zip(*curve, strict=True))
            for name, curve in curves
        )
        text = parts + ("." if error is None else f". Expected calibration error {error:.3f}.")
        note = "" if error is None else f"Mean distance from the diagonal (ECE): {error:.3f}."
        return Drawing(
            title="Can its probabilities be believed?",
            how_to_read=(
                "A model that says 70 % should be right in 7 of 10 such cases: the dot then lies on "
                "the dotted diagonal. Dots below it mean the model is too sure of the finding, dots "
                "above that it is too cautious. Larger dots stand for more images."
            ),
            description=text,
            svg=to_svg(figure, "calibration", "Calibration, pooled test patients", text),
            note=note,
        )


def structures(result: Result) -> Drawing | None:
    """Dice per structure as bars from zero."""
    found = {
        c: result.federated.figures[f"dice/{c}"]
        for c in result.classes[1:]
        if f"dice/{c}" in result.federated.figures
    }
    if not found:
        return None
    with canvas(1.2 + 0.42 * len(found)) as figure:
        _bars(figure.subplots(), found, "Dice, pooled test patients")
        text = "Dice " + "; ".join(f"{name}: {value:.3f}" for name, value in found.items()) + "."
        return Drawing(
            title="Overlap with the expert's outline",
            how_to_read=(
                "Dice measures how well the model's outline and the expert's outline cover each other: "
                "1 means the same outline, 0 no overlap. Each bar is the mean over the patients in "
                "whom the structure was outlined, in all hospitals together."
            ),
            description=text,
            svg=to_svg(figure, "structures", "Dice per structure, pooled test patients", text),
        )


def findings(result: Result) -> Drawing | None:
    """AUROC of each finding as bars from zero, with the cases that it rests on."""
    figures, found = result.federated.figures, {}
    for name in result.classes:
        if f"auroc/{name}" in figures and f"known/{name}" in figures:
            cases = f"{figures[f'there/{name}']:.0f} of {figures[f'known/{name}']:.0f}"
            found[f"{_short(name, 20)} ({cases})"] = figures[f"auroc/{name}"]
    if not found:
        return None
    missing = [name for name in result.classes if f"auroc/{name}" not in figures]
    blank = f" No figure (too few cases of one kind): {', '.join(missing)}." if missing else ""
    with canvas(1.2 + 0.42 * len(found)) as figure:
        axes = figure.subplots()
        _bars(axes, found, "AUROC, pooled test patients")
        axes.axvline(0.5, color=MUTED, linestyle=":", linewidth=1.2)
        text = "AUROC " + "; ".join(f"{name}: {value:.3f}" for name, value in found.items()) + "." + blank
        return Drawing(
            title="Each finding",
            how_to_read=(
                "How well the model tells cases with the finding from those without: 1 is perfect, the "
                "dotted line at 0.5 is guessing. In brackets: how many have it, of how many it is known. A "
                "figure from few cases is a rough one."
            ),
            description=text,
            svg=to_svg(figure, "findings", "AUROC per finding, pooled test patients", text),
            note=blank.strip(),
        )


def _bars(axes: Any, found: Mapping[str, float], label: str) -> None:
    """Shares by name, as bars from zero."""
    axes.barh(range(len(found)), list(found.values()), color=ACCENT, height=0.55)
    for row, value in enumerate(found.values()):
        axes.annotate(
            f"{value:.3f}", (value, row), xytext=(6, 0), textcoords="offset points", va="center", color=INK
        )
    axes.set_yticks(range(len(found)), [_short(name, 44) for name in found])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set(xlim=(0, 1.12), ylim=(len(found) - 0.4, -0.6), xlabel=label)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.grid(axis="y", visible=False)


def forest(result: Result) -> Drawing | None:
    """The shared model at each hospital; only where one person owns all sites' images."""
    exact, headline = result.federated.exact, result.headline
    rows = _exact_rows(exact) if exact else []
    missing = [label for label, figures, _ in rows if headline not in figures]
    if exact is None or len(missing) == len(rows):
        return None
    rows.append(("all together", exact.pooled, exact.interval))
    entries = [
        (_with_patients(name, f), f[headline], interval) for name, f, interval in rows if headline in f
    ]
    with canvas(1.3 + 0.36 * len(entries)) as figure:
        axes = figure.subplots()
        for row, (label, value, interval) in enumerate(entries):
            last = label.startswith("all together")
            colour = ACCENT if last else INK
            if interval:
                axes.plot(interval, [row, row], color=colour, linewidth=1.6)
            axes.plot([value], [row], "D" if last else "s", color=colour, markersize=8 if last else 6)
            _write_value(axes, result.digits(value), value, row, colour)
        if headline in exact.pooled:
            axes.axvline(exact.pooled[headline], color=LINE, linewidth=1.4)
        edges = [edge for _, value, interval in entries for edge in (value, *(interval or ()))]
        labels = [label for label, _, _ in entries]
        _rows(axes, labels, min(edges), max(edges), f"{result.headline_label} on test patients", result)
        text = "; ".join(
            f"{label}: {result.written(value)}{_between(result, interval)}"
            for label, value, interval in entries
        )
        blank = f" No figure (too few cases of one kind): {', '.join(missing)}." if missing else ""
        return Drawing(
            title="The shared model at each hospital",
            how_to_read=(
                "Each square is one hospital's test patients, the diamond all of them; the line "
                "through it is the 95 % interval from drawing the patients again and again "
                "(bootstrap). Where lines overlap widely, hospitals do not differ for certain."
            ),
            description=f"{text}.{blank}",
            svg=to_svg(figure, "forest", "The shared model at each hospital", f"{text}.{blank}"),
            note=(
                "A real consortium cannot see these per-hospital figures: only sums leave a hospital. "
                "They exist here because in this run one person owns every site's images"
                + (", and they are exact; the figure above has noise" if result.noised else "")
                + "."
                + blank
            ),
        )


def _exact_rows(exact: ExactFacts) -> list[tuple[str, Figures, Interval | None]]:
    """Each hospital, then each group."""
    rows = [(name, figures, exact.intervals.get(name)) for name, figures in exact.sites.items()]
    return rows + [(f"all {source} sites", figures, None) for source, figures in exact.groups.items()]


def _with_patients(name: str, figures: Figures) -> str:
    return f"{name} (n = {figures['patients']:.0f})" if "patients" in figures else name


def _between(result: Result, interval: Interval | None) -> str:
    return "" if interval is None else f" ({result.digits(interval[0])} to {result.written(interval[1])})"


def _perfect(result: Result) -> str:
    return "1" if result.higher_is_better else "0"


def _shared(result: Result) -> str:
    reading = result.reading()
    return "figure" if reading is None or reading.value is None else main_words(reading, result.unit)


def _write_value(axes: Any, text: str, value: float, row: int, colour: str) -> None:
    axes.annotate(
        text,
        (value, row),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=colour,
        fontsize=9,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none"},
    )


def _rows(axes: Any, labels: Sequence[str], low: float, high: float, label: str, result: Result) -> None:
    room = max(0.01, 0.18 * (high - low))
    axes.set_yticks(range(len(labels)), [_short(text) for text in labels])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    end = min(high + room, max(1.01, high + 0.01)) if result.higher_is_better else high + room
    axes.set(xlim=(low - room, end), ylim=(len(labels) - 0.5, -0.8))
    axes.set_xlabel(label)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="y", visible=False)


def _line(place: int) -> tuple[str, str]:
    return ("-", "--", "-.", ":")[place % 4], (ACCENT, SECOND, INK, MUTED)[
        place // 4 % 4 if place >= 4 else place
    ]


def _short(text: str, limit: int = 26) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
