"""Paired statistics: the same patients, drawn alike for every model, and the same seeds.

Two intervals answer two questions. Over patients: would other patients of these hospitals have told the
models apart? Patients are drawn with replacement, with all their images, and every model is judged on the
same draw (Efron, Annals of Statistics 1979), so what they have in common falls out of the difference. Over
seeds: would another start, order of images or noise have? Student's t over the differences seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse
import scipy.stats
from numpy.typing import NDArray

from medveil.metrics import layout
from medveil.study import Study
from medveil.tasks import TASKS, Sums
from medveil_research.evaluate import LEVEL

DRAWS = 500
Float64 = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Judged:
    """Every test patient's contribution under one model, sites one after the other."""

    table: scipy.sparse.csr_matrix = field(repr=False)
    """(patients, numbers of :func:`medveil.metrics.layout`): mostly zeros."""
    counts: tuple[int, ...]
    """Patients of each site."""


def gathered(study: Study, sites: Iterable[Iterable[Sums]]) -> Judged:
    """Patients' contributions, site by site."""
    names, counts = list(layout(study)), list[int]()
    rows: list[scipy.sparse.csr_matrix] = []
    for site in sites:
        before = len(rows)
        rows += [scipy.sparse.csr_matrix(np.concatenate([one[name] for name in names])) for one in site]
        counts.append(len(rows) - before)
    width = sum(layout(study).values())
    table = scipy.sparse.vstack(rows, format="csr") if rows else scipy.sparse.csr_matrix((0, width))
    return Judged(table, tuple(counts))


def figures(study: Study, judged: Judged, site: int | None = None) -> dict[str, float]:
    """Exact figures of one site's test patients, or of all together."""
    table = judged.table
    if site is not None:
        start = sum(judged.counts[:site])
        table = table[start : start + judged.counts[site]]
    return TASKS[study.task].figures(study, _sums(study, np.asarray(table.sum(0)).ravel()))


def draws(patients: int, *, number: int = DRAWS, seed: int = 0) -> Float64:
    """How often each patient is in each draw, (number, patients); equal arguments give equal draws."""
    shares = np.full(patients, 1 / max(1, patients))
    return np.random.default_rng(seed).multinomial(patients, shares, number).astype(np.float64)


def drawn(study: Study, judged: Judged, weights: Float64, figure: str) -> Float64:
    """The figure in each draw, (number,); NaN where it does not exist."""
    totals = np.asarray(weights @ judged.table)
    task = TASKS[study.task]
    values = [task.figures(study, _sums(study, row)).get(figure, math.nan) for row in totals]
    return np.asarray(values, np.float64)


def over_patients(values: Float64) -> Interval | None:
    """95 % percentile interval of the draws; None where fewer than half of them have the figure."""
    known = values[np.isfinite(values)]
    if len(known) < max(2, len(values) / 2):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def over_seeds(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean over seeds; None of one seed."""
    if len(values) < 2:
        return None
    half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * scipy.stats.sem(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def _sums(study: Study, numbers: Float64) -> Sums:
    found, start = {}, 0
    for name, length in layout(study).items():
        found[name] = numbers[start : start + length]
        start += length
    return found
