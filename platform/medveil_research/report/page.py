"""The report of a study: one HTML file that a doctor can read and a reviewer can check."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medveil.readings import cell_words, interval_words, is_figure, main_words, with_unit
from medveil_research.report import paper, price, rounds, rows, verdict
from medveil_research.report.base import render_page, write_page
from medveil_research.report.curves import curves
from medveil_research.report.errors import errors
from medveil_research.report.scores import Scores, Table, scores_of
from medveil_research.results import Result
from medveil_research.words import is_count

PHASES = ("advertise", "share", "commit", "upload", "agree", "unmask")
USUAL = 0.5
"""The threshold that was fixed before the test: from here on the model finds the finding likelier."""
OTHERS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
"""Thresholds of the table that is folded away."""
DROWNED = "_undetermined"
NAMES = {
    "auroc": "AUROC",
    "ece": "calibration error",
    "dice": "Dice",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "bias": "mean error (predicted less true)",
}


def write_report(result: Result, path: Path) -> Path:
    """Write the report of one study.

    The file is self-contained: no script, no request to any host (its content-security policy forbids both).
    What the result does not hold is shown as an empty place with its reason, never filled in.

    Returns: ``path``.
    """
    return write_page(render(result), path)


def render(result: Result) -> str:
    """The report as HTML text; equal results give equal text."""
    headline = result.reading()
    drowned = headline is not None and headline.value is None
    scores = [] if drowned else scores_of(result)
    trained = [r for r in result.rounds if r.kind == "train"]
    return render_page(
        "report.html.j2",
        result=result,
        title=verdict.title(result),
        verdict=verdict.verdict(result),
        compared=rows.comparison(result),
        against=verdict.against_alone(result),
        crossed=threshold(scores),
        drawings=curves(scores, lambda one: one.cell_at(USUAL)),
        classes=rows.classes(result, scores),
        tables=[one.at(one.cell_at(USUAL)) for one in scores] if len(scores) > 1 else [],
        structures=rows.structures(result),
        lesions=rows.lesions(result),
        errors=errors(result),
        groups=rows.groups(result),
        sites=rows.sites(result),
        agreed_sites=rows.agreed_sites(result),
        strips=rounds.strips(result),
        spending=rounds.spending(result),
        spending_axis=rounds.axis_of(result) if trained else "",
        lost=any(set(r.survivors) < {*r.advertised, *r.committed} or r.outcome == "failed" for r in trained),
        rounds_words=rounds_words(result),
        cost=verdict.cost_of_privacy(result),
        attack=verdict.attacker_chance(result.privacy),
        price=price.computed(result),
        priced=price.priced(result.measured),
        joint_equals_local=_joint_equals_local(result),
        drowned=drowned,
        trained=trained,
        judged=any(r.kind == "evaluate" and r.outcome == "done" for r in result.rounds),
        hospitals=verdict.count_words(len(result.hospitals)),
        measured=any(r.figures or r.metric is not None for r in trained),
        phases=[p for p in PHASES if any(p in r.phases for r in result.rounds)],
        cell=lambda one: cell_words(result.reading_of(one.figures, metric=one.metric), result.unit),
        traffic=traffic(result),
        figures=all_figures(result),
        checklists=paper.checklists(result),
        card=paper.model_card(result),
    )


@dataclass(frozen=True)
class Crossed:
    """What happens at a threshold, and at others."""

    table: Table
    rows: tuple[tuple[str, str, str], ...]
    """Share, its interval, its best guess and counts."""
    others: tuple[tuple[str, str, str, str], ...]
    """Threshold, sensitivity, specificity, share of right positive calls."""
    unit: str
    total: float


def threshold(scores: list[Scores]) -> Crossed | None:
    """Of a study with one scored class: the two-by-two table at one half."""
    if len(scores) != 1:
        return None
    one = scores[0]
    table = one.at(one.cell_at(USUAL))
    total = float(one.positives.sum() + one.negatives.sum())
    if total <= 0:
        return None
    shares = (
        ("Sensitivity", table.sensitivity, table.found, table.found + table.missed),
        ("Specificity", table.specificity, table.clear, table.clear + table.false),
        ("Right when it says yes", table.precision, table.found, table.found + table.false),
        ("Right when it says no", table.negative_value, table.clear, table.clear + table.missed),
    )
    found = []
    for name, reading, right, cases in shares:
        counts = f"{max(right, 0):,.0f} of {max(cases, 0):,.0f}"
        if reading is None or reading.value is None:
            found.append((name, "not determined", f"too few cases: {counts}"))
        else:
            guess = f"best guess {reading.value:.3f}, " if reading.interval else ""
            found.append((name, main_words(reading), guess + counts))
    others = {one.cell_at(at): one.at(one.cell_at(at)) for at in OTHERS}
    return Crossed(
        table,
        tuple(found),
        tuple(
            (
                f"{at.threshold:.2f}",
                cell_words(at.sensitivity) or rows.NOTHING,
                cell_words(at.specificity) or rows.NOTHING,
                cell_words(at.precision) or rows.NOTHING,
            )
            for at in others.values()
        ),
        "patients" if one.deviation else "images",
        total,
    )


def rounds_words(result: Result) -> str:
    """What happened in training, in a sentence."""
    trained = [r for r in result.rounds if r.kind == "train"]
    if not trained:
        return "No round of training has ended so far."
    done = [r for r in trained if r.outcome == "done"]
    planned = result.recipe.rounds if result.recipe else len(trained)
    missed = [name for name in result.hospitals if any(name not in r.survivors for r in done)]
    words = f"{len(done)} of {planned} rounds gave a new model"
    failed = len(trained) - len(done)
    if failed:
        words += f"; {failed} failed and left it as it was"
    if not done:
        return f"{words}."
    if not missed:
        return f"{words}. Every hospital was in every sum."
    if len(missed) <= 3:
        each = "; ".join(
            f"{name} was missing in {sum(name not in r.survivors for r in done)}" for name in missed
        )
        return f"{words}. Not every hospital was in every sum: {each}."
    return f"{words}. {len(missed)} of {len(result.hospitals)} hospitals were missing in at least one sum."


def all_figures(result: Result) -> list[tuple[str, str]]:
    """Every figure as it was released, with its interval and the value before the cut."""
    found = []
    for part, figures in rows.parts(result.federated.figures).items():
        for name in figures:
            drowned = name.partition("/")[0].endswith(DROWNED)
            own = name.replace(DROWNED, "", 1) if drowned else name
            if not is_figure(name) and not drowned:
                continue
            kind, _, what = own.partition("/")
            label = " · ".join(filter(None, (NAMES.get(kind, kind), what, part)))
            if is_count(own):
                found.append((label, f"{figures[name]:,.0f}"))
                continue
            unit, reading = result.unit_of(own), result.reading_of(figures, own)
            words = interval_words(reading, unit)
            if reading and reading.uncut is not None and reading.value is not None:
                cut = not math.isclose(reading.uncut, reading.value, abs_tol=5e-7)
                words += f"; before the cut {with_unit(reading.uncut, unit)}" if cut else ""
            found.append((label, words))
    return found


def _joint_equals_local(result: Result) -> bool:
    pairs = [
        (e.local, e.joint) for e in result.epsilon.values() if e.local is not None and e.joint is not None
    ]
    return bool(pairs) and all(math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def traffic(result: Result) -> dict[str, tuple[int, int]]:
    """Bytes each hospital sent and received over all rounds."""
    up: Counter[str] = Counter()
    down: Counter[str] = Counter()
    for facts in result.rounds:
        up.update(facts.bytes_up)
        down.update(facts.bytes_down)
    return {name: (up[name], down[name]) for name in result.hospitals if name in up or name in down}
