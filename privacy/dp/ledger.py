"""The privacy ledger: frozen rows in a hash chain, and what they allow.

The model, in five sentences. Before a hospital's first step, a study's *whole* schedule is registered: one
row for each split of the patients that it touches, admitted only if all schedules ever registered for that
split of the data set, composed from their raw events, stay within the cap. Each round then draws one charge
from its schedule, before any noise exists; new noise on the same patients is a new charge. A charge that a
crash has left open is taken up again, for nothing has left the hospital before it is marked as released. A
schedule that is used up gives no more charges, so what is spent never exceeds what was admitted. Nothing is
refunded: a registered schedule counts in full for ever, a charge unless its computation never began.

What the gate guarantees. The total over all studies of a data set is at most (cap, delta) for each patient,
against anybody who sees every release, as long as a patient stays in one split for life. Without sampling
(rate 1) it holds even if later studies are chosen by the results of earlier ones: every event is Gaussian,
and stopping at a total mu is a valid filter (Smith and Thakurta, "Fully adaptive composition for Gaussian
differential privacy", 2022). As soon as a sampled schedule is among them, composing loss distributions is
not a proven filter; the gate then also wants one and the same Renyi order, chosen beforehand, to hold
(Feldman and Zrnic, "Individual privacy accounting via a Renyi filter", 2021).

What it cannot do: whoever may write the file can replace it with an older copy. The chain shows edits, not
a missing tail; keep the last row's hash elsewhere to see that too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from medveil.errors import Error
from medveil.ids import canonical, digest
from privacy.dp import accounting
from privacy.dp.accounting import Event
from privacy.dp.policy import Split, jointly

GENESIS = "0" * 64


class State(StrEnum):
    """What a row records: a schedule, or where one charge stands."""

    REGISTERED = "registered"
    RESERVED = "reserved"
    RUNNING = "running"
    RELEASED = "released"
    VOID = "void"


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


@dataclass(frozen=True)
class Entry:
    """What one row says.

    ``dataset`` names the hospital's data set (unit: the patient), ``plan`` the plan, ``split`` whose patients
    are meant. ``event`` is what the own noise alone protects. A ``registered`` row has round and attempt 0
    and the event of the whole schedule; the rows of a charge have that of one round.
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
    """The data set's largest epsilon at the time of registration."""
    sharers: int = 1
    """Hospitals whose noise this one counts on, itself included; 1 counts the own noise only."""
    split: Split = Split.TRAIN

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and for the hash."""
        event = self.event
        return {
            "state": self.state.value,
            "dataset": self.dataset,
            "plan": self.plan,
            "round": self.round,
            "attempt": self.attempt,
            "charge": self.charge,
            "noise_multiplier": float(event.noise_multiplier),
            "sample_rate": float(event.sample_rate),
            "steps": event.steps,
            "delta": float(self.delta),
            "cap": float(self.cap),
            "sharers": self.sharers,
            "split": self.split.value,
        }


@dataclass(frozen=True)
class Row:
    """An entry, its number (from 1), the hash of the row before it and its own hash."""

    number: int
    previous: str
    entry: Entry
    hash: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "number": self.number,
            "previous": self.previous,
            "hash": self.hash,
            "unit": "patient",
        } | self.entry.as_dict()


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


class BudgetExceeded(Error):
    """A schedule would take a data set's patients over the hospital's cap."""

    code = "budget-exceeded"

    def __init__(self, *, spent: float, asked: float, cap: float) -> None:
        super().__init__(
            what=f"Epsilon {spent:.4g} is taken on this data set; with this schedule it would be "
            f"{asked:.4g}, over the cap of {cap:g}.",
            meaning="The hospital's own limit protects its patients; nothing was computed or released.",
            remedy="Ask for a cheaper study, use other patients, or let the data owner decide on the cap.",
        )
        self.spent, self.asked, self.cap = spent, asked, cap


class ScheduleUsedUp(BudgetExceeded):
    """Every charge of the registered schedule has been drawn (a repeated round takes one, too)."""

    code = "schedule-used-up"

    def __init__(self, *, spent: float, asked: float, cap: float) -> None:
        super().__init__(spent=spent, asked=asked, cap=cap)
        self.what = "Every round that was registered for this plan has been charged."
        self.meaning = "One more would cost more than what was admitted; nothing was computed or released."
        self.remedy = "Let the other hospitals finish the study, or register a plan with more rounds."


class NotRegistered(Error):
    """A charge was asked of a plan whose schedule is not in the ledger."""

    code = "not-registered"

    def __init__(self) -> None:
        super().__init__(
            what="This plan's schedule is not registered in the privacy ledger.",
            meaning="A round can only be charged to a schedule that was admitted in full.",
            remedy="Approve the plan, then run the node: it registers the plan before its first round.",
        )


class BadTransition(Error):
    """A row does not follow from the rows before it."""

    code = "bad-ledger-transition"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The ledger refused a row: {problem}.",
            meaning="Nothing was written; what has been charged stays charged.",
            remedy="This is a fault of the program; report it.",
        )


def append(rows: Sequence[Row], entry: Entry) -> tuple[Row, ...]:
    """The rows with one more (BadTransition if it does not follow)."""
    problem = _Known.of(rows).problem(entry)
    if problem:
        raise BadTransition(problem=problem)
    return (*rows, _sealed(rows[-1] if rows else None, entry))


def verify(rows: Sequence[Row]) -> None:
    """Check numbers, chain, hashes and the order of states.

    Raises:
        LedgerDamaged: naming the first bad row.
    """
    known, before = _Known(), None
    for place, row in enumerate(rows, start=1):
        if row.number != place:
            raise LedgerDamaged(row=place, problem=f"it carries the number {row.number}")
        if row != _sealed(before, row.entry):
            raise LedgerDamaged(row=place, problem="its hash does not fit its content and the row before")
        problem = known.problem(row.entry)
        if problem:
            raise LedgerDamaged(row=place, problem=problem)
        known.add(row.entry)
        before = row


def schedules(rows: Iterable[Row], dataset: str) -> tuple[Entry, ...]:
    """Every schedule registered for a data set, in full."""
    return tuple(r.entry for r in rows if r.entry.dataset == dataset and r.entry.state is State.REGISTERED)


def charges(rows: Iterable[Row], dataset: str | None = None, plan: str | None = None) -> tuple[Entry, ...]:
    """The newest entry of every charge that is not void, in order of charging."""
    newest = {(r.entry.plan, r.entry.charge): r.entry for r in rows if r.entry.state is not State.REGISTERED}
    return tuple(
        e
        for e in newest.values()
        if e.state is not State.VOID and dataset in (None, e.dataset) and plan in (None, e.plan)
    )


def total(entries: Iterable[Entry], delta: float, *, joint: bool) -> float:
    """Epsilon of entries together, composed from raw events: of the split that it is largest for.

    A patient stays in one split, so what was released about the others says nothing about them.

    Args:
        joint: count the noise of the other hospitals as far as each entry does; otherwise the own noise only,
            which holds against everybody.
    """
    splits: dict[Split, list[Event]] = {}
    for e in entries:
        splits.setdefault(e.split, []).append(jointly(e.event, e.sharers if joint else 1))
    return max((accounting.epsilon(events, delta) for events in splits.values()), default=0.0)


def spent(rows: Iterable[Row], dataset: str, delta: float, *, joint: bool = True) -> float:
    """Epsilon of every charge that is not void: what a patient has lost so far."""
    return total(charges(rows, dataset), delta, joint=joint)


def committed(rows: Iterable[Row], dataset: str, delta: float, *, joint: bool = True) -> float:
    """Epsilon of every registered schedule in full: what the gate compares with the cap."""
    return total(schedules(rows, dataset), delta, joint=joint)


def room(rows: Sequence[Row], dataset: str, delta: float, *, cap: float) -> float:
    """Epsilon of the dearest further study without sampling that the gate would admit, all splits alike."""
    own: dict[Split, list[Event]] = {split: [] for split in Split}
    for e in schedules(rows, dataset):
        own[e.split].append(jointly(e.event, e.sharers))
    left = []
    for events in own.values():
        if accounting.epsilon(events, delta) >= cap:
            return 0.0
        noise = accounting.calibrate(cap, delta, sample_rate=1.0, steps=1, beside=events)
        left.append(accounting.epsilon([Event(noise, 1.0, 1)], delta))
    return min(left)


def admit(rows: Sequence[Row], entry: Entry) -> float:
    """Epsilon of the data set if the schedule ``entry`` joined the others, at the smallest delta they name.

    Raises:
        BudgetExceeded: it lies above the entry's cap.
    """
    named = [r.entry.delta for r in rows if r.entry.dataset == entry.dataset]
    strictest = min([entry.delta, *named])
    known = schedules(rows, entry.dataset)
    asked = total([*known, entry], strictest, joint=True)
    mine = [jointly(e.event, e.sharers) for e in (*known, entry) if e.split is entry.split]
    if len(mine) > 1 and any(event.sample_rate < 1 for event in mine):
        asked = max(asked, accounting.filter_epsilon(mine, strictest, cap=entry.cap))
    if asked > entry.cap:
        now = committed(rows, entry.dataset, strictest)
        raise BudgetExceeded(spent=now, asked=asked, cap=entry.cap)
    return asked


def registered(rows: Iterable[Row], plan: str, split: Split) -> Entry | None:
    """The schedule of a plan for the patients of a split, if there is one."""
    for row in rows:
        e = row.entry
        if (e.plan, e.split, e.state) == (plan, split, State.REGISTERED):
            return e
    return None


def next_charge(
    rows: Sequence[Row], *, plan: str, split: Split, round_number: int, attempt: int, steps: int
) -> Entry:
    """The ``reserved`` entry for one round of ``steps`` steps.

    Raises:
        NotRegistered: the plan has no schedule for this split.
        ScheduleUsedUp: fewer than ``steps`` of its steps are left.
    """
    schedule = registered(rows, plan, split)
    if schedule is None:
        raise NotRegistered()
    event = Event(schedule.event.noise_multiplier, schedule.event.sample_rate, steps)
    known = _Known.of(rows)
    if known.taken.get((plan, split), 0) + steps > schedule.event.steps:
        now = spent(rows, schedule.dataset, schedule.delta)
        more = replace(schedule, event=event)
        asked = total([*charges(rows, schedule.dataset), more], schedule.delta, joint=True)
        raise ScheduleUsedUp(spent=now, asked=asked, cap=schedule.cap)
    return Entry(
        state=State.RESERVED,
        dataset=schedule.dataset,
        plan=plan,
        round=round_number,
        attempt=attempt,
        charge=1 + known.last.get(plan, 0),
        event=event,
        delta=schedule.delta,
        cap=schedule.cap,
        sharers=schedule.sharers,
        split=split,
    )


def left_open(rows: Iterable[Row]) -> dict[tuple[str, Split, int], Entry]:
    """By plan, split and round: the charges of which nothing has left the hospital."""
    return {(e.plan, e.split, e.round): e for e in charges(rows) if e.state in OPEN}


def parse_row(value: Any, *, number: int) -> Row:
    """A row from its JSON form (LedgerDamaged, naming row ``number``, if it is not one)."""
    try:
        given = dict(value)
        event = Event(
            float(given.pop("noise_multiplier")), float(given.pop("sample_rate")), int(given.pop("steps"))
        )
        frame = {name: given.pop(name) for name in ("number", "previous", "hash", "unit")}
        words = {"state": State(given["state"]), "split": Split(given["split"])}
        entry = Entry(event=event, **(given | words))
        row = Row(int(frame["number"]), str(frame["previous"]), entry, str(frame["hash"]))
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise LedgerDamaged(row=number, problem="it is not a row of a ledger") from error
    if row.as_dict() != value:
        raise LedgerDamaged(row=number, problem="a field has the wrong type")
    return row


def _sealed(before: Row | None, entry: Entry) -> Row:
    number, previous = (1, GENESIS) if before is None else (before.number + 1, before.hash)
    own = digest("privacy-ledger-row", canonical([number, previous, "patient", entry.as_dict()]))
    return Row(number, previous, entry, own.hex())


@dataclass
class _Known:
    """What the rows so far say, kept by what the next one is held against."""

    schedules: dict[tuple[str, Split], Entry] = field(default_factory=dict)
    newest: dict[tuple[str, int], Entry] = field(default_factory=dict)
    """By plan and charge."""
    taken: dict[tuple[str, Split], int] = field(default_factory=dict)
    """Steps of the schedule that charges have drawn."""
    last: dict[str, int] = field(default_factory=dict)
    """The highest charge of each plan."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> _Known:
        known = cls()
        for row in rows:
            known.add(row.entry)
        return known

    def add(self, entry: Entry) -> None:
        key, charge = (entry.plan, entry.split), (entry.plan, entry.charge)
        if entry.state is State.REGISTERED:
            self.schedules[key] = entry
            return
        if entry.state is State.VOID:
            self.taken[key] -= entry.event.steps
        elif charge not in self.newest:
            self.taken[key] = self.taken.get(key, 0) + entry.event.steps
        self.newest[charge] = entry
        self.last[entry.plan] = max(self.last.get(entry.plan, 0), entry.charge)

    def problem(self, entry: Entry) -> str | None:
        """Why ``entry`` cannot be the next row, or None."""
        schedule = self.schedules.get((entry.plan, entry.split))
        if entry.state is State.REGISTERED:
            if schedule:
                return "the plan is registered already"
            return None if entry.charge == 0 else "a schedule is not a charge"
        if schedule is None:
            return "its plan is not registered"
        if not all(
            getattr(entry, name) == getattr(schedule, name) for name in ("dataset", "delta", "cap", "sharers")
        ):
            return "it does not belong to its plan's data set"
        mine = self.newest.get((entry.plan, entry.charge))
        if entry.state not in NEXT[mine.state if mine else None]:
            return f"a charge cannot become '{entry.state.value}' here"
        if mine:
            kept = [f.name for f in fields(Entry) if f.name != "state"]
            changed = any(getattr(entry, name) != getattr(mine, name) for name in kept)
            return "a charge changed its content" if changed else None
        return self._problem_of_new(entry, schedule)

    def _problem_of_new(self, entry: Entry, schedule: Entry) -> str | None:
        if entry.charge < 1:
            return "a charge is counted from 1"
        alike = (entry.event.noise_multiplier, entry.event.sample_rate)
        if alike != (schedule.event.noise_multiplier, schedule.event.sample_rate):
            return "its noise is not the registered noise"
        if self.taken.get((entry.plan, entry.split), 0) + entry.event.steps > schedule.event.steps:
            return "it takes more steps than were registered"
        return None
