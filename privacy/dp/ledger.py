"""The privacy ledger: frozen rows in a hash chain, and what they allow.

The model, in five sentences. Before a hospital's first step, a study's *whole* schedule is registered: one
row for each split of the patients that it touches, admitted only if for every patient of its cohort all
schedules that the patient ever was in, composed from their raw events, stay within the cap. Each round then
draws one charge from its schedule, before any noise exists; new noise on the same patients is a new charge.
A charge that a crash has left open is taken up again, for nothing has left the hospital before it is marked
as released. A schedule that is used up gives no more charges, so what is spent never exceeds what was
admitted. Nothing is refunded: a registered schedule counts in full for ever, a charge unless its computation
never began.

What the gate guarantees. The total over all studies is at most (cap, delta) for each patient, whatever data
sets and studies are called (:mod:`privacy.dp.accounts`), against anybody who sees every release, as long as a
patient stays in one split for life. Without sampling (rate 1) it holds even if later studies are chosen by
the results of earlier ones: every event is Gaussian, and stopping at a total mu is a valid filter (Smith and
Thakurta, "Fully adaptive composition for Gaussian differential privacy", 2022). As soon as a sampled schedule
is among them, composing loss distributions is not a proven filter; the gate then also wants one and the same
Renyi order, chosen beforehand, to hold (Feldman and Zrnic, "Individual privacy accounting via a Renyi
filter", 2021).

A plan's cohort may change while it runs (a patient says no, another one joins). From the row that says so the
charges are the new cohort's: who left pays what was promised, who joined pays for what is still to come.

The chain shows edits, not a missing tail: its end is kept elsewhere, too, by whoever holds the file. When
the tail is lost all the same, a row says so; everything promised before it counts as spent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace

from medveil.errors import Error
from privacy.dp import accounting
from privacy.dp.accounting import Event
from privacy.dp.accounts import Account, named
from privacy.dp.policy import Split
from privacy.dp.prices import charges, events_of, schedules, total, within_cap
from privacy.dp.rows import (
    MARKS,
    NEXT,
    OPEN,
    PROMISED,
    Entry,
    LedgerDamaged,
    Row,
    State,
    mark,
    parse_row,
    promise,
)
from privacy.dp.rows import (
    sealed as _sealed,
)

__all__ = [
    "MARKS",
    "OPEN",
    "PROMISED",
    "Entry",
    "LedgerDamaged",
    "Row",
    "State",
    "charges",
    "mark",
    "parse_row",
    "promise",
    "schedules",
    "total",
]


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


def append(rows: Sequence[Row], entry: Entry, salt: str = "") -> tuple[Row, ...]:
    """The rows with one more (BadTransition if it does not follow).

    Args:
        salt: random text that makes the row unlike any other one of the same content.
    """
    problem = _Known.of(rows).problem(entry)
    if problem:
        raise BadTransition(problem=problem)
    return (*rows, _sealed(rows[-1] if rows else None, entry, salt))


def verify(rows: Sequence[Row]) -> None:
    """Check numbers, chain, hashes and the order of states.

    Raises:
        LedgerDamaged: naming the first bad row.
    """
    known, before = _Known(), None
    for place, row in enumerate(rows, start=1):
        if row.number != place:
            raise LedgerDamaged(row=place, problem=f"it carries the number {row.number}")
        if row != _sealed(before, row.entry, row.salt):
            raise LedgerDamaged(row=place, problem="its hash does not fit its content and the row before")
        problem = known.problem(row.entry)
        if problem:
            raise LedgerDamaged(row=place, problem=problem)
        known.add(row.entry)
        before = row


def spent(rows: Iterable[Row], whose: str | Iterable[Account], delta: float, *, joint: bool = True) -> float:
    """Epsilon of every charge that is not void: the most that any of the patients has lost so far."""
    known = charges(rows)
    found = total(known, delta, joint=joint, whose=_accounts(whose))
    return within_cap(known, found) if joint else found


def committed(
    rows: Iterable[Row], whose: str | Iterable[Account], delta: float, *, joint: bool = True
) -> float:
    """Epsilon of every registered schedule in full: what the gate compares with the cap."""
    known = schedules(rows)
    found = total(known, delta, joint=joint, whose=_accounts(whose))
    return within_cap(known, found) if joint else found


def room(rows: Sequence[Row], whose: str | Iterable[Account], delta: float, *, cap: float) -> float:
    """Epsilon of the dearest further study without sampling that the gate would admit, all splits alike."""
    left = []
    for events in {(), *events_of(schedules(rows), _accounts(whose), joint=True)}:
        if accounting.epsilon(events, delta) >= cap:
            return 0.0
        noise = accounting.calibrate(cap, delta, sample_rate=1.0, steps=1, beside=events)
        left.append(accounting.epsilon([Event(noise, 1.0, 1)], delta))
    return min(left)


def strictest_delta(rows: Iterable[Row], whose: str | Iterable[Account], *more: float) -> float:
    """The smallest delta that a study on these patients names, or of ``more`` (1: none); 1e-5 without any."""
    paid = {share for account in _accounts(whose) for share in account}
    named_by_rows = [r.entry.delta for r in rows if (r.entry.dataset, r.entry.split) in paid]
    return min([*named_by_rows, *(d for d in more if d < 1)], default=1e-5)


def admit(
    rows: Sequence[Row], *wanted: Entry, whose: Iterable[Account] | None = None, delta: float = 1.0
) -> float:
    """Epsilon of the dearest account if the schedules ``wanted`` joined the others.

    Args:
        whose: the accounts of the patients that they are about; those of their name if left out.
        delta: the largest at which the hospital counts; a smaller one that a study names rules.
    Raises:
        BudgetExceeded: it lies above the cap that the entries name.
    """
    mine = frozenset(named(wanted[0].dataset) if whose is None else whose)
    strictest = strictest_delta(rows, mine, delta, *(e.delta for e in wanted))
    cap, known = min(e.cap for e in wanted), [*_beside(rows, wanted), *wanted]
    asked = total(known, strictest, joint=True, whose=mine)
    touched = [account for account in mine if any((e.dataset, e.split) in account for e in wanted)]
    for events in events_of(known, touched, joint=True):
        if len(events) > 1 and any(event.sample_rate < 1 for event in events):
            asked = max(asked, accounting.filter_epsilon(events, strictest, cap=cap))
    if asked > cap:
        now = committed(rows, mine, strictest)
        raise BudgetExceeded(spent=now, asked=asked, cap=cap)
    return asked


def _beside(rows: Sequence[Row], wanted: Sequence[Entry]) -> tuple[Entry, ...]:
    """The schedules that are held against the cap beside new ones.

    A new plan with a filter takes of each patient what earlier plans with a filter have really left of the
    cap (:mod:`privacy.dp.individual`), so their promises are no reason to refuse it; nor may what single
    patients have left be one. Sampled schedules have no such sum; beside them every promise counts.
    """
    known = schedules(rows)
    filtered = any(e.split is Split.TRAIN and e.patient_mu is not None for e in wanted)
    if not filtered or any(event.sample_rate < 1 for e in (*known, *wanted) for event in e.events):
        return known
    whole = {e.plan for e in charges(rows) if e.state in PROMISED}
    return tuple(e for e in known if e.patient_mu is None or e.plan in whole)


def _accounts(whose: str | Iterable[Account]) -> frozenset[Account]:
    return named(whose) if isinstance(whose, str) else frozenset(whose)


def registered(rows: Iterable[Row], plan: str, split: Split) -> Entry | None:
    """The schedule of a plan for the patients of a split, if there is one."""
    for row in rows:
        e = row.entry
        if (e.plan, e.split, e.state) == (plan, split, State.REGISTERED):
            return e
    return None


def next_charge(
    rows: Sequence[Row], *, plan: str, split: Split, round_number: int, attempt: int, event: Event
) -> Entry:
    """The ``reserved`` entry for one round that releases ``event``.

    Raises:
        NotRegistered: the plan has no schedule for this split.
        BadTransition: its schedule has no such noise.
        ScheduleUsedUp: less of the schedule is left than the round costs.
    """
    schedule = registered(rows, plan, split)
    if schedule is None:
        raise NotRegistered()
    if _kind(event) not in map(_kind, schedule.events):
        raise BadTransition(problem="its noise is not the registered noise")
    known = _Known.of(rows)
    mine = known.current[plan, split].dataset
    if not accounting.fits([*known.taken_of(plan, split), event], schedule.events):
        now = spent(rows, mine, schedule.delta)
        more = replace(schedule, state=State.RESERVED, dataset=mine, event=event, further=())
        asked = total([*charges(rows), more], schedule.delta, joint=True, whose=named(mine))
        raise ScheduleUsedUp(spent=now, asked=asked, cap=schedule.cap)
    return Entry(
        state=State.RESERVED,
        dataset=mine,
        plan=plan,
        round=round_number,
        attempt=attempt,
        charge=1 + known.last.get(plan, 0),
        event=event,
        delta=schedule.delta,
        cap=schedule.cap,
        sharers=schedule.sharers,
        split=split,
        patient_mu=schedule.patient_mu,
    )


def taken_over(rows: Sequence[Row], plan: str, split: Split, dataset: str, cap: float) -> Entry:
    """The ``taken`` entry by which another cohort takes a schedule's place: what is still to be released.

    Raises: NotRegistered: the plan has no schedule for this split.
    """
    schedule = registered(rows, plan, split)
    if schedule is None:
        raise NotRegistered()
    event, *further = _Known.of(rows).left_of(schedule)
    return replace(schedule, state=State.TAKEN, dataset=dataset, event=event, further=tuple(further), cap=cap)


def current(rows: Iterable[Row], plan: str) -> dict[Split, str]:
    """Whom a plan is about now: for each split that it touches, what the newest of its schedules names."""
    return {
        r.entry.split: r.entry.dataset for r in rows if r.entry.state in PROMISED and r.entry.plan == plan
    }


def restorations(rows: Iterable[Row]) -> int:
    """How often the owner went on from an older copy, as far as these rows know."""
    return max((r.entry.round for r in rows if r.entry.state is State.RESTORED), default=0)


def left_open(rows: Iterable[Row]) -> dict[tuple[str, Split, int], Entry]:
    """By plan, split and round: the charges of which nothing has left the hospital."""
    return {(e.plan, e.split, e.round): e for e in charges(rows) if e.state in OPEN}


Kind = tuple[float, float]
"""Noise multiplier and sample rate."""
Steps = Counter[Kind]


def _kind(event: Event) -> Kind:
    return event.noise_multiplier, event.sample_rate


def _steps(events: Iterable[Event]) -> Steps:
    found: Steps = Counter()
    for event in events:
        found[_kind(event)] += event.steps
    return found


@dataclass
class _Known:
    """What the rows so far say, kept by what the next one is held against."""

    schedules: dict[tuple[str, Split], Entry] = field(default_factory=dict)
    current: dict[tuple[str, Split], Entry] = field(default_factory=dict)
    """The schedule, or the newest entry by which another cohort took its place."""
    newest: dict[tuple[str, int], Entry] = field(default_factory=dict)
    """By plan and charge."""
    taken: dict[tuple[str, Split], Steps] = field(default_factory=dict)
    """Steps of the schedule that charges have drawn."""
    released: dict[tuple[str, Split], Steps] = field(default_factory=dict)
    """Those of them that were released."""
    last: dict[str, int] = field(default_factory=dict)
    """The highest charge of each plan."""
    marks: dict[State, Entry] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    """By plan: the charge up to which a file says what patients used."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> _Known:
        known = cls()
        for row in rows:
            known.add(row.entry)
        return known

    def add(self, entry: Entry) -> None:
        key, charge = (entry.plan, entry.split), (entry.plan, entry.charge)
        if entry.state in MARKS:
            self._mark(entry)
            return
        if entry.state in PROMISED:
            self.schedules.setdefault(key, entry)
            self.current[key] = entry
            return
        steps = _steps(entry.events)
        if entry.state is State.VOID:
            self.taken[key].subtract(steps)
        elif charge not in self.newest:
            self.taken.setdefault(key, Counter()).update(steps)
        if entry.state is State.RELEASED:
            self.released.setdefault(key, Counter()).update(steps)
        self.newest[charge] = entry
        self.last[entry.plan] = max(self.last.get(entry.plan, 0), entry.charge)

    def _mark(self, entry: Entry) -> None:
        self.marks[entry.state] = entry
        if entry.state is State.USED:
            self.used[entry.plan] = entry.charge
        if entry.state is State.RESTORED:  # what was promised before counts as spent
            self.newest.clear()
            self.taken = {key: _steps(schedule.events) for key, schedule in self.schedules.items()}
            self.released = {key: steps.copy() for key, steps in self.taken.items()}

    def taken_of(self, plan: str, split: Split) -> tuple[Event, ...]:
        """What charges have drawn of a schedule."""
        return tuple(Event(*kind, count) for kind, count in self.taken.get((plan, split), Counter()).items())

    def left_of(self, schedule: Entry) -> tuple[Event, ...]:
        """What is still to be released of a schedule.

        A round that was repeated takes the place of another one, and which one that will be is not known; so
        all the others are counted.
        """
        released = self.released.get((schedule.plan, schedule.split), Counter())
        return tuple(replace(e, steps=max(0, e.steps - released[_kind(e)])) for e in schedule.events)

    def problem(self, entry: Entry) -> str | None:
        """Why ``entry`` cannot be the next row, or None."""
        if entry.state in MARKS:
            return self._problem_of_mark(entry)
        schedule = self.schedules.get((entry.plan, entry.split))
        if entry.state is State.REGISTERED:
            if schedule:
                return "the plan is registered already"
            return None if entry.charge == 0 else "a schedule is not a charge"
        if schedule is None:
            return "its plan is not registered"
        if entry.state is State.TAKEN:
            wanted = self.left_of(schedule), schedule.delta, schedule.sharers, 0, schedule.patient_mu
            fits = (entry.events, entry.delta, entry.sharers, entry.charge, entry.patient_mu) == wanted
            return None if fits else "it is not what is left of its plan's schedule"
        mine = self.current[entry.plan, entry.split]
        if not all(getattr(entry, n) == getattr(schedule, n) for n in ("delta", "sharers", "patient_mu")):
            return "it does not belong to its plan's data set"
        known = self.newest.get((entry.plan, entry.charge))
        if entry.state not in NEXT[known.state if known else None]:
            return f"a charge cannot become '{entry.state.value}' here"
        if known:
            kept = [f.name for f in fields(Entry) if f.name not in ("state", "dataset")]
            changed = any(getattr(entry, name) != getattr(known, name) for name in kept)
            # A charge that another process left open is taken up for the cohort of the day.
            moved = entry.dataset not in (known.dataset, mine.dataset) or (
                entry.dataset != known.dataset and entry.state not in (State.RUNNING, State.VOID)
            )
            return "a charge changed its content" if changed or moved else None
        if entry.dataset != mine.dataset or entry.cap != schedule.cap:
            return "it does not belong to its plan's data set"
        return self._problem_of_new(entry, schedule)

    def _problem_of_mark(self, entry: Entry) -> str | None:
        if entry.state is State.USED:
            return self._problem_of_used(entry)
        if entry != mark(entry.state, name=entry.dataset, count=entry.round):
            return "a mark says nothing but its name and count"
        before = self.marks.get(entry.state)
        if entry.state is State.MIGRATED:
            return None if before is None else "the files of an earlier version were taken over already"
        return None if entry.round > (before.round if before else 0) else "restorations are counted upward"

    def _problem_of_used(self, entry: Entry) -> str | None:
        known = self.newest.get((entry.plan, entry.charge))
        if known is None or known.state is not State.RELEASED:
            return "what patients used is noted of a released charge only"
        if entry != replace(known, state=State.USED, dataset=entry.dataset) or entry.patient_mu is None:
            return "what patients used belongs to another charge"
        if entry.charge <= self.used.get(entry.plan, 0):
            return "what patients used was noted already"
        return None

    def _problem_of_new(self, entry: Entry, schedule: Entry) -> str | None:
        if entry.charge < 1:
            return "a charge is counted from 1"
        if entry.further:
            return "a charge has one event"
        if _kind(entry.event) not in map(_kind, schedule.events):
            return "its noise is not the registered noise"
        if not accounting.fits([*self.taken_of(entry.plan, entry.split), entry.event], schedule.events):
            return "it takes more steps than were registered"
        return None
