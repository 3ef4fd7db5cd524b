"""Errors of a regression as far as its sums tell: on average, and in spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from medveil.look import svg
from medveil.readings import Reading, guess_words, main_words, read, with_unit
from medveil.tasks import TASKS
from medveil_research.results import Result

NAMES = {
    "mae": ("MAE", "how far off on average"),
    "rmse": ("RMSE", "the same, large errors counting more"),
    "bias": ("mean error", "predicted less true: above 0 it says too much"),
    "r2": ("R²", "share of the differences between patients that it explains"),
}
SPREAD = 1.96
"""Standard deviations to either side that hold 95 % of errors, if they are spread as a bell."""


@dataclass(frozen=True)
class Tile:
    """A figure in a frame."""

    name: str
    value: str
    small: str


@dataclass(frozen=True)
class Errors:
    """What the page says of the errors."""

    tiles: tuple[Tile, ...]
    agreement: Markup
    """Where most errors lie; empty if the sums do not tell."""
    words: str
    useless: str
    """What a model would reach that always says the mean."""


def errors(result: Result) -> Errors | None:
    """Of a regression with a final evaluation."""
    if result.task != "regression":
        return None
    figures, task = result.federated.figures, TASKS[result.task]
    found: dict[str, Reading] = {}
    for name in NAMES:
        one = read(figures, name, limits=task.limits(result, name), headline=name == task.headline)
        if one is not None:
            found[name] = one
    if not found:
        return None
    tiles = tuple(_tile(result, name, one) for name, one in found.items())
    value = {name: one.value for name, one in found.items() if one.value is not None}
    if "rmse" not in value or "bias" not in value:
        return Errors(tiles, Markup(), "", "")
    spread = math.sqrt(max(value["rmse"] ** 2 - value["bias"] ** 2, 0.0))
    low, high = value["bias"] - SPREAD * spread, value["bias"] + SPREAD * spread
    unit = task.unit(result, "bias")
    words = (
        f"Of 100 patients about 95 lie between {_signed(low, unit)} and {_signed(high, unit)} of the truth, "
        "if errors are spread as a bell."
    )
    return Errors(tiles, _agreement(low, high, value["bias"], words, unit), words, _useless(value, unit))


def _tile(result: Result, name: str, one: Reading) -> Tile:
    unit = TASKS[result.task].unit(result, name)
    title, meaning = NAMES[name]
    guess = guess_words(one, unit)
    return Tile(title, main_words(one, unit), f"best guess {guess}; {meaning}" if guess else meaning)


def _useless(value: dict[str, float], unit: str) -> str:
    if not value.get("r2", 1.0) < 1.0:
        return ""
    plain = value["rmse"] / math.sqrt(1 - value["r2"])
    return (
        f"A model that always says the mean of all patients would have an RMSE of {with_unit(plain, unit)}."
    )


def _signed(value: float, unit: str) -> str:
    return f"{'−' if value < 0 else '+'}{with_unit(abs(value), unit)}"


def _agreement(low: float, high: float, bias: float, words: str, unit: str) -> Markup:
    reach = 1.15 * max(abs(low), abs(high), 1e-9)

    def x(value: float) -> str:
        return svg.percent((value + reach) / (2 * reach))

    marks = [value for value in svg.ticks(-reach, reach, 5) if abs(value) < 0.97 * reach]
    inside = [
        svg.tag("line", class_="base", x1=0, x2="100%", y1=34, y2=34),
        svg.tag("line", class_="quorum", x1=x(0), x2=x(0), y1=12, y2=56),
        svg.tag("line", class_="accent-line", x1=x(low), x2=x(high), y1=34, y2=34),
        svg.tag("circle", class_="accent", cx=x(bias), cy=34, r=6),
        *(
            svg.text(f"{value:+g}" if value else "right", x=x(value), y=72, text_anchor="middle")
            for value in marks
        ),
    ]
    return svg.drawing(f"Errors{f' in {unit}' if unit else ''}: {words}", 78, *inside)
