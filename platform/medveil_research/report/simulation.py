"""The page of a simulation: what was measured beside what the protocol promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from medveil.look import charts
from medveil_research.report.base import render_page, write_page
from medveil_research.simulation import words
from medveil_research.simulation.result import RoundFacts, SimulationResult, Theory
from medveil_research.words import in_bytes

GROUPS = (
    ("shares and keys", ("advertise", "share")),
    ("training and masks", ("commit", "upload")),
    ("agreeing and unmasking", ("agree", "unmask")),
)
TONES = ("waiting", "working", "done")
MOST_ROWS = 200


@dataclass(frozen=True)
class Curve:
    """A chart over the rounds, with the words that go with it."""

    title: str
    drawn: Markup
    axis: Markup
    how_to_read: str


def write_simulation_page(result: SimulationResult, path: Path) -> Path:
    """Write the page. Returns: ``path``."""
    return write_page(render_simulation(result), path)


def render_simulation(result: SimulationResult) -> str:
    """The page as HTML text; equal results give equal text."""
    last = result.done[-1] if result.done else None
    return render_page(
        "simulation.html.j2",
        result=result,
        words=words,
        last=last,
        curves=[one for one in _curves(result) if one.drawn],
        costs=_costs(result),
        tones=TONES,
        groups=[name for name, _ in GROUPS],
        beside=_beside(result, last) if last is not None else [],
        rows=result.attempts[-MOST_ROWS:],
        labels=_labels(result),
        number=lambda value, digits=3: f"{value:.{digits}g}",
    )


def _curves(result: SimulationResult) -> list[Curve]:
    done = result.done
    axis = charts.axis([str(one.round) for one in done])
    figures = [one.figures.get(result.headline) for one in done]
    curves = [
        Curve(
            f"{result.headline_name} on the test patients",
            _line(f"{result.headline_name} by round", done, figures, limits=(0.0, float("inf"))),
            axis,
            "Exact figures of the model after each round, on test patients that no hospital trains on.",
        ),
        Curve(
            "Epsilon spent",
            _line(
                "epsilon by round",
                done,
                [one.epsilon for one in done],
                level=None
                if result.stated_epsilon is None
                else (result.stated_epsilon, f"stated for the whole study: {result.stated_epsilon:g}"),
                limits=(0.0, float("inf")),
            ),
            axis,
            "What a patient of a hospital that was in every round would have spent by then.",
        ),
    ]
    if result.masks:
        curves.append(
            Curve(
                "Survivors, and how many there must be",
                _line(
                    "survivors by round",
                    done,
                    [float(one.survivors) for one in done],
                    level=(float(_needed(result)), f"fewest for a sum: {_needed(result):,}"),
                    limits=(0.0, float(result.hospitals)),
                ),
                axis,
                "A round below the line has no sum; it is counted as failed, and is not drawn.",
            )
        )
    return curves


def _needed(result: SimulationResult) -> int:
    return max(result.threshold, result.quorum)


def _line(
    label: str,
    done: Sequence[RoundFacts],
    values: Sequence[float | None],
    *,
    limits: charts.Range,
    level: tuple[float, str] | None = None,
) -> Markup:
    if not any(value is not None for value in values):
        return Markup()
    marks = [
        charts.Mark(
            None if v is None else (v, v), title=f"round {one.round}: {'none' if v is None else f'{v:.4g}'}"
        )
        for one, v in zip(done, values, strict=True)
    ]
    return charts.figure(label, marks, lambda value: f"{value:.4g}", limits=limits, level=level)


def _costs(result: SimulationResult) -> Curve | None:
    """Seconds of a core that a hospital takes, by what it does."""
    done = [one for one in result.done if one.costs.cpu_s]
    if not done or not result.masks:
        return None
    piles = []
    for one in done:
        parts = [sum(one.costs.cpu_s.get(phase, 0.0) for phase in phases) for _, phases in GROUPS]
        piles.append(charts.Pile(parts, f"round {one.round}: {one.costs.cpu:.3g} s"))
    drawn = charts.piles("seconds of a core for each hospital", piles, TONES, lambda value: f"{value:.3g} s")
    return Curve("What a hospital computes", drawn, charts.axis([str(one.round) for one in done]), "")


Beside = tuple[str, str, str, str]
"""What, measured, by the theory, and what the theory is."""


def _beside(result: SimulationResult, last: RoundFacts) -> list[Beside]:
    """Measured and promised, of the last round with a sum."""
    theory = last.theory
    if theory is None:
        return []
    step, rms = "one step for each hospital (model units)", "independent roundings, half a step each at most"
    return [
        ("words of the sum that are wrong", f"{last.wrong_words:,}", "0", "the sum of integers, mod 2^64"),
        ("mean off the exact mean, at most", f"{last.error or 0:.3g}", f"{theory.rounding:.3g}", step),
        ("root mean square of that", f"{last.error_rms or 0:.3g}", f"{theory.rounding_rms:.3g}", rms),
        *_sizes(result, last, theory),
        *_bounds(last, theory),
    ]


def _sizes(result: SimulationResult, last: RoundFacts, theory: Theory) -> list[Beside]:
    graph = "p (m − 1) of the hidden graph" if result.mask_graph == "hidden" else "everybody else"
    costs = last.costs
    return [
        ("neighbours of a hospital", f"{last.neighbours or 0:.1f}", f"{theory.neighbours:.1f}", graph),
        (
            "bytes of the masked vector",
            in_bytes(costs.vector),
            in_bytes(theory.vector_bytes),
            f"lanes of {result.lane_bits} bits; the same for any number of hospitals",
        ),
        (
            "bytes of all other messages",
            in_bytes(costs.messages),
            in_bytes(theory.message_bytes),
            "grows with all hospitals: each has a share of every secret",
        ),
    ]


def _bounds(last: RoundFacts, theory: Theory) -> list[Beside]:
    bits = theory.disconnected_bits
    return [
        (
            "vanished after the keys",
            f"{last.advertised - last.survivors:,} did",
            f"{theory.may_vanish:,} may",
            "advertised less the larger of threshold, quorum and the study's minimum",
        ),
        (
            "chance that masks hide less than all survivors together",
            "cannot be seen",
            "none: every pair shares a mask" if bits is None else f"below 2^-{bits:.0f}",
            "bound of the random graph over these survivors; 2^-40 for the fewest that the plan admits",
        ),
    ]


def _labels(result: SimulationResult) -> list[tuple[str, str, str]]:
    """Of each label: patients, how many hospitals have some, and the largest share in one of them."""
    total: dict[str, int] = {}
    for one in result.dealt.labels:
        for label, count in one.items():
            total[label] = total.get(label, 0) + count
    found = []
    for label, count in sorted(total.items()):
        having = [one[label] for one in result.dealt.labels if label in one]
        found.append(
            (label, f"{count:,}", f"{len(having):,} hospitals; {max(having) / count:.1%} in one of them")
        )
    return found
