"""The rows of a privacy ledger: what one says, and the hash that ties it to the row before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from medveil.errors import Error
from medveil.ids import canonical, digest
from privacy.dp.accounting import Event
from privacy.dp.policy import Split

GENESIS = "0" * 64


class State(StrEnum):
    """What a row records: a schedule, or where one charge stands."""

    REGISTERED = "registered"
    RESERVED = "reserved"
    RUNNING = "running"
    RELEASED = "released"
    VOID = "void"
    TAKEN = "taken"
    """Another cohort in the place of a schedule's; the event is what is still to be released."""
    MIGRATED = "migrated"
    """What an earlier version kept beside the ledger: ``dataset`` names it."""
    USED = "used"
    """What patients used of a released charge, and of those before it: ``dataset`` names the file."""
    RESTORED = "restored"
    """The owner went on from an older copy; ``round`` counts how often."""


NEXT: dict[State | None, frozenset[State]] = {
    None: frozenset({State.RESERVED}),
    State.RESERVED: frozenset({State.RUNNING, State.VOID}),
    State.RUNNING: frozenset({State.RUNNING, State.RELEASED}),
    State.RELEASED: frozenset(),
    State.VOID: frozenset(),
}
"""A charge may be voided only before its computation began: from then on noise has met data, and it counts.
Running again follows running only where a crash took the first run and all that it made."""
OPEN = frozenset({State.RESERVED, State.RUNNING})
"""Of such a charge nothing has left the hospital."""
PROMISED = frozenset({State.REGISTERED, State.TAKEN})
MARKS = frozenset({State.MIGRATED, State.USED, State.RESTORED})
"""Rows that are neither a schedule nor a charge."""


@dataclass(frozen=True)
class Entry:
    """What one row says.

    ``dataset`` names the patients (:mod:`privacy.dp.accounts`), ``plan`` the plan, ``split`` whose patients
    are meant. ``event`` is what the own noise alone protects. A ``registered`` row has round and attempt 0
    and the event of the whole schedule, or its ``events`` if their noise differs; the rows of a charge have
    that of one round.
    """

    state: State
    dataset: str
    plan: str
    round: int
    attempt: int
    charge: int
    """Which charge of its plan this is, counted from 1; 0 for ``registered``."""
    event: Event
    delta: float
    cap: float
    """The patients' largest epsilon at the time of registration."""
    sharers: int = 1
    """Hospitals whose noise this one counts on, itself included; 1 counts the own noise only."""
    split: Split = Split.TRAIN
    further: tuple[Event, ...] = ()
    """The other events of a schedule whose noise differs from round to round."""
    patient_mu: float | None = None
    """The most that a filter lets through of one patient, by the own noise, over the whole plan."""

    @property
    def events(self) -> tuple[Event, ...]:
        """All of them."""
        return self.event, *self.further

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and for the hash."""
        more: dict[str, Any] = {}
        if self.further:
            more["further"] = [_as_row(event) for event in self.further]
        if self.patient_mu is not None:
            more["patient_mu"] = float(self.patient_mu)
        return {
            "state": self.state.value,
            "dataset": self.dataset,
            "plan": self.plan,
            "round": self.round,
            "attempt": self.attempt,
            "charge": self.charge,
            **_as_row(self.event),
            "delta": float(self.delta),
            "cap": float(self.cap),
            "sharers": self.sharers,
            "split": self.split.value,
            **more,
        }


def _as_row(event: Event) -> dict[str, Any]:
    return {
        "noise_multiplier": float(event.noise_multiplier),
        "sample_rate": float(event.sample_rate),
        "steps": event.steps,
    }


def _from_row(given: dict[str, Any]) -> Event:
    return Event(
        float(given.pop("noise_multiplier")), float(given.pop("sample_rate")), int(given.pop("steps"))
    )


@dataclass(frozen=True)
class Row:
    """An entry, its number (from 1), the hash of the row before it and its own hash."""

    number: int
    previous: str
    entry: Entry
    hash: str
    salt: str = ""
    """Random, so that two ledgers of the same events are not taken for one. Rows of version 0.1 have none."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        frame = {"number": self.number, "previous": self.previous, "hash": self.hash, "unit": "patient"}
        return frame | ({"salt": self.salt} if self.salt else {}) | self.entry.as_dict()


class LedgerDamaged(Error):
    """The ledger is not the one that was written."""

    code = "ledger-damaged"

    def __init__(self, *, row: int, problem: str) -> None:
        super().__init__(
            what=f"Row {row} of the privacy ledger is wrong: {problem}.",
            meaning="What patients have spent can no longer be known, so nothing more is released.",
            remedy="Restore the newest backup of ledger.jsonl. It lacks what came later: lower epsilon_cap "
            "by the epsilon of every study that ran since.",
        )
        self.row = row


def mark(state: State, *, name: str = "", count: int = 0) -> Entry:
    """The entry of a row that is neither a schedule nor a charge."""
    return Entry(state, name, "", count, 0, 0, Event(1.0, 1.0, 0), 0.0, 0.0)


def promise(
    dataset: str,
    plan: str,
    split: Split,
    events: Sequence[Event],
    *,
    delta: float,
    cap: float,
    sharers: int = 1,
    patient_mu: float | None = None,
) -> Entry:
    """The entry of a ``registered`` row: a plan's whole schedule for the patients of a split."""
    event, *further = events
    return Entry(
        state=State.REGISTERED,
        dataset=dataset,
        plan=plan,
        round=0,
        attempt=0,
        charge=0,
        event=event,
        delta=delta,
        cap=cap,
        sharers=sharers,
        split=split,
        further=tuple(further),
        patient_mu=patient_mu,
    )


def parse_row(value: Any, *, number: int) -> Row:
    """A row from its JSON form (LedgerDamaged, naming row ``number``, if it is not one)."""
    try:
        given = dict(value)
        event = _from_row(given)
        further = tuple(_from_row(dict(one)) for one in given.pop("further", ()))
        frame = {name: given.pop(name) for name in ("number", "previous", "hash", "unit")}
        salt = str(given.pop("salt", ""))
        words = {"state": State(given["state"]), "split": Split(given["split"])}
        entry = Entry(event=event, further=further, **(given | words))
        row = Row(int(frame["number"]), str(frame["previous"]), entry, str(frame["hash"]), salt)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise LedgerDamaged(row=number, problem="it is not a row of a ledger") from error
    if row.as_dict() != value:
        raise LedgerDamaged(row=number, problem="a field has the wrong type")
    return row


def sealed(before: Row | None, entry: Entry, salt: str = "") -> Row:
    """The row that follows ``before``."""
    number, previous = (1, GENESIS) if before is None else (before.number + 1, before.hash)
    told = [number, previous, "patient", entry.as_dict(), *([salt] if salt else [])]
    return Row(number, previous, entry, digest("privacy-ledger-row", canonical(told)).hex(), salt)
