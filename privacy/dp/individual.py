"""What each patient really gives, and a filter that stops each at a budget of its own.

A step adds Gaussian noise of sigma C to a sum to which no patient adds more than the norm C. Who adds a
shorter gradient c gives less: the step is a release of mu = c / (sigma C) for this patient. A filter keeps,
for each patient, the sum of mu squared over the steps, and lets a patient add no more than what is left of a
budget fixed before the first step: the gradient is cut to what is left, in the end to nothing. What a patient
may add follows from that patient's own data and from what was released before, never from other patients, so
the whole is mu-Gaussian differentially private with mu squared the budget, however long it runs; the proof is
in docs/decisions/0065-a-filter-for-each-patient.md.

What is kept here is about single patients and hidden by no noise. It never leaves the hospital, is logged
nowhere, and nothing that others see may depend on it but the noisy sums themselves: not who takes part, what
a sum is divided by, how long a step takes, or whether a study is admitted.

Source: Feldman and Zrnic, "Individual privacy accounting via a Renyi filter", NeurIPS 2021; for mu Koskela,
Tobaben and Honkela, "Individual privacy accounting with Gaussian differential privacy", ICLR 2023; Smith and
Thakurta, "Fully adaptive composition for Gaussian differential privacy", 2022.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medveil.errors import Error
from privacy.dp.accounting import Event, largest_mu, mu_squared
from privacy.dp.accounts import Account
from privacy.dp.ledger import strictest_delta
from privacy.dp.policy import Split
from privacy.dp.prices import charges, events_of, schedules
from privacy.dp.rows import PROMISED, Entry, Row, State

SLACK = 1e-3
"""Of the clipping norm, and of a share itself: what rounding may add to a patient's share of a sum."""
LEAST = 0.05
"""Shares of the clipping norm below this are not worth a step: the patient has given all."""
Float64 = NDArray[np.float64]


class FilterPassed(Error):
    """A step added more of a patient than its filter allowed."""

    code = "filter-passed"

    def __init__(self) -> None:
        super().__init__(
            what="A step would have added more of a patient than was left of its budget.",
            meaning="The round was ended before its noise was drawn; it stays charged in full.",
            remedy="This is a fault of the program; report it.",
        )


class PatientFilter:
    """The patients of one hospital in one round: what is left of each budget, and what the round used.

    Args:
        rooms: by payer, the mu squared that the round may use, by the hospital's own noise. Those whose
            budget is used up are there with 0 or less: they take part like all others, and add nothing.
        payers: patient → what pays; None: each one pays by itself. If k share a budget, their gradients may
            point one way, and (c1 + ... + ck)^2 is at most k times the sum of the squares: each may use
            1 / k^2 of it.
    """

    def __init__(self, rooms: Mapping[str, float], payers: Mapping[str, str] | None = None) -> None:
        self._payers = {name: name for name in rooms} if payers is None else dict(payers)
        self._sharing = Counter(self._payers.values())
        self._places = {name: place for place, name in enumerate(self._payers)}
        each = [max(0.0, rooms[payer]) / self._sharing[payer] ** 2 for payer in self._payers.values()]
        self._left: Float64 = np.array(each, np.float64)
        self._used: Float64 = np.zeros(len(each))

    def shares(self, patients: Sequence[str], noise_multiplier: float) -> Float64:
        """How long each one's gradient may be in the step to come, in clipping norms: (P,), in [0, 1].

        Args:
            noise_multiplier: of the step, by the hospital's own noise, in clipping norms.
        """
        room = noise_multiplier * np.sqrt(self._left[self._at(patients)])
        return np.where(room >= 1, 1.0, _worth_it((room - SLACK) / (1 + SLACK)))

    def book(self, patients: Sequence[str], shares: Float64, noise_multiplier: float) -> None:
        """Take what each one has added, in clipping norms, from what is left of the budget.

        Guarantees: the price of what was added, rounding included; nothing for a share of 0.
        Raises: FilterPassed: a share is longer than :meth:`shares` allowed.
        """
        at = self._at(patients)
        price = (_rounded_up(shares) / noise_multiplier) ** 2
        if np.any(price > self._left[at] * (1 + 1e-9)):
            raise FilterPassed()
        self._left[at] = np.maximum(self._left[at] - price, 0.0)
        self._used[at] += price

    @property
    def used(self) -> dict[str, float]:
        """By payer: mu squared of all steps so far, at most. For the hospital's own ledger only."""
        found = dict.fromkeys(self._sharing, 0.0)
        for patient, payer in self._payers.items():
            found[payer] += self._sharing[payer] * float(self._used[self._places[patient]])
        return found

    def _at(self, patients: Sequence[str]) -> NDArray[np.intp]:
        places = np.array([self._places[name] for name in patients], np.intp)
        if len(np.unique(places)) != len(places):
            raise ValueError("a patient is in a step once")
        return places

    def __repr__(self) -> str:
        return f"PatientFilter({len(self._places)} patients, hidden)"


def _worth_it(shares: Float64) -> Float64:
    return np.where(shares >= LEAST, np.minimum(shares, 1.0), 0.0)


def _rounded_up(shares: Float64) -> Float64:
    """At most 1: more than the norm nobody adds, which the clipping itself sees to."""
    return np.where(shares > 0, np.minimum(1.0, shares * (1 + SLACK) + SLACK), 0.0)


def reserve(schedule: Iterable[Event]) -> float:
    """mu squared that is kept back of each budget: for what rounding may show of a patient who adds nothing,
    in every step of the schedule."""
    return SLACK**2 * mu_squared(schedule)


def unsettled(rows: Sequence[Row], plan: str, *, since: int = 0, beside: int = 0) -> tuple[Event, ...]:
    """What a plan's charges may have used of each patient as far as no file says what they did use.

    Args:
        since: the charge up to which a file says it. beside: a charge that is not counted.
    """
    return tuple(
        event
        for e in charges(rows, plan)
        if e.split is Split.TRAIN and (e.state in PROMISED or (e.charge > since and e.charge != beside))
        for event in e.events
    )


def files(rows: Iterable[Row]) -> dict[str, Entry]:
    """Plan → the newest row that names a file of what was used."""
    return {row.entry.plan: row.entry for row in rows if row.entry.state is State.USED}


def left_of_cap(rows: Sequence[Row], account: Account, *, delta: float) -> float:
    """mu squared that the cap leaves a patient for all plans with a filter together, jointly; below 0: none.

    Args:
        account: what the patient pays for. delta: the largest at which the hospital counts.
    Returns: infinity if a sampled schedule is among it, for then the gate has counted every promise in full.
    """
    mine = [e for e in schedules(rows) if (e.dataset, e.split) in account]
    if any(event.sample_rate < 1 for e in mine for event in e.events):
        return math.inf
    cap = max(e.cap for e in mine)
    plain = events_of([e for e in mine if e.patient_mu is None], [account], joint=True)
    taken = sum(mu_squared(events) for events in plain)
    return largest_mu(cap, strictest_delta(rows, [account], delta)) ** 2 - taken


def beside(rows: Iterable[Row], account: Account, plan: str) -> dict[str, Entry]:
    """The other plans with a filter that a patient pays for: plan → its schedule."""
    found: dict[str, Entry] = {}
    for e in schedules(rows):
        if e.patient_mu is not None and e.plan != plan and (e.dataset, e.split) in account:
            found.setdefault(e.plan, e)
    return found
