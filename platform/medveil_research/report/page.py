"""One HTML file that a doctor can read, a reviewer can check and a browser can open without a network."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medveil.readings import (
    UNDETERMINED,
    cell_words,
    guess_words,
    interval_meaning,
    interval_words,
    is_figure,
    main_words,
)
from medveil_research.report.base import render_page, write_page
from medveil_research.report.plots import draw_all
from medveil_research.results import PrivacyFacts, Result
from medveil_research.words import budget_words, plain, short_hash

PHASES = ("advertise", "share", "commit", "upload", "agree", "unmask")
WRONG_ACCUSATIONS = 0.01
"""False-alarm rate at which the report translates epsilon into an attacker's chance."""


def write_report(result: Result, path: Path) -> Path:
    """Write the report of one study.

    The file is self-contained: no script, no request to any host (its content-security policy forbids both).
    What the result does not hold is shown as an empty place, never filled in.

    Returns: ``path``.
    """
    return write_page(render(result), path)


def render(result: Result) -> str:
    """The report as HTML text; equal results give equal text."""
    return render_page(
        "report.html.j2",
        result=result,
        drawings=draw_all(result),
        verdict=verdict(result),
        attack=attacker_chance(result.privacy),
        budget=budget_words(result.privacy.noise_to_signal),
        joint_equals_local=_joint_equals_local(result),
        train_rounds=[r for r in result.rounds if r.kind == "train"],
        traffic=traffic(result),
        measured=any(r.kind == "train" and (r.figures or r.metric is not None) for r in result.rounds),
        phases=[p for p in PHASES if any(p in r.phases for r in result.rounds)],
        checklist=checklist(result),
        is_figure=is_figure,
        cell=lambda one: cell_words(result.reading_of(one.figures, metric=one.metric), result.unit),
        tile=lambda name: interval_words(result.reading(name), result.unit_of(name)),
    )


@dataclass(frozen=True)
class Verdict:
    """The result in one line."""

    value: str
    interval: str
    sentence: str


def verdict(result: Result) -> Verdict:
    """The headline figure, its interval first, and how it compares with the hospitals training alone.

    Models of single hospitals have exact figures; they are held against the exact figure of the shared model,
    where that is known.
    """
    reading, compared = result.reading(), result.compared
    if reading is None:
        return Verdict("—", "", "No figure was computed: there were too few test cases of one kind.")
    value = None if compared is None else compared.value
    against = "" if value is None else _compare(value, result, len(result.local_only))
    if value is not None and result.noised and result.compared != reading:
        against = (
            f"Counted without noise, for which all hospitals' images must be in one place, it is "
            f"{result.written(value)}. {against}"
        )
    if reading.value is None:
        return Verdict("—", UNDETERMINED, against)
    guess = guess_words(reading, result.unit)
    error = interval_meaning(reading, noised=result.noised) + (f"; best guess {guess}" if guess else "")
    return Verdict(main_words(reading, result.unit), error, against)


def _compare(metric: float, result: Result, alone: int) -> str:
    if result.local_only_mean is None or not alone:
        return "It was not compared with hospitals training alone in this run."
    gain = metric - result.local_only_mean
    mean = result.written(result.local_only_mean)
    if float(result.digits(gain)) == 0:
        return f"The hospitals training alone reach the same on average ({mean})."
    better = metric.__gt__ if result.higher_is_better else metric.__lt__
    beaten = sum(a.metric is not None and better(a.metric) for a in result.local_only)
    word = "better" if better(result.local_only_mean) else "worse"
    return (
        f"That is {result.written(abs(gain))} {word} than the mean of the hospitals training alone ({mean}); "
        f"{beaten} of the {alone} single models do worse than it."
    )


def attacker_chance(privacy: PrivacyFacts) -> float | None:
    """Largest share of participants that an attacker recognises who wrongly accuses 1 % of the others.

    None without differential privacy. With every patient in every step the study is one Gaussian of
    mu = sqrt(steps) / noise_multiplier and the bound is tight (Dong, Roth, Su, "Gaussian differential
    privacy", 2022); otherwise it follows from epsilon and delta (Kairouz, Oh, Viswanath, ICML 2015).
    """
    if privacy.kind == "none" or privacy.epsilon is None or privacy.delta is None:
        return None
    wrong = WRONG_ACCUSATIONS
    if privacy.sample_rate == 1 and privacy.noise_multiplier and privacy.steps:
        normal = statistics.NormalDist()
        return normal.cdf(normal.inv_cdf(wrong) + math.sqrt(privacy.steps) / privacy.noise_multiplier)
    first = math.exp(min(privacy.epsilon, 700.0)) * wrong + privacy.delta
    second = 1 - math.exp(-privacy.epsilon) * (1 - privacy.delta - wrong)
    return min(first, second, 1.0)


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


def checklist(result: Result) -> list[tuple[str, str]]:
    """Items that reporting guidelines (CLAIM, TRIPOD+AI) ask for; an empty answer is left to the authors."""
    patients = result.federated.figures.get("patients")
    kinds = (
        "made-up images (phantoms)" if result.data == "phantom" else "images of the hospitals' own patients"
    )
    dp = result.privacy
    return [
        ("Data source", f"{kinds}; {len(result.hospitals)} hospitals; {result.profile} images"),
        ("Test patients", f"{patients:.0f}, never used in training" if patients is not None else ""),
        (
            "Model",
            f"{result.model}, {result.parameters:,} parameters, {short_hash(result.federated.model)}…",
        ),
        ("Software", f"MedVeil {result.medveil}"),
        (
            "Privacy",
            "none"
            if dp.kind == "none"
            else f"differential privacy per patient, epsilon {dp.epsilon:g}, delta {plain(dp.delta or 0)}",
        ),
        ("Intended use", ""),
        ("Reference standard: who labelled, how reliably", ""),
        ("Who is in the data: age, sex, scanners, years; who was left out", ""),
        ("Figures per subgroup (age, sex, scanner)", ""),
        ("External validation at a hospital outside this study", ""),
        ("Failures looked at by a doctor", ""),
        ("Ethics approval, availability of data and code", ""),
    ]
