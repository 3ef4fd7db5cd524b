"""How sure a mean of a few runs is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from scipy.stats import t as student


def half_interval(values: Sequence[float]) -> float | None:
    """Half the 95 % interval of the mean, by Student's t; None of a single value."""
    count = len(values)
    if count < 2:
        return None
    return float(student.ppf(0.975, count - 1)) * statistics.stdev(values) / count**0.5


def half_interval_apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Half the 95 % interval of the difference of two means of independent runs, as many of each, two at
    least; by Student's t over both scatters."""
    variance = statistics.mean([statistics.variance(one), statistics.variance(other)])
    quantile = float(student.ppf(0.975, len(one) + len(other) - 2))
    return quantile * (variance * (1 / len(one) + 1 / len(other))) ** 0.5
