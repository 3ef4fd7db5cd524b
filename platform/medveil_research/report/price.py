"""What privacy cost: the figure over epsilon where it was measured, and what follows from the noise alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medveil.look import charts, svg
from medveil.readings import Reading, with_unit
from medveil.values import NoiseKind
from medveil_research.levels import Level, Measured, Rung, ladder, noise_share
from medveil_research.report.rows import Given, Rows, table
from medveil_research.results import Result
from medveil_research.words import budget_words

NOISES: tuple[tuple[NoiseKind, str], ...] = (("local", "local noise"), ("joint", "joint noise"))


@dataclass(frozen=True)
class Computed:
    """What the noise of a study says, without any training."""

    ratio: float | None
    """Noise over signal; None where it is not known how many patients a hospital has."""
    budget: str
    """What that promises, in words."""
    share: float | None
    """Of the finished model's squared length, noise at least."""
    rungs: tuple[Rung, ...]
    """At other epsilons, the largest first."""
    half: Rung | None
    """At half of the study's epsilon."""
    hospitals: str
    """With how many more hospitals of the same size, at half of it."""


@dataclass(frozen=True)
class Curve:
    """A measured figure over epsilon with one kind of noise."""

    name: str
    drawn: Markup
    axis: Markup


@dataclass(frozen=True)
class Priced:
    """A measured figure over epsilon, drawn and in a table."""

    measured: Measured
    curves: tuple[Curve, ...]
    rows: Rows
    words: str


def computed(result: Result) -> Computed | None:
    """Of a study with noise; None without."""
    facts = result.privacy
    if facts.kind == "none" or facts.epsilon is None or facts.delta is None:
        return None
    ratio = facts.noise_to_signal
    rungs = ladder(
        facts.epsilon,
        facts.delta,
        sample_rate=facts.sample_rate or 1.0,
        steps=facts.steps or 1,
        patients=facts.patients,
        ratio=ratio,
    )
    half = next((one for one in rungs if one.epsilon == facts.epsilon / 2), None)
    return Computed(
        ratio=ratio,
        budget=budget_words(ratio),
        share=None if ratio is None else noise_share(ratio),
        rungs=rungs,
        half=half,
        hospitals="" if half is None else f"{half.factor if facts.kind == 'joint' else half.factor**2:.1f}",
    )


def priced(measured: Measured | None) -> Priced | None:
    """The page's part for a measured curve; None without one."""
    if measured is None:
        return None
    return Priced(
        measured,
        tuple(_curve(measured, name, measured.of(noise)) for noise, name in NOISES if measured.of(noise)),
        _rows(measured),
        _words(measured),
    )


def _curve(measured: Measured, name: str, levels: Sequence[Level]) -> Curve:
    def written(value: float) -> str:
        return with_unit(value, measured.unit)

    marks = [charts.Mark((one.value, one.value), one.patients, _title(measured, one)) for one in levels]
    told = ", ".join(f"{written(one.value)} at ε {one.epsilon:g}" for one in levels)
    level = None if measured.without is None else (measured.without, "no noise")
    limits = (0.0, 1.0) if not measured.unit else (0.0, float("inf"))
    return Curve(
        name,
        charts.figure(
            f"{measured.figure} with {name}: {told}", marks, lambda x: f"{x:.6g}", limits=limits, level=level
        ),
        _axis([f"ε {one.epsilon:g}" for one in levels]),
    )


def _title(measured: Measured, one: Level) -> str:
    ends = [with_unit(end, measured.unit) for end in one.patients or ()]
    over = f", 95 % over patients {' to '.join(ends)}" if ends else ""
    return f"ε {one.epsilon:g}: {with_unit(one.value, measured.unit)}{over}"


def _rows(measured: Measured) -> Rows:
    given = [
        Given(
            f"{name}, ε {one.epsilon:g}",
            None if one.less is None else Reading(one.less, one.less_patients),
            (
                with_unit(one.value, measured.unit),
                "—" if one.less_seeds is None else " to ".join(f"{end:+.3f}" for end in one.less_seeds),
                "—" if one.noise_to_signal is None else f"{one.noise_to_signal:.2f}",
            ),
            missing="no training without noise to hold it against",
        )
        for noise, name in NOISES
        for one in reversed(measured.of(noise))
    ]
    return table(
        f"{measured.figure} less that of the same training without noise, on the same patients and seeds.",
        given,
        first="training",
        figure="difference",
        unit=measured.unit,
        heads=(measured.figure, "difference, 95 % over seeds", "noise to signal, computed"),
        limits=(-float("inf"), float("inf")),
        mark=0.0,
    )


def _words(measured: Measured) -> str:
    """What each epsilon came to, in a sentence for each noise; what an interval leaves open is called so."""
    found = []
    for noise, name in NOISES:
        told = [_against(measured, one, one.less) for one in measured.of(noise)[::-1] if one.less is not None]
        if told:
            found.append(f"With {name} {measured.figure} was {', '.join(told)}.")
    return " ".join(found)


def _against(measured: Measured, one: Level, less: float) -> str:
    known = [ends for ends in (one.less_patients, one.less_seeds) if ends is not None]
    if not known or any(low <= 0 <= high for low, high in known):
        return f"not told apart from that without noise at ε {one.epsilon:g}"
    word = "better" if (less > 0) == measured.higher_is_better else "worse"
    return f"{with_unit(abs(less), measured.unit)} {word} at ε {one.epsilon:g}"


def _axis(names: Sequence[str]) -> Markup:
    """All of the few names, on a phone too. Screen readers have the table."""
    x = charts.across(len(names))
    marks = [
        svg.text(name, x=svg.percent(x(place)), y=12, text_anchor="middle")
        for place, name in enumerate(names)
    ]
    return svg.tag("svg", *marks, class_="draw", height=18, aria_hidden="true")
