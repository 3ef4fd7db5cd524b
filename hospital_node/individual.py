"""What each patient has really used of plans with a filter: kept beside the ledger, and never shown.

A ledger row charges a round in full before it is computed. When the round's outcome is on stable storage and
its charge is marked as released, a file says what each patient has used of the plan so far, and a row names
the file by its hash. A crash in between, a run that failed, a file that is gone or altered: what no file says
counts in full, as far as a patient's budget goes.

The file is about single patients, without noise, under the keyed ids of the cohorts. It is the hospital's
own: it is in no message, log, metric or page, and no number made of it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hospital_node.cohort import is_cohort
from hospital_node.ledger import Charge, Ledger
from medveil.files import replace_durably
from privacy.dp.accounting import mu_squared
from privacy.dp.accounts import Account
from privacy.dp.individual import (
    PatientFilter,
    beside,
    files,
    left_of_cap,
    reserve,
    unsettled,
)
from privacy.dp.ledger import registered
from privacy.dp.policy import Split
from privacy.dp.rows import Entry, Row

FORMAT = "medveil use 1"
PREFIX = "use:"
"""What the name of a file begins with in the ledger."""


class Filters:
    """The filters of one hospital's patients, from its ledger and the files beside it.

    Args:
        folder: of the files; readable by the owner only.
    """

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self._ledger, self._folder = ledger, folder

    def of(self, charge: Charge, payers: Mapping[str, str], *, delta: float = 1.0) -> PatientFilter | None:
        """What a charged round may use of each patient; None if its plan has no filter.

        Args:
            payers: patient, as the round calls it → what pays, as the cohort calls it.
            delta: the largest at which the hospital counts.
        """
        if charge.entry.patient_mu is None:
            return None
        return PatientFilter(self._rooms(charge.entry, payers.values(), delta), payers)

    def settle(self, charge: Charge, used: PatientFilter | None) -> None:
        """Count what a released round used in place of all of it; on stable storage when this returns.

        Call it when the charge is marked as released, so when the round's outcome is kept: not before.
        """
        rows, entry = self._ledger.rows(), charge.entry
        if used is None or _settled(rows, entry):
            return
        before = self._use(entry, beside=entry.charge)
        found = {payer: before.of(payer) for payer in before.known}
        for payer, more in used.used.items():
            found[payer] = min(before.of(payer) + more, before.most)
        content = {"format": FORMAT, "plan": entry.plan, "charge": entry.charge, "used": found}
        data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        name = hashlib.sha256(data).hexdigest()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_durably(self._folder / f"{name}.json", data, private=True)
        self._ledger.note_used(charge, PREFIX + name)
        self._tidy()

    def _rooms(self, entry: Entry, payers: Iterable[str], delta: float) -> dict[str, float]:
        """By payer, what is left of the plan's budget and of the cap, as mu squared by the own noise."""
        rows, accounts = self._ledger.rows(), self._accounts(entry, payers)
        if _settled(rows, entry):  # it counts in full already, and what it may use more is nothing
            return dict.fromkeys(accounts, 0.0)
        own = self._use(entry, beside=entry.charge)
        caps: dict[Account, float] = {}
        others: dict[Account, list[tuple[_Use, int]]] = {}
        for account in set(accounts.values()):
            caps[account] = left_of_cap(rows, account, delta=delta)
            plans = beside(rows, account, entry.plan).values()
            others[account] = [(self._use(e), e.sharers) for e in plans]
        found = {}
        for payer, account in accounts.items():
            elsewhere = sum(use.of(payer) / sharers for use, sharers in others[account])
            most = min(own.most, (caps[account] - elsewhere) * entry.sharers)
            found[payer] = most - own.of(payer)
        return found

    def _accounts(self, entry: Entry, payers: Iterable[str]) -> dict[str, Account]:
        if is_cohort(entry.dataset):
            return self._ledger.paid_by(payers)
        return dict.fromkeys(payers, frozenset({(entry.dataset, Split.TRAIN)}))

    def _use(self, entry: Entry, *, beside: int = 0) -> _Use:
        """What is known of a plan's use. Args: beside: a charge that is not counted."""
        rows = self._ledger.rows()
        schedule, newest = registered(rows, entry.plan, Split.TRAIN), files(rows).get(entry.plan)
        known = None if newest is None else self._read(newest)
        since = 0 if newest is None or known is None else newest.charge
        return _Use(
            known=known or {},
            nobody=reserve(() if schedule is None else schedule.events),
            unsettled=mu_squared(unsettled(rows, entry.plan, since=since, beside=beside)),
            most=(entry.patient_mu or 0.0) ** 2,
        )

    def _read(self, entry: Entry) -> dict[str, float] | None:
        """What a file says; None if it is not there, or not what was written."""
        name = entry.dataset.removeprefix(PREFIX)
        try:
            data = (self._folder / f"{name}.json").read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != name:
            return None
        return {str(payer): float(used) for payer, used in json.loads(data)["used"].items()}

    def _tidy(self) -> None:
        """Remove files that no row speaks of any more."""
        named = {e.dataset.removeprefix(PREFIX) for e in files(self._ledger.rows()).values()}
        for path in self._folder.glob("*.json"):
            if path.stem not in named:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Use:
    """mu squared by the own noise that patients have used of a plan."""

    known: Mapping[str, float] = field(repr=False)
    """By payer, as a file says it."""
    nobody: float
    """Of whoever is in no file yet."""
    unsettled: float
    """What charges since may have used."""
    most: float

    def of(self, payer: str) -> float:
        """More than the plan's budget no filter has let through."""
        return min(self.known.get(payer, self.nobody) + self.unsettled, self.most)


def _settled(rows: Sequence[Row], entry: Entry) -> bool:
    """Whether a file says what a charge, or a later one of its plan, has used."""
    newest = files(rows).get(entry.plan)
    return newest is not None and newest.charge >= entry.charge
