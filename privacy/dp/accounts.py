"""Who pays for which rows of a ledger: patients who took part in the same releases share one account.

A row names its patients: the digest of a cohort, or, in rows from before there were cohorts, the name that
the hospital gave to its data set. Which patients a cohort holds, and in which split, only the hospital knows;
here it is a mapping from keyed ids. A patient pays for every cohort that the patient is in, whatever the data
set or the study is called, so the budget of a cohort is that of the patient who has spent most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from privacy.dp.policy import Split

Account = frozenset[tuple[str, Split]]
"""The rows that a group of patients pays for, by whom they name and for which split."""
EVERYBODY = "*"
"""In place of a cohort's digest: patients who are no longer known, so that everybody pays."""


def named(dataset: str) -> frozenset[Account]:
    """The accounts of patients of whom no more is known than this one name: one for each split."""
    return frozenset(frozenset({(dataset, split)}) for split in Split)


def accounts(
    shares: Iterable[Mapping[str, Account]], *, patients: Iterable[str] | None = None, all_pay: Iterable[str]
) -> frozenset[Account]:
    """The accounts of patients: of :func:`paid_by` each once, however many share it; one at least."""
    rows = list(all_pay)
    paid = paid_by(shares, patients=patients, all_pay=rows)
    return frozenset(paid.values()) or frozenset({_of_all(rows)})


def paid_by(
    shares: Iterable[Mapping[str, Account]], *, patients: Iterable[str] | None = None, all_pay: Iterable[str]
) -> dict[str, Account]:
    """Id → the account of the patient.

    Args:
        shares: for each cohort: id → what the patient of this id pays for by being in it.
        patients: ids whose accounts are wanted; everybody's if left out.
        all_pay: names of rows that every patient pays for, in every split.
    """
    common = _of_all(all_pay)
    wanted = None if patients is None else set(patients)
    paid: dict[str, set[tuple[str, Split]]] = defaultdict(lambda: set(common))
    for share in shares:
        for patient, account in share.items():
            if wanted is None or patient in wanted:
                paid[patient] |= account
    return {patient: frozenset(account) for patient, account in paid.items()}


def _of_all(names: Iterable[str]) -> Account:
    return frozenset((name, split) for name in names for split in Split)
