"""The privacy ledger on disk: JSON lines, on stable storage before anything that they pay for happens."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from hospital_node.files import sync_folder
from medveil.errors import Error
from medveil.study import Study
from privacy.dp import ledger as rules
from privacy.dp.accounting import Event
from privacy.dp.ledger import OPEN, Entry, Row, State
from privacy.dp.policy import Split, check_policy, policy_of, round_event, study_events


class LedgerBusy(Error):
    """Another process holds the ledger."""

    code = "ledger-busy"

    def __init__(self) -> None:
        super().__init__(
            what="Another process has the privacy ledger open.",
            meaning="Two writers could charge the same budget twice, so this one stops.",
            remedy="Stop the other 'medveil node' process that uses this folder.",
        )


class LedgerUnreadable(Error):
    """The file cannot be opened at all."""

    code = "ledger-unreadable"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The privacy ledger cannot be opened: {reason}.",
            meaning="Without it nobody knows what patients have spent, so nothing private is computed.",
            remedy="Check that ledger.jsonl is a file that the node's user may read and write, and the disk.",
        )


class LedgerClosed(Error):
    """The ledger was closed, or a write failed half-way."""

    code = "ledger-closed"

    def __init__(self) -> None:
        super().__init__(
            what="The privacy ledger takes no more rows in this process.",
            meaning="It was closed, or a row could not be brought to stable storage.",
            remedy="Check the disk and start the node again; an unfinished row is cut off then.",
        )


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

    def __repr__(self) -> str:
        return f"Charge(round {self.entry.round}, attempt {self.entry.attempt}, {self.entry.state.value})"


class Ledger:
    """One hospital's ledger file, held exclusively by this process. Open it with :meth:`open`.

    Guarantees: a row that a caller has seen survives a crash (file and folder are synced before the call
    returns); whatever a crash leaves of a row whose call never returned is cut off at the next start, so
    the ledger can count too much but never too little. A crash costs no charge: what it left open is taken up
    again. Edits are found by the hash chain.
    """

    def __init__(self, path: Path, descriptor: int, rows: tuple[Row, ...], *, torn: bool) -> None:
        self._path = path
        self._descriptor: int | None = descriptor
        self._rows = rows
        self._open = rules.left_open(rows)
        """Charges of processes that have ended; nothing of them has left the hospital."""
        self.torn = torn
        """Whether an unfinished last line was cut off when the file was opened."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the file, take the lock, cut off a torn last line and check every row.

        Raises:
            LedgerBusy: another process (or another object) holds it.
            LedgerDamaged: a complete row is wrong; the file is left as it is.
            LedgerUnreadable: it is no file that this process may read and write, or the disk fails.
        """
        try:
            return cls._opened(path)
        except OSError as error:
            raise LedgerUnreadable(reason=error.strerror or "unknown reason") from error

    @classmethod
    def _opened(cls, path: Path) -> Self:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LedgerBusy() from error
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            rows = _parse(whole)
            rules.verify(rows)
            if len(whole) < len(content):
                os.ftruncate(descriptor, len(whole))
            os.lseek(descriptor, 0, os.SEEK_END)
            _sync(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, rows, torn=len(whole) < len(content))

    def register(
        self, study: Study, *, plan_id: str, dataset: str, cap: float, count_joint_noise: bool = False
    ) -> float:
        """Admit a plan's whole schedule under the data set's cap; returns epsilon of all admitted so far.

        There is one row for each split of the patients that the study touches; all are held against the cap
        before the first is written.

        Args:
            dataset: the hospital's lasting name for this set of patients; budgets are kept per name.
            cap: largest epsilon that the data owner allows on it.
            count_joint_noise: whether this hospital counts the others' share of a joint noise. Otherwise it
                charges what its own noise alone protects.

        Registering the same plan again changes nothing, but writes what a crash kept from being written.

        Raises:
            NotPrivate: the study has no noise policy. UnderstatedEpsilon: it names less than it costs.
            BudgetExceeded: with this schedule the data set would lie above the cap.
            BadTransition: the plan is registered with another schedule or data set.
        """
        check_policy(study)
        policy = policy_of(study)
        wanted = []
        for split, event in study_events(study).items():
            known = rules.registered(self._rows, plan_id, split)
            if known is None:
                sharers = policy.sharers if count_joint_noise else 1
                wanted.append(
                    Entry(
                        state=State.REGISTERED,
                        dataset=dataset,
                        plan=plan_id,
                        round=0,
                        attempt=0,
                        charge=0,
                        event=event,
                        delta=policy.delta,
                        cap=float(cap),
                        sharers=sharers,
                        split=split,
                    )
                )
            elif (known.dataset, known.event) != (dataset, event):
                raise rules.BadTransition(problem="the plan is registered with another schedule or data set")
        for entry in wanted:
            rules.admit(self._rows, entry)
        for entry in wanted:
            self._append(entry)
        return self.committed(dataset)

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
        event = round_event(study, split)
        entry = self._open.pop((plan_id, split, round_number), None)
        if entry is None:
            entry = rules.next_charge(
                self._rows,
                plan=plan_id,
                split=split,
                round_number=round_number,
                attempt=attempt,
                steps=event.steps,
            )
            if entry.event == event:
                self._append(entry)
        if entry.event != event:
            raise rules.BadTransition(problem="its noise is not the registered noise")
        return Charge(self, entry)

    def settle(self, *, plan_id: str, round_number: int) -> None:
        """Mark what a process that has ended left open for a round as released: its outcome was kept, and is
        about to leave."""
        for key, entry in list(self._open.items()):
            if (entry.plan, entry.round, entry.state) == (plan_id, round_number, State.RUNNING):
                self._move(self._open.pop(key), State.RELEASED)

    def released(self, charge: Charge) -> None:
        """Note that the run is over and its update may have left (BadTransition if it never began)."""
        charge.entry = self._move(charge.entry, State.RELEASED)

    def void(self, charge: Charge) -> None:
        """Give back a charge whose computation never began (BadTransition otherwise)."""
        charge.entry = self._move(charge.entry, State.VOID)

    def rows(self) -> tuple[Row, ...]:
        """All rows, oldest first."""
        return self._rows

    def spent(self, dataset: str, *, joint: bool = True) -> float:
        """Epsilon that this data set's patients have spent, at the smallest delta its studies name.

        Args:
            joint: count the other hospitals' noise as far as this hospital does; False: own noise only.
        """
        return rules.spent(self._rows, dataset, self.delta(dataset), joint=joint)

    def committed(self, dataset: str, *, joint: bool = True) -> float:
        """Epsilon of every schedule admitted on this data set in full, whether or not it has run yet."""
        return rules.committed(self._rows, dataset, self.delta(dataset), joint=joint)

    def room(self, dataset: str, cap: float) -> float:
        """Epsilon of the dearest further study that ``cap`` leaves room for (0: none)."""
        return rules.room(self._rows, dataset, self.delta(dataset), cap=cap)

    def verify(self) -> None:
        """Read the file again and check every row (LedgerDamaged names the first bad one)."""
        content = self._path.read_bytes()
        rows = _parse(content[: content.rfind(b"\n") + 1])
        rules.verify(rows)
        if rows != self._rows:
            same = sum(
                1
                for _ in itertools.takewhile(
                    lambda pair: pair[0] == pair[1], zip(rows, self._rows, strict=False)
                )
            )
            raise rules.LedgerDamaged(row=same + 1, problem="it is not what this process wrote")

    def close(self) -> None:
        """Let go of the file and its lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def delta(self, dataset: str) -> float:
        """The smallest delta that a study on this data set names; 1e-5 before the first."""
        return min((r.entry.delta for r in self._rows if r.entry.dataset == dataset), default=1e-5)

    def _move(self, entry: Entry, state: State) -> Entry:
        moved = replace(entry, state=state)
        self._append(moved)
        return moved

    def _append(self, entry: Entry) -> None:
        rows = rules.append(self._rows, entry)
        if self._descriptor is None:
            raise LedgerClosed()
        line = json.dumps(rows[-1].as_dict(), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            _write(self._descriptor, line)
            _sync(self._path, self._descriptor)
        except OSError as error:
            # How much of the row is on disk is unknown; only a fresh start, which reads the file, can tell.
            self.close()
            raise LedgerClosed() from error
        self._rows = rows


def _parse(content: bytes) -> tuple[Row, ...]:
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise rules.LedgerDamaged(row=number, problem="it is not JSON") from error
        rows.append(rules.parse_row(value, number=number))
    return tuple(rows)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync(path: Path, descriptor: int) -> None:
    """The file's content and its name in the folder, both on stable storage."""
    os.fsync(descriptor)
    sync_folder(path.parent)
