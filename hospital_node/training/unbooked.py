"""Charges without a ledger, for made-up patients only: the self-check's and an audit's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hospital_node.ledger import Charge, Ledger
from medveil.study import Study
from privacy.dp.ledger import Entry, State
from privacy.dp.policy import Split, policy_of, round_event


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
    )
    return Charge(_Book(tell), entry)
