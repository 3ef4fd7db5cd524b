"""Charges without a ledger, for made-up patients only: the self-check's and an audit's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hospital_node.ledger import Charge, Ledger
from medveil.study import Study
from medveil_imaging.patients import Patient
from privacy.dp.individual import PatientFilter, reserve
from privacy.dp.ledger import Entry, State
from privacy.dp.policy import Split, filter_of, policy_of, round_event, study_events


class _Book(Ledger):
    """Tells the moves of a charge, and writes nothing."""

    def __init__(self, tell: Callable[[State], None]) -> None:
        self._tell = tell

    def _move(self, entry: Entry, state: State) -> Entry:
        self._tell(state)
        return replace(entry, state=state)


def unbooked_charge(
    study: Study, *, round_number: int, split: Split, tell: Callable[[State], None] = lambda _: None
) -> Charge:
    """What a ledger would hand out for this round, without one.

    Args:
        tell: hears each state that the charge moves to.
    """
    entry = Entry(
        state=State.RESERVED,
        dataset="made-up",
        plan="made-up",
        round=round_number,
        attempt=1,
        charge=1,
        event=round_event(study, split, round_number),
        delta=policy_of(study).delta,
        cap=1.0,
        sharers=1,
        split=split,
        patient_mu=filter_of(study, split),
    )
    return Charge(_Book(tell), entry)


def unbooked_filter(study: Study, patients: Sequence[Patient]) -> PatientFilter | None:
    """A filter with the whole budget for patients who pay nowhere, for all rounds of a study; None if it has
    none."""
    most = filter_of(study, Split.TRAIN)
    if most is None:
        return None
    room = most**2 - reserve(study_events(study)[Split.TRAIN])
    return PatientFilter({one.patient: room for one in patients})
