"""Numbers as people read them; :mod:`medveil.readings` reads figures of a study, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medveil.groups import UNKNOWN, figure_and_part


def budget_words(ratio: float | None) -> str:
    """What a noise-to-signal ratio promises for the model; thresholds from measured runs."""
    if ratio is None:
        return ""
    if ratio <= 0.3:
        return "fine: the noise is small beside what can be learned"
    if ratio <= 0.5:
        return "usable: the noise costs some accuracy"
    if ratio <= 1:
        return "warning: the noise is a large part of every step; a smaller model would learn more"
    return "hopeless: more noise than signal; take a smaller model, more patients or a larger epsilon"


def in_bytes(count: float) -> str:
    """A byte count for people: 1 kB is 1000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def in_seconds(count: float | None) -> str:
    """A duration for people; empty when unknown."""
    if count is None:
        return ""
    if count < 10:
        return f"{count:.2f} s"
    return f"{count:.0f} s" if count < 120 else f"{count / 60:.1f} min"


def number(value: float | None, digits: int = 3) -> str:
    """A figure with a fixed number of digits; empty when unknown."""
    return "" if value is None else f"{value:.{digits}f}"


def is_count(figure: str) -> bool:
    """Whether a figure counts patients, images or cases."""
    kind = figure_and_part(figure)[0].partition("/")[0]
    return kind in ("patients", "images", "there", "known", "lesions", UNKNOWN)


def plain(value: float) -> str:
    """A small number without an exponent: 0.00001."""
    return np.format_float_positional(value, trim="-")


def short_hash(value: str | None) -> str:
    """The first twelve digits of a hash; empty when there is none."""
    return "" if value is None else value[:12]


def group_lines(columns: int) -> list[str]:
    """What figures of groups cost under noise; nothing without groups."""
    if not columns:
        return []
    by = f"{columns} columns" if columns > 1 else "one column"
    return [
        f"by {by}: for the same price all figures of the final evaluation have "
        f"{math.sqrt(1 + columns):.2f} times",
        "the noise that they have without groups, and a group's stand on fewer patients",
    ]


def mean_words(mean_rounds: int, rounds: int) -> str:
    """What the first rounds of a centred study do, and their price."""
    price = f"for {mean_rounds}/{rounds} of the price"
    if mean_rounds == 1:
        return f"round 1 trains nothing: it releases the noised mean of the features, {price}"
    return f"rounds 1 to {mean_rounds} train nothing: they release the noised mean of the features, {price}"


def filter_words(patient_mu: float) -> list[str]:
    """What a filter for each patient does, in two lines."""
    return [
        "each patient pays what its gradients are long, and adds nothing more when the whole is used up",
        f"(mu {patient_mu:.4g}); the noise is for that, not for gradients that are all as long as the norm",
    ]


SHOWN_ROUNDS = 5
"""Rounds whose noise is printed of a schedule in which it differs."""


def matched_lines(multipliers: Sequence[float], *, mean_rounds: int, gain: float) -> list[str]:
    """The noise of rounds that have their own, in two lines.

    Args:
        multipliers: of each round that trains, in order. gain: by how much less noise the final model has.
    """
    last = len(multipliers) - 1
    places = sorted({round(k * last / (SHOWN_ROUNDS - 1)) for k in range(SHOWN_ROUNDS)})
    shown = ", ".join(f"{mean_rounds + 1 + k}: {multipliers[k]:.4g}" for k in places)
    return [
        f"matched to what a round counts in the final model, whose noise is {gain:.2f} times smaller so;",
        f"by round {shown}",
    ]
