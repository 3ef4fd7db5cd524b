"""How much less noise an AUROC has whose histograms are sent as blends, and how the blends were chosen.

Run: python tests/benchmarks/blends.py [--write PAGE]

Worked out, not drawn: the deviation by the noise, to second order, of an AUROC of made-up scores in all
settings of intervals.py at epsilon 3 and 1, blended over cell by cell. No patient is looked at.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import numpy as np
from intervals import AREAS, NUMBERS, SHAPES, Shape, cells, noise_of

from medveil import blending
from medveil.tasks.classification import NOISED_BINS, NOISED_EDGES
from results_page import put_section
from rows import Row, publish

SHARES, POWERS, STRONG = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4), (0.8, 1.0, 1.2, 1.6), (3.0, 1.0)
SINGLE = np.eye(NOISED_BINS)
WINS = np.tril(np.ones_like(SINGLE), -1) + SINGLE / 2


def deviations(shape: Shape, noise: blending.Cells) -> list[float]:
    """Of the AUROC, in every setting; ``noise``: covariance in the cells at a multiplier of 1."""
    found = []
    both = float(np.trace(noise @ WINS @ noise @ WINS.T))
    for area in AREAS:
        p, q = cells(area, shape, NOISED_EDGES)
        exact = p @ WINS @ q
        h, g = WINS @ q - exact, WINS.T @ p - exact
        for patients in NUMBERS:
            there, without = patients * shape.prevalence, patients * (1 - shape.prevalence)
            for s in (noise_of(e, kind) for e in STRONG for kind in ("local", "joint")):
                one, other = s**2 * (h @ noise @ h) / there**2, s**2 * (g @ noise @ g) / without**2
                found.append(math.sqrt(one + other + s**4 * both / (there * without) ** 2))
    return found


def gains(noise: blending.Cells, shapes: list[Shape]) -> tuple[float, float, float]:
    """Least, geometric mean and largest of blended over cell by cell."""
    over = [
        now / before
        for shape in shapes
        for now, before in zip(deviations(shape, noise), deviations(shape, SINGLE), strict=True)
    ]
    return min(over), math.exp(float(np.mean(np.log(over)))), max(over)


def noise_with(together: float, power: float) -> blending.Cells:
    """Covariance if the constant had this share, and a wave k the weight (2k + 1)^-power."""
    odd, place = np.arange(1, NOISED_BINS, 2), np.arange(NOISED_BINS)
    weights = odd**-power / (odd**-power).sum()
    waves = np.cos(np.pi / NOISED_BINS * np.multiply.outer(place, odd)) @ weights
    row = together + (1 - together) * waves
    return np.asarray(np.linalg.inv(row[np.abs(np.subtract.outer(place, place))]))


def page(found: dict[str, tuple[float, float, float]], tried: dict[tuple[float, float], float]) -> str:
    """Two tables."""
    lines = [
        "Written by `tests/benchmarks/blends.py --write PAGE`: the deviation of a released AUROC by noise,",
        f"blended over cell by cell, worked out for made-up scores (AUROC {', '.join(map(str, AREAS))};",
        f"{', '.join(map(str, NUMBERS))} patients; epsilon 3 and 1, local and joint, four hospitals).",
        "",
        "| scores | least | mean | most |",
        "|---|---|---|---|",
        *(f"| {said} | {low:.2f} | {mean:.2f} | {high:.2f} |" for said, (low, mean, high) in found.items()),
        "",
        "Means with another share of the constant (rows), and waves with weights (2k + 1)^-power (columns):",
        "",
        "| share | " + " | ".join(f"power {power}" for power in POWERS) + " |",
        "|---|" + "---|" * len(POWERS),
    ]
    for share in SHARES:
        lines.append(f"| {share} | " + " | ".join(f"{tried[share, power]:.3f}" for power in POWERS) + " |")
    return "\n".join(lines)


def main() -> None:
    """Work out, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--write", type=Path, help="put the tables into this Markdown page")
    given = parser.parse_args()
    noise, shapes = blending.covariance(NOISED_BINS, blends=True), list(SHAPES.values())
    found = {shape.said: gains(noise, [shape]) for shape in shapes} | {"all": gains(noise, shapes)}
    tried = {(s, p): gains(noise_with(s, p), shapes)[1] for s in SHARES for p in POWERS}
    rows = [Row(f"{said}: blended over cell by cell", mean, "") for said, (_, mean, _) in found.items()]
    publish([*rows, Row("all: the largest", found["all"][2], "", "<= 1.25")], given.json)
    if given.write is not None:
        put_section(given.write, "blends", page(found, tried))


if __name__ == "__main__":
    main()
