"""The parts of a final evaluation: all patients, and each group of them that the study asks for.

One mechanism serves every task: what a task counts of all patients is counted again of each group, under the
same names with the group behind them (``positives/pneumonia@sex=F``). A task never hears of it.

Groups are counted in the final evaluation only (:func:`in_round`): a sum of a training round is kept for the
nodes to check, and its tail with it, so nothing could be left out of it that is too small to be shown.

Proof of the bound. A patient is in at most one group of each column, for :attr:`Patient.groups` maps a column
to one group. What it adds to the part of all is 1 long at most in units of the task's own noise, and so is
what it adds to a group's part; to the others it adds nothing. With C columns the whole is no longer than
sqrt(1 + C), by which :func:`widening` scales the noise of every part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medveil.groups import HOSPITAL, MARK, figure_and_part
from medveil.rounds import RoundKind
from medveil.study import Study
from medveil.tasks import Sums

T = TypeVar("T")
Given = Mapping[str, NDArray[Any]]
ALL = ""
"""The part of all patients."""


def in_round(study: Study, kind: RoundKind) -> Study:
    """The study as a round of this kind counts it: groups and hospitals in the final evaluation only."""
    asked = study.evaluation
    if kind is RoundKind.EVALUATE or not (asked.groups or asked.per_site):
        return study
    plain = asked.model_copy(update={"groups": {}, "per_site": False})
    return study.model_copy(update={"evaluation": plain})


def columns(study: Study) -> dict[str, tuple[str, ...]]:
    """The parts that each column makes, in wire order: the order of a file's lines does not count."""
    declared = study.evaluation.groups
    return {name: tuple(_part(name, group) for group in declared[name].names) for name in sorted(declared)}


def parts(study: Study) -> tuple[str, ...]:
    """All parts in wire order, the part of all first."""
    return (ALL, *(one for each in columns(study).values() for one in each))


def repeated(study: Study, lengths: Mapping[str, T]) -> dict[str, T]:
    """What a task says of each of its sums, said of each part's."""
    return {name + part: value for part in parts(study) for name, value in lengths.items()}


def part_of(sums: Mapping[str, T], part: str) -> dict[str, T]:
    """One part's sums under the task's own names; nothing if that part is not there."""
    if part == ALL:
        return {name: value for name, value in sums.items() if MARK not in name}
    return {name.removesuffix(part): value for name, value in sums.items() if name.endswith(part)}


def placed(study: Study, sums: Sums, groups: Mapping[str, str]) -> Sums:
    """One patient's sums, and once more for each group that the patient is in.

    Args:
        groups: column → the one group of it; columns for which this study asks nothing are passed over.
    """
    found = dict(sums)
    for name in study.evaluation.groups:
        if name in groups:
            found |= {each + _part(name, groups[name]): values for each, values in sums.items()}
    return found


def widening(study: Study) -> float:
    """By how much longer a patient's whole contribution can be than its part of all; see the proof above."""
    return math.sqrt(1 + len(study.evaluation.groups))


def slot(hospital: int | str) -> str:
    """The part of one hospital: by its place in the roster as it travels, by its name as it is published."""
    return _part(HOSPITAL, str(hospital))


def slots(sums: Iterable[str]) -> tuple[str, ...]:
    """The parts of single hospitals that are there, in order."""
    return tuple(dict.fromkeys(n[n.index(MARK) :] for n in sums if slot("") in n))


def on_the_wire(study: Study, lengths: Mapping[str, T], hospitals: int) -> dict[str, T]:
    """What is said of the sums that leave a hospital, said of those that it encodes.

    Where each hospital has a part of its own, there is a slot for each in place of the part of all: a
    hospital fills its own and leaves the others at zero. Their total is the part of all, so a patient counts
    once there as ever, and so does each hospital's noise.

    Args:
        hospitals: in the roster.
    """
    if not study.evaluation.per_site:
        return dict(lengths)
    everybody = part_of(lengths, ALL)
    filled = {n + slot(place): each for place in range(hospitals) for n, each in everybody.items()}
    return filled | {name: each for name, each in lengths.items() if name not in everybody}


def in_slot(study: Study, sums: Given, place: int, hospitals: int) -> dict[str, NDArray[Any]]:
    """One hospital's sums as it encodes them: in its own slot, where the study has such.

    Args:
        place: of the hospital in the roster, from 0. hospitals: in the roster.
    """
    if not study.evaluation.per_site:
        return dict(sums)
    own = part_of(sums, ALL)
    nothing = {name: np.zeros_like(values) for name, values in own.items()}
    filled = {
        name + slot(each): values
        for each in range(hospitals)
        for name, values in (own if each == place else nothing).items()
    }
    return filled | {name: values for name, values in sums.items() if name not in own}


def with_total(study: Study, sums: Sums) -> Sums:
    """Sums from the wire with the part of all, which the hospitals' slots add up to."""
    if not study.evaluation.per_site:
        return sums
    each = [part_of(sums, part) for part in slots(sums)]
    return {name: np.sum([one[name] for one in each], axis=0) for name in each[0]} | sums


def by_name(sums: Sums, names: Sequence[str]) -> Sums:
    """The same with the hospitals' names in place of their places in the roster."""
    known = {slot(place): slot(name) for place, name in enumerate(names)}

    def renamed(name: str) -> str:
        own, part = figure_and_part(name)
        return own + known.get(part, part)

    return {renamed(name): values for name, values in sums.items()}


def _part(column: str, group: str) -> str:
    return f"{MARK}{column}={group}"
