"""How the patients of one data set become those of many hospitals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medveil.shown import plain
from medveil_research.simulation.errors import BadSplit, MoreHospitalsThanPatients

Patients = NDArray[np.intp]
"""Places of patients in the data set."""
Kind = Literal["equal", "dirichlet", "shards", "column"]


@dataclass(frozen=True)
class Split:
    """A stated way of dealing patients."""

    kind: Kind
    concentration: float = 0.0
    """Of ``dirichlet``: small is uneven, infinity is equal shares of each label."""
    shards: int = 0
    """Of ``shards``: how many runs of patients sorted by label each hospital gets."""
    column: str = ""
    """Of ``column``: the manifest's column; a hospital has patients of one value only."""

    def __str__(self) -> str:
        value = {"dirichlet": f"{self.concentration:g}", "shards": str(self.shards), "column": self.column}
        return self.kind + (f":{value[self.kind]}" if self.kind in value else "")

    @property
    def by_label(self) -> bool:
        """Whether it looks at what patients are labelled with."""
        return self.kind in ("dirichlet", "shards")


def split_of(text: str) -> Split:
    """A split as it is written: equal, dirichlet:0.5, shards:2, column:site. Raises: BadSplit."""
    kind, colon, value = text.partition(":")
    try:
        match kind, bool(colon):
            case "equal", False:
                return Split("equal")
            case "dirichlet", True if 0.001 <= float(value) <= 1e6:
                return Split("dirichlet", concentration=float(value))
            case "shards", True if 1 <= int(value) <= 1000:
                return Split("shards", shards=int(value))
            case "column", True if value.strip():
                return Split("column", column=value.strip())
    except ValueError as error:
        raise BadSplit(given=plain(text, 60), problem="its number is none") from error
    if kind in ("equal", "dirichlet", "shards", "column"):
        raise BadSplit(given=plain(text, 60), problem="its value is missing or out of range")
    raise BadSplit(given=plain(text, 60), problem="there is no split of that name")


def deal(split: Split, labels: Sequence[str], hospitals: int, *, seed: int) -> list[Patients]:
    """Deal patients to hospitals; each gets one at least, and none is dealt twice.

    Args:
        labels: of each patient what the split looks at: its label, or what the column says; one for each.
    Guarantees: the same for the same seed on every machine.
    Raises: MoreHospitalsThanPatients; BadSplit: fewer hospitals than values of the column.
    Source: Dirichlet over labels: Hsu, Qi, Brown, 2019; shards: McMahan et al., AISTATS 2017.
    """
    if len(labels) < hospitals:
        raise MoreHospitalsThanPatients(hospitals=hospitals, patients=len(labels))
    draw = np.random.default_rng([seed, hospitals])
    if split.kind == "column":
        return _by_value(labels, hospitals, draw)
    order = draw.permutation(len(labels))
    if split.kind == "dirichlet":
        return _filled(_dirichlet(labels, order, hospitals, split.concentration, draw))
    if split.kind == "shards":
        runs = np.array_split(_sorted(labels, order), split.shards * hospitals)
        turn = draw.permutation(len(runs))
        return _filled([np.concatenate([runs[k] for k in turn[i::hospitals]]) for i in range(hospitals)])
    return list(np.array_split(order, hospitals))


def _sorted(labels: Sequence[str], order: Patients) -> Patients:
    """By label; within a label in the drawn order."""
    known = {name: number for number, name in enumerate(sorted(set(labels)))}
    numbers = np.array([known[labels[place]] for place in order])
    return order[np.argsort(numbers, kind="stable")]


def _dirichlet(
    labels: Sequence[str], order: Patients, hospitals: int, concentration: float, draw: np.random.Generator
) -> list[Patients]:
    """Of each label every hospital gets a share that is drawn."""
    parts: list[list[Patients]] = [[] for _ in range(hospitals)]
    for name in sorted(set(labels)):
        those = np.array([place for place in order if labels[place] == name], np.intp)
        shares = draw.gamma(concentration, size=hospitals) + 1e-300
        ends = np.rint(np.cumsum(shares / shares.sum())[:-1] * len(those)).astype(int)
        for hospital, part in enumerate(np.split(those, ends)):
            parts[hospital].append(part)
    return [np.concatenate(part) for part in parts]


def _by_value(labels: Sequence[str], hospitals: int, draw: np.random.Generator) -> list[Patients]:
    """Hospitals are shared out among the column's values by their patients, each value has one at least."""
    counts = Counter(labels)
    if len(counts) > hospitals:
        problem = f"the column has {len(counts)} values, and there are {hospitals} hospitals"
        raise BadSplit(given="column", problem=problem)
    shares = dict.fromkeys(sorted(counts), 1)
    for _ in range(hospitals - len(shares)):
        fullest = max(shares, key=lambda name: (counts[name] / shares[name], name))
        shares[fullest] += 1
    dealt: list[Patients] = []
    for name, parts in shares.items():
        those = np.array([place for place, label in enumerate(labels) if label == name], np.intp)
        dealt += np.array_split(draw.permutation(those), parts)
    return dealt


def _filled(parts: list[Patients]) -> list[Patients]:
    """Whoever has nobody gets a patient of whoever has most."""
    parts = list(parts)
    for place, part in enumerate(parts):
        if not len(part):
            richest = max(range(len(parts)), key=lambda k: len(parts[k]))
            parts[place], parts[richest] = parts[richest][-1:], parts[richest][:-1]
    return parts
