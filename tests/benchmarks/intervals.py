"""Do the 95 % intervals of the figures hold? Coverage and width over many draws of noise and of patients.

Run: python tests/benchmarks/intervals.py [--seeds 2000] [--shapes calibrated rare ...] [--write PAGE]

Scores are made up, so the truth is known; sums and figures are the product's own (medveil.metrics.summarise),
as a new study has them: histograms leave as blends of their cells (medveil.blending).
Of the noise alone the truth is the figure of the same patients without noise; of noise and patients together
it is that of all patients there could be, in the same cells. A draw without a figure counts as held.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import numpy as np
from scipy.special import ndtr, ndtri

from medveil.blending import blended
from medveil.histograms import FINEST, WIDEST, auroc
from medveil.metrics import noise_scales, summarise
from medveil.study import Study
from medveil.tasks.classification import NOISED_BINS, NOISED_EDGES
from privacy.dp.accounting import calibrate
from results_page import put_section
from subjects import subject_of
from world import make_study

DELTA, HOSPITALS, TARGET = 1e-5, 4, 0.93
AREAS, NUMBERS, EPSILONS = (0.80, 0.90, 0.95, 0.99), (150, 450, 1500), (8.0, 3.0, 1.0)
KINDS = ("noise_", "")
BINS = 256


@dataclass(frozen=True)
class Shape:
    """How scores lie: log odds that are right at this prevalence, times a factor (above 1: too sure)."""

    said: str
    prevalence: float = 0.5
    factor: float = 1.0


SHAPES = {
    "calibrated": Shape("calibrated, half of the patients positive"),
    "rare": Shape("calibrated, a fifth positive", 0.2),
    "sure": Shape("three in ten positive, log odds 2.5 times too large", 0.3, 2.5),
    "flat": Shape("three in ten positive, log odds 0.4 times as large as they should be", 0.3, 0.4),
}


@dataclass
class Held:
    """What was counted of one interval in one setting."""

    draws: int = 0
    held: int = 0
    missing: int = 0
    width: float = 0.0

    def add(self, figures: dict[str, float], name: str, kind: str, truth: float) -> None:
        """Count one draw; without a figure anything may be."""
        self.draws += 1
        low, high = figures.get(f"{name}_{kind}low", 0.0), figures.get(f"{name}_{kind}high", 1.0)
        self.missing += name not in figures
        self.held += low <= truth <= high
        self.width += high - low

    @property
    def coverage(self) -> float:
        """Share of the draws that held."""
        return self.held / self.draws


def study_of(task: str = "classification", *, noise: bool = True, **changes: Any) -> Study:
    """A study; the multipliers in it are not used, for the noise is drawn here."""
    privacy = {"kind": "none"}
    if noise:
        privacy = {"kind": "local", "clip_norm": 1.0, "noise_multiplier": 5.0, "epsilon": 8.0}
        privacy |= {"evaluation_multiplier": 1.0}
    usual: dict[str, Any] = subject_of(task)
    if task == "classification":
        usual = {"evaluation": {"bins": BINS} | ({"blended": True} if noise else {})}
    return make_study(**(usual | changes), privacy=privacy)


def cells(area: float, shape: Shape, edges: Any) -> tuple[Any, Any]:
    """Chances that a positive's, and a negative's, log odds fall between these edges."""
    apart = math.sqrt(2) * ndtri(area)
    middle = math.log(shape.prevalence / (1 - shape.prevalence))
    sides = []
    for sign in (1, -1):
        below = ndtr((edges / shape.factor - middle - sign * apart**2 / 2) / apart)
        sides.append(np.diff(np.concatenate([[0.0], below, [1.0]])))
    return sides[0], sides[1]


def fine_edges() -> Any:
    """Log odds between the cells of an exact histogram; see medveil.histograms.score_bins."""
    place = np.arange(1, BINS) / BINS * 2 - 1
    return FINEST * np.sinh(place * np.arcsinh(WIDEST / FINEST))


def settings() -> list[tuple[float, int, float, str]]:
    """AUROC, patients, epsilon, and whose noise it is: every hospital's own, or all hospitals' together."""
    kinds = ("local", "joint")
    return [(a, n, e, k) for a in AREAS for n in NUMBERS for e in EPSILONS for k in kinds]


def noise_of(epsilon: float, kind: str) -> float:
    """The multiplier of the noise in the sum of all hospitals."""
    multiplier = calibrate(epsilon, DELTA, sample_rate=1.0, steps=1)
    return multiplier * (math.sqrt(HOSPITALS) if kind == "local" else 1.0)


def areas_of(shape: Shape, seeds: int) -> dict[tuple[float, int, float, str], dict[str, Held]]:
    """Both intervals of AUROC and of accuracy, in every setting."""
    study, found = study_of(), {}
    for number, setting in enumerate(settings()):
        area, patients, epsilon, kind = setting
        noise, random = noise_of(epsilon, kind), np.random.default_rng(number)
        p, q = cells(area, shape, NOISED_EDGES)
        truth, half = auroc(p, q), NOISED_BINS // 2
        right = shape.prevalence * p[half:].sum() + (1 - shape.prevalence) * q[:half].sum()
        held = {f"{name}/{k}": Held() for name in ("auroc", "accuracy") for k in KINDS}
        for _ in range(seeds):
            there = int(random.binomial(patients, shape.prevalence))
            exact = random.multinomial(there, p), random.multinomial(patients - there, q)
            sums = {"positives/abnormal": exact[0], "negatives/abnormal": exact[1]}
            figures = summarise(study, _noised(study, sums, noise, random), noise=noise)
            own = (exact[0][half:].sum() + exact[1][:half].sum()) / patients
            for k, area_truth, right_truth in (("noise_", auroc(*exact), own), ("", truth, right)):
                held[f"auroc/{k}"].add(figures, "auroc", k, area_truth)
                held[f"accuracy/{k}"].add(figures, "accuracy", k, right_truth)
        found[setting] = held
    return found


def exact_ones(shape: Shape, seeds: int) -> dict[tuple[float, int], dict[str, Held]]:
    """The interval of AUROC and accuracy from exact counts: patients alone."""
    study, found, half = study_of(noise=False), {}, BINS // 2
    for number, (area, patients) in enumerate((a, n) for a in AREAS for n in (50, *NUMBERS)):
        random = np.random.default_rng(1000 + number)
        p, q = cells(area, shape, fine_edges())
        truth = auroc(p, q)
        right = shape.prevalence * p[half:].sum() + (1 - shape.prevalence) * q[:half].sum()
        held = {"auroc": Held(), "accuracy": Held()}
        for _ in range(seeds):
            there = int(random.binomial(patients, shape.prevalence))
            exact = random.multinomial(there, p), random.multinomial(patients - there, q)
            hits = exact[0][half:].sum() + exact[1][:half].sum()
            single = {"images": patients, "patients": patients, "loss": 0.0, "correct": hits}
            sums = {name: np.array([float(value)]) for name, value in single.items()}
            sums |= {"positives/abnormal": exact[0] * 1.0, "negatives/abnormal": exact[1] * 1.0}
            figures = summarise(study, sums)
            held["auroc"].add(figures, "auroc", "", truth)
            held["accuracy"].add(figures, "accuracy", "", right)
        found[area, patients] = held
    return found


def others(seeds: int) -> dict[tuple[str, int, float, str], dict[str, Held]]:
    """Means over classes and structures, and the errors of a regression."""
    found = {}
    for number, (patients, epsilon, kind) in enumerate(
        (n, e, k) for n in NUMBERS for e in EPSILONS for k in ("local", "joint")
    ):
        noise, random = noise_of(epsilon, kind), np.random.default_rng(2000 + number)
        for name, draw in OTHERS.items():
            held = {k: Held() for k in KINDS}
            for _ in range(seeds):
                draw(random, patients, noise, held)
            found[name, patients, epsilon, kind] = {k: one for k, one in held.items() if one.draws}
    return found


def _noised(study: Study, exact: dict[str, Any], noise: float, random: np.random.Generator) -> dict[str, Any]:
    """Sums as a study opens them, its histograms as blends of their cells."""
    scales, blends = noise_scales(study), study.evaluation.blended
    sent = {k: blended(v) if blends else v for k, v in exact.items()}
    return {k: v + random.normal(0, noise * scales[k], np.shape(v)) for k, v in sent.items()}


THREE = study_of(classes=("a", "b", "c"))
STRUCTURES = study_of("segmentation", classes=("background", "a", "b", "c"))
NUMBER = study_of("regression")
CLASS_AREAS = {"a": 0.85, "b": 0.9, "c": 0.97}


def _classes(random: np.random.Generator, patients: int, noise: float, held: dict[str, Held]) -> None:
    classes, shape = random.integers(0, 3, patients), Shape("", 1 / 3)
    exact, truths = {}, []
    for number, (name, area) in enumerate(CLASS_AREAS.items()):
        p, q = cells(area, shape, NOISED_EDGES)
        there = int((classes == number).sum())
        exact[f"positives/{name}"] = random.multinomial(there, p)
        exact[f"negatives/{name}"] = random.multinomial(patients - there, q)
        truths.append(auroc(p, q))
    figures = summarise(THREE, _noised(THREE, exact, noise, random), noise=noise)
    own = [auroc(exact[f"positives/{name}"], exact[f"negatives/{name}"]) for name in CLASS_AREAS]
    held["noise_"].add(figures, "auroc", "noise_", float(np.mean(own)))
    held[""].add(figures, "auroc", "", float(np.mean(truths)))


def _dice(random: np.random.Generator, patients: int, noise: float, held: dict[str, Held]) -> None:
    exact, truths = {}, []
    for name in "abc":
        values = random.beta(8, 2, patients)
        exact |= {
            f"dice/{name}": np.array([values.sum() - patients / 2]),
            f"cases/{name}": np.array([patients]),
        }
        truths.append(values.mean())
    figures = summarise(STRUCTURES, _noised(STRUCTURES, exact, noise, random), noise=noise)
    held["noise_"].add(figures, "dice", "noise_", float(np.mean(truths)))


def _error(random: np.random.Generator, patients: int, noise: float, held: dict[str, Held]) -> None:
    width, deviation = 80.0, 0.08
    truth = random.uniform(0.2, 0.8, patients)
    error = random.normal(0, deviation, patients)
    exact = {
        "absolute": np.abs(error).sum() - patients * 0.25,
        "error": error.sum(),
        "squared": (error**2).sum() - patients * 0.125,
        "target": (truth - 0.5).sum(),
        "spread": ((truth - 0.5) ** 2).sum() - patients * 0.125,
        "cases": patients,
    }
    figures = summarise(
        NUMBER, _noised(NUMBER, {k: np.array([v]) for k, v in exact.items()}, noise, random), noise=noise
    )
    shares = {k: v / width for k, v in figures.items()}
    held["noise_"].add(shares, "mae", "noise_", float(np.abs(error).mean()))
    held[""].add(shares, "mae", "", deviation * math.sqrt(2 / math.pi))


OTHERS = {"AUROC, mean of 3 classes": _classes, "Dice, mean of 3": _dice, "MAE": _error}


def ties() -> list[str]:
    """By how much equal cells lower the AUROC of scores that are not equal: a table."""
    lines = ["| scores | " + " | ".join(f"AUROC {area}" for area in AREAS) + " |", "|---|---|---|---|---|"]
    for shape in SHAPES.values():
        lost = (area - auroc(*cells(area, shape, NOISED_EDGES)) for area in AREAS)
        lines.append(f"| {shape.said} | " + " | ".join(f"{value:.4f}" for value in lost) + " |")
    return lines


def milliseconds(classes: int) -> float:
    """Median time of all figures of one noised sum, with their intervals."""
    names = tuple(f"finding {number}" for number in range(classes))
    study = study_of("findings", classes=names) if classes > 1 else study_of()
    random = np.random.default_rng(0)
    p, q = cells(0.9, SHAPES["calibrated"], NOISED_EDGES)
    exact = {k: 400 * (p if k.startswith("positives") else q) for k in noise_scales(study)}
    sums, taken = _noised(study, exact, 1.0, random), []
    for _ in range(300):
        begun = time.perf_counter()
        summarise(study, sums, noise=1.0)
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken)


def grid(found: dict[Any, dict[str, Held]], rows: list[Any], name: str, cell: Any) -> list[str]:
    """A table: a row per leading part of the key, a column per epsilon and kind of noise."""
    columns = [(e, k) for e in EPSILONS for k in ("local", "joint")]
    heads = " | ".join(f"eps {e:g} {k}" for e, k in columns)
    lines = [f"| {name} | {heads} |", "|" + "---|" * (2 + len(columns) - 1)]
    for row in rows:
        own = " | ".join(cell(found[(*row, *column)]) for column in columns)
        lines.append(f"| {', '.join(map(str, row))} | {own} |")
    return lines


def two(one: dict[str, Held], name: str) -> str:
    """Coverage of both intervals in one cell, bold where one is short of the target."""
    shown = [one[f"{name}{k}"] for k in KINDS if f"{name}{k}" in one]
    text = " / ".join(f"{held.coverage:.3f}" for held in shown)
    return f"**{text}**" if min(held.coverage for held in shown) < TARGET else text


def widths(one: dict[str, Held], name: str) -> str:
    """Mean width of both intervals, and how often there was none."""
    both = " / ".join(f"{one[f'{name}{k}'].width / one[f'{name}{k}'].draws:.3f}" for k in KINDS)
    missing = one[f"{name}noise_"].missing / one[f"{name}noise_"].draws
    return both + (f" ({missing:.0%} none)" if missing >= 0.005 else "")


def summary(found: dict[Any, dict[str, Held]], name: str) -> str:
    """Over all settings: least and median coverage, and how many miss the target."""
    parts = []
    for kind, said in zip(KINDS, ("noise alone", "noise and patients"), strict=True):
        all_of = sorted(one[f"{name}{kind}"].coverage for one in found.values())
        short = sum(value < TARGET for value in all_of)
        parts.append(
            f"{said}: {all_of[0]:.3f} to {all_of[-1]:.3f}, median {statistics.median(all_of):.3f}, "
            f"{short} of {len(all_of)} below {TARGET}"
        )
    return "; ".join(parts) + "."


def page(shapes: list[str], seeds: int) -> str:
    """Everything, as Markdown."""
    rows = [(a, n) for a in AREAS for n in NUMBERS]
    lines = [
        "# Do the intervals hold?",
        "",
        f"Written by `tests/benchmarks/intervals.py`, {seeds} draws a setting; standard error "
        f"{math.sqrt(0.95 * 0.05 / seeds):.3f}. Machine: {platform.machine()}, one core.",
        "",
        "Every cell is coverage by the noise alone (truth: the figure of the same patients without noise) /",
        "by noise and patients (truth: that of all patients there could be, in the same 20 cells). A draw",
        f"without a figure counts as held, from 0 to 1. Aim: {TARGET} at least; what falls short is bold.",
        f"Local noise is that of {HOSPITALS} hospitals, delta {DELTA:g}.",
        "",
        f"All figures of a noised sum with both intervals take {milliseconds(1):.2f} ms for one class, "
        f"{milliseconds(14):.2f} ms for 14 findings.",
        "",
        "Not in the intervals: scores in one of the 20 cells count as equal, which lowers the AUROC by this",
        "much (worked out, not drawn):",
        "",
        *ties(),
    ]
    for name in shapes:
        found = areas_of(SHAPES[name], seeds)
        lines += ["", f"## {SHAPES[name].said}", "", "AUROC. " + summary(found, "auroc/"), ""]
        lines += grid(found, rows, "AUROC, patients", lambda one: two(one, "auroc/"))
        lines += [
            "",
            "Accuracy. " + summary(found, "accuracy/"),
            "",
            "Mean width of the intervals of AUROC:",
            "",
        ]
        lines += grid(found, rows, "AUROC, patients", lambda one: widths(one, "auroc/"))
        exact = exact_ones(SHAPES[name], seeds)
        lines += ["", "Without noise, AUROC / accuracy by the patients:", ""]
        lines += [f"| AUROC | {' | '.join(str(n) for n in (50, *NUMBERS))} |", "|---|---|---|---|---|"]
        for area in AREAS:
            cells_of = [exact[area, n] for n in (50, *NUMBERS)]
            told = (f"{one['auroc'].coverage:.3f} / {one['accuracy'].coverage:.3f}" for one in cells_of)
            lines.append(f"| {area} | {' | '.join(told)} |")
    found = others(seeds)
    lines += ["", "## Other figures", ""]
    lines += ["Dice: by the noise alone, for the sums do not tell how patients differ.", ""]
    named = sorted({key[:2] for key in found}, key=lambda key: (key[0], key[1]))
    lines += grid(found, named, "figure, patients", lambda one: two(one, ""))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["calibrated"])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    text = page(options.shapes, options.seeds)
    print(text)
    if options.write:
        put_section(options.write, "intervals", text)


if __name__ == "__main__":
    main()
