"""From two histograms of a score to shares at a threshold and curves, each with what is known of its error.

Exact histograms count images, noised ones patients, in few cells. Every share here is a ratio of two counts,
and has the interval of :mod:`medveil.intervals`; where the noise drowns the counts there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medveil import blending, intervals
from medveil.histograms import edges, middles
from medveil.readings import Reading
from medveil.tasks.classification import NOISED_EDGES
from medveil_research.results import Result

Cells = NDArray[np.float64]
Places = NDArray[np.intp]
CLEAR = 3.0
"""Standard deviations of its noise that a group of cases must exceed to be shown in the calibration."""


@dataclass(frozen=True)
class Scores:
    """Of one class: how many cases with and without it got which score."""

    name: str
    positives: Cells
    """Float64, shape (cells,), low scores first; with noise a count may be negative."""
    negatives: Cells
    edges: Cells
    """Log odds between the cells, shape (cells - 1,)."""
    middles: Cells
    """Log odds that stand for each cell."""
    deviation: float = 0.0
    """Standard deviation of the noise in each number as it was sent; 0 for exact counts."""
    images_per_patient: float = 1.0
    blended: bool = False
    """Whether the cells were sent as blends; then the noise of neighbours is not independent."""

    @property
    def probabilities(self) -> Cells:
        """What the model says of the cases in each cell."""
        return np.asarray(1 / (1 + np.exp(-self.middles)))

    @property
    def prevalence(self) -> float:
        """Share of cases with the finding; half where the noise leaves nothing."""
        total = float(self.positives.sum() + self.negatives.sum())
        return min(max(float(self.positives.sum()) / total, 0.0), 1.0) if total > 0 else 0.5

    def threshold(self, cell: int) -> float:
        """The probability from which on a case counts as positive, if it does from this cell on."""
        if not 0 < cell < len(self.positives):
            return 0.0 if cell <= 0 else 1.0
        return float(1 / (1 + math.exp(-self.edges[cell - 1])))

    def cell_at(self, probability: float) -> int:
        """The cell whose lower edge lies nearest to a threshold."""
        log_odds = math.log(probability / (1 - probability))
        return int(np.argmin(np.abs(self.edges - log_odds))) + 1

    def at(self, cell: int) -> Table:
        """The four counts if everything from ``cell`` on is called positive."""
        yes, no = slice(cell, None), slice(None, cell)
        return Table(
            scores=self,
            threshold=self.threshold(cell),
            found=float(self.positives[yes].sum()),
            missed=float(self.positives[no].sum()),
            false=float(self.negatives[yes].sum()),
            clear=float(self.negatives[no].sum()),
            above=np.arange(cell, len(self.positives)),
            below=np.arange(cell),
        )

    def tables(self) -> list[Table]:
        """One for each threshold, from "none is positive" to "all are"."""
        return [self.at(cell) for cell in range(len(self.positives), -1, -1)]

    def common(self, some: Places, others: Places) -> float:
        """Covariance of the noise in two sums over cells of one histogram."""
        shape = blending.covariance(len(self.positives), blends=self.blended)
        return self.deviation**2 * float(shape[np.ix_(some, others)].sum())

    def share(
        self, right: float, wrong: float, cells: tuple[Places, Places], *, one_histogram: bool = False
    ) -> Reading | None:
        """right / (right + wrong), each the sum of these cells; None without cases.

        Args:
            one_histogram: whether both are sums of the same one.
        """
        if self.deviation:
            variances = self.common(cells[0], cells[0]), self.common(cells[1], cells[1])
            common = self.common(*cells) if one_histogram else 0.0
            found = intervals.share(right, wrong, variances, common=common, patients=True)
            return Reading(None) if found is None else reading(found)
        exact = intervals.exact_share(right, right + wrong, self.images_per_patient)
        return None if exact is None else reading(exact)


@dataclass(frozen=True)
class Table:
    """Who is right how often at one threshold."""

    scores: Scores
    threshold: float
    found: float
    missed: float
    false: float
    clear: float
    above: Places
    below: Places
    """The cells on either side of the threshold."""

    @property
    def sensitivity(self) -> Reading | None:
        """Share of the cases with the finding that are found."""
        return self.scores.share(self.found, self.missed, (self.above, self.below), one_histogram=True)

    @property
    def specificity(self) -> Reading | None:
        """Share of the cases without it that are rightly clear."""
        return self.scores.share(self.clear, self.false, (self.below, self.above), one_histogram=True)

    @property
    def precision(self) -> Reading | None:
        """Share of the positive calls that are right."""
        return self.scores.share(self.found, self.false, (self.above, self.above))

    @property
    def negative_value(self) -> Reading | None:
        """Share of the negative calls that are right."""
        return self.scores.share(self.clear, self.missed, (self.below, self.below))

    @property
    def error(self) -> float:
        """By how much noise may move one of the counts, 95 %."""
        return intervals.Z * math.sqrt(max(self.scores.common(c, c) for c in (self.above, self.below)))


@dataclass(frozen=True)
class Group:
    """Cases to which the model gives about the same probability."""

    said: float
    observed: Reading
    cases: float


def scores_of(result: Result) -> list[Scores]:
    """One for each class with a histogram; of noised ones only where the size of their noise is known."""
    sums, found = result.federated.sums, []
    noised = "patients" not in sums
    images, patients = (sum(sums.get(name, ())) for name in ("images", "patients"))
    for name in result.scored_classes:
        positives, negatives = result.histogram(f"positives/{name}"), result.histogram(f"negatives/{name}")
        deviation = result.federated.deviations.get(f"positives/{name}", 0.0)
        if noised and (not deviation or len(positives) != len(NOISED_EDGES) + 1):
            continue
        between = NOISED_EDGES if noised else edges(len(positives))
        found.append(
            Scores(
                name,
                positives,
                negatives,
                edges=between,
                middles=_middles_of(between) if noised else middles(len(positives)),
                deviation=deviation if noised else 0.0,
                images_per_patient=images / patients if patients else 1.0,
                blended=result.federated.blended,
            )
        )
    return found


def reading(found: intervals.Estimate) -> Reading:
    """A share cut to 0 to 1; its arms are not cut, so the interval is never a single point."""
    value = _within(found.value)

    def ends(arms: intervals.Arms) -> tuple[float, float]:
        return _within(value - arms.below), _within(value + arms.above)

    noise = ends(found.noise) if found.deviation else None
    return Reading(
        value,
        None if found.both is None else ends(found.both),
        noise,
        found.value if found.deviation else None,
    )


def calibration(scores: Scores, groups: int = 10) -> list[Group]:
    """Observed frequency in equal groups of predicted probability.

    Neighbours are put together until their cases stand clear of the noise: that depends on the released
    counts only. Cases at the end that do not are left out.
    """
    place = np.minimum((scores.probabilities * groups).astype(int), groups - 1)
    found: list[Group] = []
    waiting: list[int] = []
    for group in range(groups):
        waiting += np.flatnonzero(place == group).tolist()
        there, without = float(scores.positives[waiting].sum()), float(scores.negatives[waiting].sum())
        cases = there + without
        places = np.asarray(waiting, np.intp)
        if cases <= CLEAR * math.sqrt(2 * scores.common(places, places)):
            continue
        observed = scores.share(there, without, (places, places))
        if observed is not None and observed.value is not None:
            weights = np.maximum((scores.positives + scores.negatives)[waiting], 1e-9)
            said = float(np.average(scores.probabilities[waiting], weights=weights))
            found.append(Group(said, observed, cases))
            waiting = []
    return found


def _middles_of(between: Cells) -> Cells:
    """The end cells as wide as their neighbours."""
    width = between[1] - between[0]
    whole = np.concatenate([[between[0] - width], between, [between[-1] + width]])
    return np.asarray((whole[1:] + whole[:-1]) / 2)


def _within(value: float) -> float:
    return min(max(value, 0.0), 1.0)
