"""The privacy ledger on disk: JSON lines, on stable storage before anything that they pay for happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from hospital_node.cohort import Cohort, CohortDamaged, Cohorts, Held, is_cohort
from hospital_node.ledgerfile import (
    Anchor,
    LedgerBusy,
    LedgerClosed,
    LedgerFile,
    LedgerReplaced,
    LedgerSetBack,
    LedgerUnreadable,
)
from medveil.errors import Error
from medveil.study import Study
from privacy.dp import ledger as rules
from privacy.dp.accounting import Event
from privacy.dp.accounts import EVERYBODY, Account, accounts, named, paid_by
from privacy.dp.ledger import MARKS, OPEN, PROMISED, Entry, Row, State, mark, promise
from privacy.dp.policy import (
    Split,
    check_policy,
    filter_of,
    policy_of,
    round_event,
    sharers_of,
    study_events,
)

__all__ = [
    "Charge",
    "ChargeUsed",
    "Ledger",
    "LedgerBusy",
    "LedgerClosed",
    "LedgerReplaced",
    "LedgerSetBack",
    "LedgerUnreadable",
]


class ChargeUsed(Error):
    """A charge pays for one run only."""

    code = "charge-used"

    def __init__(self) -> None:
        super().__init__(
            what="This charge has been used.",
            meaning="A second run would draw new noise, which costs again; it was not started.",
            remedy="Charge the ledger again for a repeated round.",
        )


class Charge:
    """The receipt without which nothing private is computed; it lives in this process and pays for one run.

    Once a process has ended, a charge that was never marked as released can be taken up by
    :meth:`Ledger.charge` for the same round: all that its run made ended with the process.
    """

    def __init__(self, ledger: Ledger, entry: Entry) -> None:
        self._ledger = ledger
        self._begun = False
        self.entry = entry

    @property
    def event(self) -> Event:
        """What it pays for."""
        return self.entry.event

    @property
    def round(self) -> int:
        """The round that it pays for."""
        return self.entry.round

    @property
    def split(self) -> Split:
        """The patients that it pays for."""
        return self.entry.split

    def begin(self) -> None:
        """Mark the run as begun, on stable storage.

        Raises:
            ChargeUsed: it has begun before, or it was given back.
            LedgerClosed: the row could not be written.
        """
        if self._begun or self.entry.state not in OPEN:
            raise ChargeUsed()
        self._begun = True
        self.entry = self._ledger._move(self.entry, State.RUNNING)

    def end(self) -> None:
        """Settle it, on stable storage: released if its run has begun, given back otherwise.

        Call it before anything that the run made is handed on, and also when the run failed: what somebody
        can tell from a failure is a release, too. From here on a repeated run needs a new charge.
        """
        if self._begun and self.entry.state is State.RUNNING:
            self._ledger.released(self)
        elif not self._begun and self.entry.state is State.RESERVED:
            self._ledger.void(self)

    def set_down(self) -> None:
        """Leave a run that ended without a result as a crash would leave it; give back what never began.

        For a run whose processes have died under it, or that was told from outside to end: all that it made
        is gone, and the next charge for the same round takes this one up, once.
        """
        if self.entry.state is State.RUNNING:
            self._ledger.left_open(self)
        else:
            self.end()

    def __repr__(self) -> str:
        return f"Charge(round {self.entry.round}, attempt {self.entry.attempt}, {self.entry.state.value})"


P = ParamSpec("P")
T = TypeVar("T")


def _alone(method: Callable[Concatenate[Ledger, P], T]) -> Callable[Concatenate[Ledger, P], T]:
    """A look at the rows and what it writes are one step: plans register while others are charged."""

    @wraps(method)
    def held(self: Ledger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            return method(self, *args, **kwargs)

    return held


class Ledger:
    """One hospital's ledger file, held exclusively by this process. Open it with :meth:`open`.

    Guarantees: a row that a caller has seen survives a crash (file and folder are synced before the call
    returns); whatever a crash leaves of a row whose call never returned is cut off at the next start, so
    the ledger can count too much but never too little. A crash costs no charge: what it left open is taken up
    again. Edits are found by the hash chain, a missing tail or an older file by the end that the anchor
    keeps, an exchanged file before the next row is written.
    """

    def __init__(self, file: LedgerFile, cohorts: Cohorts) -> None:
        self._file, self._cohorts = file, cohorts
        self._open = rules.left_open(file.rows)
        """Charges of processes that have ended; nothing of them has left the hospital."""
        self._keeps = True
        """Whether cohorts are written; not for a copy of the ledger beside the folder of the right one."""
        self._known: dict[str, Cohort] = {}
        self._lost = frozenset({EVERYBODY})
        self._lock = RLock()
        """Names of rows whose patients are no longer known."""

    @classmethod
    def open(
        cls, path: Path, *, anchor: Anchor | None = None, cohorts: Path | None = None, trusting: bool = False
    ) -> Self:
        """Open or create the file, take the lock, cut off a torn last line and check every row.

        Args:
            anchor: what else knows the last row; with it the folder is locked, too.
            cohorts: the folder of the cohorts that rows name; ``cohorts`` beside the file if left out.
            trusting: the owner goes on from an older copy: cohorts may be missing, the anchor is not asked.
        Raises:
            LedgerBusy: another process (or another object) holds it.
            LedgerDamaged: a complete row is wrong; the file is left as it is.
            LedgerSetBack: rows are missing here or there. CohortDamaged.
            LedgerUnreadable: it is no file that this process may read and write, or the disk fails.
        """
        file = LedgerFile.open(path, lock_folder=anchor is not None)
        ledger = cls(file, Cohorts(cohorts or path.parent / "cohorts"))
        ledger._keeps = anchor is not None or cohorts is None
        try:
            ledger._meet_cohorts(trusting)
            if anchor is not None:
                file.tie(anchor, trusting=trusting)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def torn(self) -> bool:
        """Whether an unfinished last line was cut off when the file was opened."""
        return self._file.torn

    def _meet_cohorts(self, trusting: bool) -> None:
        """Read every cohort that a row names. One that is gone is forgiven from before the owner went on."""
        gone_on = max((r.number for r in self._file.rows if r.entry.state is State.RESTORED), default=0)
        for row in self._file.rows:
            name = row.entry.dataset
            if not is_cohort(name) or name in self._known or name in self._lost:
                continue
            try:
                self._known[name] = self._cohorts.load(name)
            except CohortDamaged:
                if not trusting and row.number > gone_on:
                    raise
                self._lost |= {name}

    @_alone
    def register(
        self,
        study: Study,
        *,
        plan_id: str,
        dataset: str | Cohort,
        cap: float,
        count_joint_noise: bool = False,
        delta_cap: float = 1.0,
        first: int = 1,
    ) -> float:
        """Admit a plan's whole schedule under the cap; returns epsilon of the patient who has promised most.

        There is one row for each split that the study touches; all are held against the cap before the first
        is written.

        Args:
            dataset: the plan's cohort, or one name for patients of whom the ledger is to know no more. Of a
                cohort those count whom :meth:`usable` leaves.
            cap: largest epsilon that the data owner allows on it.
            count_joint_noise: whether this hospital counts the others' share of noise where it is shared.
            delta_cap: largest delta at which epsilon is counted; a study that names a smaller one rules.
            first: the round from which on this hospital is in it, if it joined later.

        Registering a plan again writes what a crash kept from being written; with another cohort it goes on
        with that one.

        Raises:
            NotPrivate: the study has no noise policy. UnderstatedEpsilon: it names less than it costs.
            BudgetExceeded: with this schedule a patient would lie above the cap.
            BadTransition: the plan is registered with another schedule or data set.
        """
        check_policy(study)
        used = self.usable(study, dataset)[0] if isinstance(dataset, Cohort) else None
        name, whose = (used.name, self._with(used)) if used else (str(dataset), named(str(dataset)))
        shared = {split: sharers_of(study, split) if count_joint_noise else 1 for split in Split}
        one = partial(promise, name, plan_id, delta=policy_of(study).delta, cap=float(cap))
        whole = [
            one(split, events, sharers=shared[split], patient_mu=filter_of(study, split))
            for split, events in study_events(study, first=first).items()
        ]
        wanted = self._to_register(whole, frozen=used is not None)
        if wanted:
            rules.admit(self._file.rows, *wanted, whose=whose, delta=delta_cap)
            if used is not None:
                self._keep_cohort(used)
        for entry in wanted:
            self._append(entry)
        strictest = rules.strictest_delta(self._file.rows, whose, delta_cap)
        return rules.committed(self._file.rows, whose, strictest)

    def _to_register(self, whole: Iterable[Entry], *, frozen: bool) -> list[Entry]:
        """The rows by which a plan's schedule is, or goes on, registered for a data set or a frozen cohort.

        Args:
            whole: the schedule, as it is registered where nothing is yet.
        Raises: BadTransition.
        """
        wanted = []
        for new in whole:
            known = rules.registered(self._file.rows, new.plan, new.split)
            if known is None:
                wanted.append(new)
                continue
            same = rules.current(self._file.rows, new.plan)[new.split] == new.dataset
            if (known.events, known.patient_mu) != (new.events, new.patient_mu) or not (frozen or same):
                raise rules.BadTransition(problem="the plan is registered with another schedule or data set")
            if not same:
                over = rules.taken_over(self._file.rows, new.plan, new.split, new.dataset, new.cap)
                wanted.append(over)
        return wanted

    def _keep_cohort(self, cohort: Cohort) -> None:
        if self._keeps:
            self._cohorts.keep(cohort)
        self._known[cohort.name] = cohort

    def usable(self, study: Study, cohort: Cohort) -> tuple[Cohort, int]:
        """Those of a cohort whom a study may use, and how many are left out for having been in another split.

        A patient pays for the own split only, so the first split is for life. Who is in a split about which
        the study releases nothing is left out as well, and not counted.
        """
        first: dict[str, set[Split]] = {}
        for row in self._file.rows:
            e = row.entry
            if e.state in PROMISED and e.dataset in self._known:
                before = dict(first)
                for held in self._known[e.dataset].patients.values():
                    if held.split is e.split and held.account not in before:
                        first.setdefault(held.account, set()).add(e.split)
        touched, moved = study_events(study), 0

        def stays(held: Held) -> bool:
            known = {split for _, split in held.before} or first.get(held.account, set())
            return not known or held.split in known

        moved = sum(held.split in touched and not stays(held) for held in cohort.patients.values())
        return cohort.only(lambda _, held: held.split in touched and stays(held)), moved

    def cohort(self, plan_id: str) -> Cohort | None:
        """Whom a registered plan may use now; None if it was registered under a mere name."""
        names = set(rules.current(self._file.rows, plan_id).values())
        return self._known.get(names.pop()) if len(names) == 1 else None

    @_alone
    def migrate(self, name: str) -> None:
        """Note, once, what an earlier version kept beside the ledger."""
        if not any(row.entry.state is State.MIGRATED for row in self._file.rows):
            self._append(mark(State.MIGRATED, name=name))

    def forget_data_sets(self) -> None:
        """Nobody knows any more who was in the data sets of an earlier version: everybody pays for them."""
        names = {r.entry.dataset for r in self.rows() if r.entry.state not in MARKS}
        self._lost |= {name for name in names if not is_cohort(name)}

    @_alone
    def promise(self, study: Study, plan_id: str) -> None:
        """Enter a schedule that was admitted once and whose rows are lost: everybody pays for it.

        Raises: NotPrivate.
        """
        delta = policy_of(study).delta
        for split, events in study_events(study).items():
            if rules.registered(self.rows(), plan_id, split) is None:
                most = filter_of(study, split)
                lost = promise(EVERYBODY, plan_id, split, events, delta=delta, cap=0.0, patient_mu=most)
                self._append(lost)

    @_alone
    def go_on(self, *, count: int) -> None:
        """The owner's word to go on from an older copy: everything promised so far counts as spent.

        Args:
            count: higher than that of any such word before.
        """
        self._append(mark(State.RESTORED, count=count))
        self._open = {}

    @_alone
    def charge(
        self,
        study: Study,
        *,
        plan_id: str,
        round_number: int,
        attempt: int,
        split: Split = Split.TRAIN,
    ) -> Charge:
        """Charge one round to the plan's schedule; the row is on stable storage when this returns.

        Every call is a new charge (new noise on the same patients costs again, whatever the round is called),
        except that a charge left open for this round by a process that has ended is taken up, once.

        Raises:
            NotRegistered: the plan has no schedule here.
            ScheduleUsedUp: all registered rounds have been charged.
            BadTransition: the study is not the one that was registered.
        """
        event = round_event(study, split, round_number)
        entry = self._open.pop((plan_id, split, round_number), None)
        if entry is not None:
            entry = replace(entry, dataset=rules.current(self._file.rows, plan_id)[split])
        else:
            entry = rules.next_charge(
                self._file.rows,
                plan=plan_id,
                split=split,
                round_number=round_number,
                attempt=attempt,
                event=event,
            )
            self._append(entry)
        if entry.event != event:
            raise rules.BadTransition(problem="its noise is not the registered noise")
        return Charge(self, entry)

    @_alone
    def settle(self, *, plan_id: str, round_number: int) -> None:
        """Mark what a process that has ended left open for a round as released: its outcome was kept, and is
        about to leave."""
        for key, entry in list(self._open.items()):
            if (entry.plan, entry.round, entry.state) == (plan_id, round_number, State.RUNNING):
                self._move(self._open.pop(key), State.RELEASED)

    @_alone
    def left_open(self, charge: Charge) -> None:
        """Keep a begun charge of which nothing was made for the next one of its round."""
        entry = charge.entry
        self._open[entry.plan, entry.split, entry.round] = entry

    @_alone
    def note_used(self, charge: Charge, name: str) -> None:
        """Note the file that says what patients used of a released charge (BadTransition if it is not)."""
        self._append(replace(charge.entry, state=State.USED, dataset=name))

    def paid_by(self, patients: Iterable[str]) -> dict[str, Account]:
        """What each patient of a cohort pays for, by the id that the cohort's account has."""
        return paid_by([c.share for c in self._known.values()], patients=patients, all_pay=self._lost)

    def released(self, charge: Charge) -> None:
        """Note that the run is over and its update may have left (BadTransition if it never began)."""
        charge.entry = self._move(charge.entry, State.RELEASED)

    def void(self, charge: Charge) -> None:
        """Give back a charge whose computation never began (BadTransition otherwise)."""
        charge.entry = self._move(charge.entry, State.VOID)

    def rows(self) -> tuple[Row, ...]:
        """All rows, oldest first."""
        return self._file.rows

    def spent(self, dataset: str | Cohort | None = None, *, joint: bool = True, delta: float = 1.0) -> float:
        """Epsilon that the patient who has lost most has lost, at the smallest delta the studies name.

        Args:
            dataset: whose patients; everybody's if left out.
            joint: count the other hospitals' noise as far as this hospital does; False: own noise only.
            delta: count at this one if it is smaller.
        """
        whose = self._whose(dataset)
        return rules.spent(
            self._file.rows, whose, rules.strictest_delta(self._file.rows, whose, delta), joint=joint
        )

    def committed(
        self, dataset: str | Cohort | None = None, *, joint: bool = True, delta: float = 1.0
    ) -> float:
        """Epsilon of every schedule admitted, in full, whether or not it has run yet; else as spent."""
        whose = self._whose(dataset)
        return rules.committed(
            self._file.rows, whose, rules.strictest_delta(self._file.rows, whose, delta), joint=joint
        )

    def room(self, dataset: str | Cohort | None, cap: float, *, delta: float = 1.0) -> float:
        """Epsilon of the dearest further study that ``cap`` leaves room for, with all patients (0: none)."""
        whose = self._whose(dataset)
        return rules.room(
            self._file.rows, whose, rules.strictest_delta(self._file.rows, whose, delta), cap=cap
        )

    def _whose(self, dataset: str | Cohort | None) -> frozenset[Account]:
        if isinstance(dataset, Cohort):
            return self._with(dataset)
        if dataset is not None:
            return named(dataset)
        shares = [cohort.share for cohort in self._known.values()]
        found = accounts(shares, all_pay=self._lost)
        names = {row.entry.dataset for row in self._file.rows if row.entry.state not in MARKS}
        return found.union(*(named(n) for n in names if not is_cohort(n) and n != EVERYBODY))

    def _with(self, cohort: Cohort) -> frozenset[Account]:
        """The accounts of a cohort's patients, who may be in no row yet."""
        shares = [one.share for one in (*self._known.values(), cohort)]
        return accounts(shares, patients=cohort.share.keys(), all_pay=self._lost)

    def verify(self) -> None:
        """Read the file again and check every row (LedgerDamaged names the first bad one)."""
        self._file.verify()

    def close(self) -> None:
        """Let go of the file and its lock."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def delta(self, dataset: str | Cohort | None = None, delta: float = 1.0) -> float:
        """The delta at which epsilon is counted: the smallest that a study names, or ``delta``."""
        return rules.strictest_delta(self._file.rows, self._whose(dataset), delta)

    @_alone
    def _move(self, entry: Entry, state: State) -> Entry:
        moved = replace(entry, state=state)
        self._append(moved)
        return moved

    def _append(self, entry: Entry) -> None:
        self._file.append(entry)
