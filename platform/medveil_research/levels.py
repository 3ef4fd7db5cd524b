"""What is bought at which epsilon: measured by trainings at several, and computed from the noise alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from medveil.bounds import LARGEST_DELTA
from medveil.errors import BadOption
from medveil.handed import read_json
from medveil.reports import Amount, Count, Finite, Label, Text
from medveil.shown import plain
from medveil.values import Frozen, NoiseKind, PositiveFloat
from privacy.dp import accounting

Interval = tuple[Finite, Finite]
MOST_LEVELS = 8
"""Epsilons that are trained with in one comparison."""
RUNGS = (2.0, 1.0, 0.5, 0.25, 0.125)
"""For which multiples of a study's epsilon is computed what they ask for."""


class Level(Frozen):
    """Federated training with noise at one epsilon, over all seeds."""

    noise: NoiseKind
    epsilon: PositiveFloat
    delta: Amount
    value: Finite
    """Mean over seeds of the figure, exact, on the test patients of all sites."""
    patients: Interval | None = None
    """95 % over patients, of that mean."""
    values: Annotated[tuple[Finite, ...], Field(min_length=1)]
    """Seed by seed."""
    less: Finite | None = None
    """Mean over seeds of what the same training without noise has more or less; None where none was made."""
    less_patients: Interval | None = None
    """95 % over patients of that difference (paired bootstrap)."""
    less_seeds: Interval | None = None
    """95 % over seeds (Student's t of the paired differences)."""
    noise_to_signal: Amount | None = None
    """Computed; see :func:`medveil_research.outlook.noise_to_signal`."""


class Measured(Frozen):
    """A figure over epsilon as a comparison has measured it."""

    figure: Label
    """As people write it."""
    unit: Text = ""
    higher_is_better: bool
    without: Finite | None = None
    """Without noise, mean over seeds."""
    hospitals: Count
    train_patients: Count
    """Of all hospitals together."""
    test_patients: Count
    seeds: Count
    made_up: bool
    """Whether the images were."""
    levels: Annotated[tuple[Level, ...], Field(min_length=1)]

    def of(self, noise: NoiseKind) -> tuple[Level, ...]:
        """Of one kind of noise, the smallest epsilon first."""
        return tuple(sorted((one for one in self.levels if one.noise == noise), key=lambda one: one.epsilon))


class _Comparison(Frozen, extra="ignore"):
    """The part of a comparison's JSON that a study's report shows."""

    measured: Measured


def read_measured(path: Path) -> Measured:
    """Of ``comparison.json`` of ``medveil research compare --epsilons``.

    Raises: BadFile: it cannot be read, or that comparison had one epsilon only.
    """
    return read_json(path, _Comparison).measured


def epsilons_of(text: str | None) -> tuple[float, ...]:
    """Epsilons written like ``8,3,1``; none without. Raises: BadOption."""
    if text is None:
        return ()
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    usable = all(0.01 <= one <= 1000 for one in found) and len(set(found)) == len(found)
    if not (usable and 1 < len(found) <= MOST_LEVELS):
        shown = plain(text, 60)
        wanted = f"two to {MOST_LEVELS} different numbers from 0.01 on, like 8,3,1"
        raise BadOption(problem=f"--epsilons: '{shown}' is not {wanted}")
    return found


@dataclass(frozen=True)
class Rung:
    """What one epsilon asks for, computed."""

    epsilon: float
    factor: float
    """So many times the training patients keep noise over signal as it is in the study."""
    patients: int | None
    """At each hospital; None where it is not known how many a hospital has."""
    noise_to_signal: float | None
    """With the patients that there are."""


def ladder(
    epsilon: float,
    delta: float,
    *,
    sample_rate: float = 1.0,
    steps: int = 1,
    patients: int | None = None,
    ratio: float | None = None,
    rungs: Sequence[float] = RUNGS,
) -> tuple[Rung, ...]:
    """For the same schedule at other epsilons: noise, and the patients that make up for it.

    Noise over signal is sqrt(d) sigma / (q sqrt(T) N): with all else equal it goes with sigma, the noise
    multiplier, and against N, the patients. So sigma's ratio is the ratio of patients.

    Args:
        patients: of a typical hospital. ratio: the study's own noise over signal.
    """
    if not 0 < delta <= LARGEST_DELTA:
        return ()
    # Unsampled steps are one Gaussian, so any number gives the same ratios; sigma is rounded, so a large one.
    count = 10_000 if sample_rate == 1 else steps

    def sigma(at: float) -> float:
        return accounting.calibrate(at, delta, sample_rate=sample_rate, steps=count)

    own, found = sigma(epsilon), []
    for rung in rungs:
        factor = sigma(epsilon * rung) / own if rung != 1 else 1.0
        found.append(
            Rung(
                epsilon=epsilon * rung,
                factor=factor,
                patients=None if patients is None else max(1, round(patients * factor)),
                noise_to_signal=None if ratio is None else ratio * factor,
            )
        )
    return tuple(found)


def noise_share(ratio: float) -> float:
    """Share of a finished model's squared length that is noise, at least.

    Exact if every patient moved each step by the whole clip and all in one direction, which is the most
    signal there can be; patients who agree less, or move it less, leave less beside the same noise.
    """
    return ratio**2 / (1 + ratio**2)
