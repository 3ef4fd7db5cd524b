"""Figures as people read them: the interval first, and no figure without a word of how sure it is.

A page, a table and a command read the named figures of a study through :func:`read` and write what
:func:`interval_words` says, so a figure looks the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from medveil.groups import figure_and_part
from medveil.intervals import Z

UNDETERMINED = "not determined: too few patients for this noise"
ENGLISH = {
    "undetermined": UNDETERMINED,
    "above": "above {end}",
    "below": "below {end}",
    "between": "{low} to {high}",
    "noise-alone": "{main}, by the noise alone",
    "guess": "{main} (best guess {guess})",
}
CHINESE = {
    "undetermined": "无法确定：患者太少，被噪声淹没",
    "above": "高于 {end}",
    "below": "低于 {end}",
    "between": "{low} 至 {high}",
    "noise-alone": "{main}（仅计噪声）",
    "guess": "{main}（最佳估计 {guess}）",
}
"""The forms in which :func:`interval_words` writes a figure."""
ENDINGS = ("undetermined", "noise_low", "noise_high", "uncut", "low", "high")
"""What may stand behind a figure's name; see :func:`medveil.metrics.summarise`."""

Interval = tuple[float, float]
Limits = tuple[float, float]
ANY: Limits = (-math.inf, math.inf)


@dataclass(frozen=True)
class Reading:
    """A figure and what is known of its error."""

    value: float | None
    """Within its range; None where the noise drowns it."""
    both: Interval | None = None
    """95 %: where it would be without noise, of other patients of the same kind."""
    noise: Interval | None = None
    """95 %: where it would be without noise, of the same patients."""
    uncut: float | None = None
    """Before it was cut to its range; None for a figure without noise."""

    @property
    def interval(self) -> Interval | None:
        """The one to show: that which counts the patients, if it is known."""
        return self.both or self.noise

    def over_patients(self, interval: Interval | None) -> Reading:
        """The same with the interval of a bootstrap over patients, unless all draws were alike.

        Where nobody was misjudged they are, and tell nothing of other patients.
        """
        return self if interval is None or interval[0] == interval[1] else replace(self, both=interval)

    @property
    def by_noise_alone(self) -> bool:
        """Whether the interval to show says nothing of the patients."""
        return self.both is None and self.noise is not None

    @property
    def at_top(self) -> bool:
        """Whether nothing above the figure is left; then only its lower end tells something."""
        return self._ends(above=True)

    @property
    def at_bottom(self) -> bool:
        """The same of below."""
        return self._ends(above=False)

    def _ends(self, *, above: bool) -> bool:
        """Whether the figure lies at an end of its interval because its range ends there.

        A bootstrap's interval may end at the figure, or short of it, in the middle of the range.
        """
        if self.value is None or self.interval is None or (self.uncut is None and self.value not in (0, 1)):
            return False
        return self.value >= self.interval[1] if above else self.value <= self.interval[0]


def named(figure: str, ending: str) -> str:
    """The name of what is told beside one: ``auroc_low`` of ``auroc``, ``auroc_low/a@sex=F`` of
    ``auroc/a@sex=F``."""
    own, group = figure_and_part(figure)
    head, slash, part = own.partition("/")
    return f"{head}_{ending}{slash}{part}{group}"


def is_figure(name: str) -> bool:
    """Whether a name stands for a figure, and not for an end, a mark or the noise of another."""
    own, _ = figure_and_part(name)
    return own != "noise" and not own.partition("/")[0].endswith(tuple(f"_{end}" for end in ENDINGS))


def read(
    figures: Mapping[str, float], name: str, *, limits: Limits = ANY, headline: bool = False
) -> Reading | None:
    """A figure out of named ones; None if it is not there, for it lacks cases.

    Args:
        limits: between what it lies; for figures of earlier versions, which have ``noise`` and no interval.
        headline: whether it is the study's headline, to which ``noise`` belongs.
    """
    value = figures.get(name)
    if value is None:
        return Reading(None) if named(name, "undetermined") in figures else None
    both, noise = _interval(figures, name, ""), _interval(figures, name, "noise_")
    if noise is None and headline and "noise" in figures:
        arm = Z * figures["noise"]
        noise = max(value - arm, limits[0]), min(value + arm, limits[1])
    return Reading(value, both, noise, figures.get(named(name, "uncut")))


def interval_words(reading: Reading | None, unit: str = "", forms: Mapping[str, str] = ENGLISH) -> str:
    """A figure as people read it.

    ``0.883 to 0.979 (best guess 0.939)``; ``above 0.880`` where the best guess is the end of the range;
    without a known interval the value; empty for None.
    """
    if reading is None:
        return ""
    guess = guess_words(reading, unit)
    main = main_words(reading, unit, forms)
    if reading.by_noise_alone:
        main = forms["noise-alone"].format(main=main)
    return forms["guess"].format(main=main, guess=guess) if guess else main


def cell_words(reading: Reading | None, unit: str = "") -> str:
    """The same for a narrow column: ``0.883 to 0.979 (0.939)``, ``above 0.880``, ``not determined``."""
    if reading is None:
        return ""
    if reading.value is None:
        return UNDETERMINED.partition(":")[0]
    guess = guess_words(reading, unit)
    bare = guess.removesuffix(unit).rstrip() if unit else guess
    return main_words(reading, unit) + (f" ({bare})" if bare else "")


def interval_meaning(reading: Reading, *, noised: bool = True) -> str:
    """What the interval of a reading says, after it; empty where there is none.

    Args:
        noised: whether the figure has noise.
    """
    if reading.interval is None:
        return ""
    if reading.by_noise_alone:
        return "95 % interval by the noise alone"
    return f"95 % interval by {'the noise and ' if noised else ''}the choice of test patients"


def explained(readings: Iterable[Reading | None], *, noised: bool) -> list[str]:
    """What stands under a table of :func:`cell_words`: what its intervals mean, and what is missing."""
    known = [reading for reading in readings if reading is not None]
    meanings = {interval_meaning(reading, noised=noised) for reading in known} - {""}
    lines = [f"{meaning}; in brackets the best guess" for meaning in sorted(meanings)]
    return lines + ([UNDETERMINED] if any(reading.value is None for reading in known) else [])


def main_words(reading: Reading, unit: str = "", forms: Mapping[str, str] = ENGLISH) -> str:
    """The part that stands large: the interval, or where there is none the value."""
    if reading.value is None:
        return forms["undetermined"]
    if reading.interval is None:
        return with_unit(reading.value, unit)
    low, high = reading.interval
    if reading.at_top and reading.at_bottom:
        return with_unit(reading.value, unit)
    if reading.at_top:
        return forms["above"].format(end=_outward(low, unit, math.floor))
    if reading.at_bottom:
        return forms["below"].format(end=_outward(high, unit, math.ceil))
    ends = with_unit(low, unit), with_unit(high, unit)
    low_words = ends[0].removesuffix(unit).rstrip() if unit else ends[0]
    return forms["between"].format(low=low_words, high=ends[1])


def guess_words(reading: Reading, unit: str = "") -> str:
    """The part that stands small: the best guess; empty where the interval says it or nothing does."""
    if reading.value is None or reading.interval is None or reading.at_top or reading.at_bottom:
        return ""
    return with_unit(reading.value, unit)


def with_unit(value: float, unit: str) -> str:
    """A figure as people write it: a share with three digits after the point, a larger number with fewer."""
    digits = _digits(value, unit)
    return f"{value:.{digits}f} {unit}".rstrip()


def _digits(value: float, unit: str) -> int:
    size = math.floor(math.log10(abs(value))) if abs(value) >= 1 else 0
    return max(0, (2 if unit else 3) - size)


def _outward(value: float, unit: str, whole: Callable[[float], int]) -> str:
    """An end that is rounded away from the figure: .9996 is written .999, for 1.000 would say too much."""
    tens = 10 ** _digits(value, unit)
    return with_unit(whole(round(value * tens, 6)) / tens, unit)


def _interval(figures: Mapping[str, float], name: str, kind: str) -> Interval | None:
    low, high = figures.get(named(name, f"{kind}low")), figures.get(named(name, f"{kind}high"))
    return None if low is None or high is None else (low, high)
