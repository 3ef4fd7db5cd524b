"""Accounts: a patient pays for every release, whatever data set and study are called, and only for those."""

from __future__ import annotations

from dataclasses import replace

import pytest

from privacy.dp import ledger
from privacy.dp.accounting import Event, epsilon
from privacy.dp.accounts import Account, accounts, named
from privacy.dp.ledger import Entry, LedgerDamaged, Row, ScheduleUsedUp, State, mark
from privacy.dp.policy import Split

DELTA = 1e-5
SCHEDULE = Event(9.0, 1.0, 30)
ROUND = replace(SCHEDULE, steps=3)
ALONE, BOTH = epsilon([SCHEDULE], DELTA), epsilon([SCHEDULE, SCHEDULE], DELTA)


def schedule(plan: str, dataset: str, split: Split = Split.TRAIN) -> Entry:
    return Entry(State.REGISTERED, dataset, plan, 0, 0, 0, SCHEDULE, DELTA, 20.0, split=split)


def share(dataset: str, **patients: Split) -> dict[str, Account]:
    return {patient: frozenset({(dataset, split)}) for patient, split in patients.items()}


def charged(rows: tuple[Row, ...], plan: str, *numbers: int, steps: int = 3) -> tuple[Row, ...]:
    for number in numbers:
        entry = ledger.next_charge(
            rows,
            plan=plan,
            split=Split.TRAIN,
            round_number=number,
            attempt=1,
            event=replace(SCHEDULE, steps=steps),
        )
        for state in (State.RESERVED, State.RUNNING, State.RELEASED):
            rows = ledger.append(rows, replace(entry, state=state))
    return rows


def test_one_patient_in_two_cohorts_pays_for_both_and_the_others_for_theirs() -> None:
    rows = ledger.append(ledger.append((), schedule("p", "one")), schedule("q", "two"))
    shares = [share("one", a=Split.TRAIN, b=Split.TRAIN), share("two", b=Split.TRAIN, c=Split.TRAIN)]
    everybody = accounts(shares, all_pay=())
    assert len(everybody) == 3
    assert ledger.committed(rows, everybody, DELTA) == BOTH
    for patient, paid in (("a", ALONE), ("b", BOTH), ("c", ALONE)):
        mine = accounts(shares, patients=[patient], all_pay=())
        assert ledger.committed(rows, mine, DELTA) == paid


def test_a_patient_of_another_split_pays_nothing_for_this_one() -> None:
    rows = ledger.append((), schedule("p", "one"))
    shares = [share("one", a=Split.TRAIN, b=Split.TEST)]
    assert ledger.committed(rows, accounts(shares, patients=["b"], all_pay=()), DELTA) == 0
    assert ledger.committed(rows, named("one"), DELTA) == ALONE


def test_the_gate_asks_the_patient_who_has_spent_most() -> None:
    rows = ledger.append((), schedule("p", "one"))
    wanted = replace(schedule("q", "two"), cap=(ALONE + BOTH) / 2)
    fresh = [share("one", a=Split.TRAIN), share("two", b=Split.TRAIN)]
    assert ledger.admit(rows, wanted, whose=accounts(fresh, patients=["b"], all_pay=())) == ALONE
    known = [share("one", a=Split.TRAIN), share("two", a=Split.TRAIN, b=Split.TRAIN)]
    with pytest.raises(ledger.BudgetExceeded) as caught:
        ledger.admit(rows, wanted, whose=accounts(known, patients=["a", "b"], all_pay=()))
    assert (caught.value.spent, caught.value.asked) == (ALONE, BOTH)


def test_the_gate_composes_at_the_hospitals_delta_if_that_is_smaller() -> None:
    wanted = schedule("p", "one")
    assert ledger.admit((), wanted, delta=1e-7) == epsilon([SCHEDULE], 1e-7)
    assert ledger.admit((), wanted, delta=1e-3) == ALONE


def test_rows_of_patients_who_are_no_longer_known_are_paid_by_everybody_in_every_split() -> None:
    rows = ledger.append((), schedule("p", "lost"))
    rows = ledger.append(rows, schedule("p", "lost", Split.TEST))
    mine = accounts([share("two", a=Split.VAL)], patients=["a"], all_pay=["lost"])
    assert ledger.committed(rows, mine, DELTA) == BOTH
    assert ledger.committed(rows, accounts([], all_pay=["lost"]), DELTA) == BOTH


def test_who_leaves_a_running_plan_pays_what_was_promised_and_who_joins_what_is_to_come() -> None:
    rows = charged(ledger.append((), schedule("p", "one")), "p", 1, 2)
    rows = ledger.append(rows, ledger.taken_over(rows, "p", Split.TRAIN, "two", 20.0))
    assert ledger.current(rows, "p") == {Split.TRAIN: "two"}
    rows = charged(rows, "p", 3)
    ledger.verify(rows)
    assert tuple(ledger.parse_row(r.as_dict(), number=r.number) for r in rows) == rows
    both = dict.fromkeys(("gone", "stays"), Split.TRAIN), dict.fromkeys(("stays", "new"), Split.TRAIN)
    shares = [share("one", **both[0]), share("two", **both[1])]
    for patient, lost, promised in (("gone", 6, 30), ("stays", 9, 30), ("new", 3, 24)):
        mine = accounts(shares, patients=[patient], all_pay=())
        assert ledger.spent(rows, mine, DELTA) == epsilon([replace(SCHEDULE, steps=lost)], DELTA)
        assert ledger.committed(rows, mine, DELTA) == epsilon([replace(SCHEDULE, steps=promised)], DELTA)


def test_a_charge_that_a_crash_left_open_is_promised_to_whoever_joins() -> None:
    """It may be taken up for the new cohort, for nothing of it has left."""
    rows = charged(ledger.append((), schedule("p", "one")), "p", 1)
    entry = ledger.next_charge(rows, plan="p", split=Split.TRAIN, round_number=2, attempt=1, event=ROUND)
    rows = ledger.append(rows, entry)
    taken = ledger.taken_over(rows, "p", Split.TRAIN, "two", 20.0)
    assert taken.event.steps == 27
    rows = ledger.append(rows, taken)
    rows = ledger.append(rows, replace(entry, state=State.RUNNING, dataset="two"))
    rows = ledger.append(rows, replace(entry, state=State.RELEASED, dataset="two"))
    ledger.verify(rows)
    assert ledger.spent(rows, named("two"), DELTA) == epsilon([ROUND], DELTA)
    for bad in ("one", "three"):
        with pytest.raises(ledger.BadTransition):
            ledger.append(rows[:-1], replace(entry, state=State.RELEASED, dataset=bad))


@pytest.mark.parametrize("bad", [{"event": SCHEDULE}, {"delta": 1e-3}, {"sharers": 3}, {"charge": 1}])
def test_a_cohort_takes_over_exactly_what_is_left(bad: dict[str, object]) -> None:
    rows = charged(ledger.append((), schedule("p", "one")), "p", 1)
    taken = ledger.taken_over(rows, "p", Split.TRAIN, "two", 20.0)
    with pytest.raises(ledger.BadTransition):
        ledger.append(rows, replace(taken, **bad))  # type: ignore[arg-type]
    with pytest.raises(ledger.NotRegistered):
        ledger.taken_over(rows, "q", Split.TRAIN, "two", 20.0)


def test_after_going_on_from_an_older_copy_everything_promised_counts_as_spent() -> None:
    rows = charged(ledger.append((), schedule("p", "one")), "p", 1)
    entry = ledger.next_charge(rows, plan="p", split=Split.TRAIN, round_number=2, attempt=1, event=ROUND)
    rows = ledger.append(rows, entry)
    assert ledger.spent(rows, "one", DELTA) < ALONE
    rows = ledger.append(rows, mark(State.RESTORED, count=1))
    ledger.verify(rows)
    assert ledger.spent(rows, "one", DELTA) == ledger.committed(rows, "one", DELTA) == ALONE
    assert ledger.left_open(rows) == {}
    assert ledger.restorations(rows) == 1
    with pytest.raises(ScheduleUsedUp):
        ledger.next_charge(rows, plan="p", split=Split.TRAIN, round_number=3, attempt=1, event=ROUND)
    with pytest.raises(ledger.BadTransition):
        ledger.append(rows, replace(entry, state=State.RUNNING))
    rows = charged(ledger.append(rows, schedule("q", "one")), "q", 1)
    assert ALONE < ledger.spent(rows, "one", DELTA) < BOTH


@pytest.mark.parametrize(
    "bad",
    [
        mark(State.RESTORED, count=0),
        replace(mark(State.RESTORED, count=1), plan="p"),
        replace(mark(State.RESTORED, count=1), charge=1),
        replace(mark(State.MIGRATED, name="x"), cap=1.0),
    ],
)
def test_a_mark_says_nothing_else(bad: Entry) -> None:
    with pytest.raises(ledger.BadTransition):
        ledger.append((), bad)


def test_marks_come_once_or_count_upward() -> None:
    rows = ledger.append((), mark(State.MIGRATED, name="x"))
    with pytest.raises(ledger.BadTransition):
        ledger.append(rows, mark(State.MIGRATED, name="y"))
    rows = ledger.append(rows, mark(State.RESTORED, count=3))
    with pytest.raises(ledger.BadTransition):
        ledger.append(rows, mark(State.RESTORED, count=3))
    edited = rows[1].as_dict() | {"round": 4}
    with pytest.raises(LedgerDamaged):
        ledger.verify((rows[0], ledger.parse_row(edited, number=2)))
