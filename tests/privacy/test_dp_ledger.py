"""The ledger's rules: nothing beyond the cap, nothing beyond the schedule, no edit unseen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.dp import ledger
from privacy.dp.accounting import Event, epsilon, filter_epsilon
from privacy.dp.ledger import Entry, LedgerDamaged, Row, ScheduleUsedUp, State
from privacy.dp.policy import Split
from tries import tries

DELTA = 1e-5
SCHEDULE = Event(3.288, 1.0, 30)
ROUND = replace(SCHEDULE, steps=3)


def schedule(plan: str = "p", dataset: str = "d", event: Event = SCHEDULE) -> Entry:
    return Entry(State.REGISTERED, dataset, plan, 0, 0, 0, event, DELTA, 8.0)


def with_charges(count: int) -> tuple[Row, ...]:
    rows = ledger.append((), schedule())
    for number in range(1, count + 1):
        entry = ledger.next_charge(
            rows,
            plan="p",
            split=Split.TRAIN,
            round_number=number,
            attempt=1,
            event=ROUND,
        )
        for state in (State.RESERVED, State.RUNNING, State.RELEASED):
            rows = ledger.append(rows, replace(entry, state=state))
    return rows


def test_a_whole_schedule_can_be_charged_to_its_last_round_and_no_further() -> None:
    rows = with_charges(10)
    assert ledger.spent(rows, "d", DELTA) == ledger.committed(rows, "d", DELTA) <= 8.0
    with pytest.raises(ScheduleUsedUp) as caught:
        ledger.next_charge(rows, plan="p", split=Split.TRAIN, round_number=10, attempt=2, event=ROUND)
    assert caught.value.spent < caught.value.asked
    assert caught.value.cap == 8.0


def test_a_repeated_round_is_charged_again() -> None:
    rows = with_charges(2)
    before = ledger.spent(rows, "d", DELTA)
    again = ledger.next_charge(rows, plan="p", split=Split.TRAIN, round_number=2, attempt=2, event=ROUND)
    rows = ledger.append(rows, again)
    assert ledger.spent(rows, "d", DELTA) == epsilon([Event(3.288, 1.0, 9)], DELTA) > before


def test_studies_of_one_dataset_compose_and_other_datasets_do_not_count() -> None:
    rows = ledger.append((), schedule())
    rows = ledger.append(rows, schedule(plan="other", dataset="elsewhere"))
    more = schedule(plan="more", event=Event(9.0, 1.0, 30))
    total = ledger.admit(rows, replace(more, cap=20.0))
    assert total == epsilon([SCHEDULE, Event(9.0, 1.0, 30)], DELTA)
    with pytest.raises(ledger.BudgetExceeded) as caught:
        ledger.admit(rows, more)
    assert caught.value.asked == total
    assert ledger.admit(rows, replace(more, dataset="new")) < total


def test_the_noise_of_others_counts_only_where_the_hospital_counts_it() -> None:
    """Three hospitals' equal noise is one of sqrt(3) times the size; without them the own noise is left."""
    trusting = replace(schedule(), sharers=3, cap=100.0)
    rows = ledger.append((), trusting)
    entry = ledger.next_charge(rows, plan="p", split=Split.TRAIN, round_number=1, attempt=1, event=SCHEDULE)
    assert entry.sharers == 3
    rows = ledger.append(rows, entry)
    assert ledger.spent(rows, "d", DELTA) == pytest.approx(epsilon([Event(3.288 * 3**0.5, 1.0, 30)], DELTA))
    assert ledger.spent(rows, "d", DELTA, joint=False) == epsilon([SCHEDULE], DELTA)
    with pytest.raises(ledger.BadTransition):
        ledger.append(rows[:1], replace(entry, sharers=5))


def test_the_smallest_delta_of_a_dataset_rules() -> None:
    strict = replace(schedule(), delta=1e-7)
    rows = ledger.append((), strict)
    total = ledger.admit(rows, replace(schedule(plan="second"), cap=100.0))
    assert total == epsilon([SCHEDULE, SCHEDULE], 1e-7)


def test_only_a_charge_whose_training_never_began_can_be_voided() -> None:
    rows = ledger.append((), schedule())
    entry = ledger.next_charge(rows, plan="p", split=Split.TRAIN, round_number=1, attempt=1, event=ROUND)
    reserved = ledger.append(rows, entry)
    assert ledger.spent(reserved, "d", DELTA) > 0
    voided = ledger.append(reserved, replace(entry, state=State.VOID))
    assert ledger.spent(voided, "d", DELTA) == 0
    running = ledger.append(reserved, replace(entry, state=State.RUNNING))
    for state in (State.VOID, State.RESERVED):
        with pytest.raises(ledger.BadTransition):
            ledger.append(running, replace(entry, state=state))


@pytest.mark.parametrize(
    "bad",
    [
        {"plan": "unknown"},
        {"dataset": "other"},
        {"charge": 0},
        {"event": Event(9.0, 1.0, 3)},
        {"event": Event(3.288, 0.5, 3)},
        {"event": Event(3.288, 1.0, 31)},
        {"state": State.RELEASED},
        {"delta": 1e-3},
    ],
)
def test_rows_that_do_not_follow_are_refused(bad: dict[str, object]) -> None:
    rows = ledger.append((), schedule())
    entry = ledger.next_charge(rows, plan="p", split=Split.TRAIN, round_number=1, attempt=1, event=ROUND)
    with pytest.raises(ledger.BadTransition):
        ledger.append(rows, replace(entry, **bad))  # type: ignore[arg-type]


def test_a_plan_is_registered_once_and_a_charge_needs_it() -> None:
    rows = ledger.append((), schedule())
    with pytest.raises(ledger.BadTransition):
        ledger.append(rows, schedule())
    with pytest.raises(ledger.NotRegistered):
        ledger.next_charge(
            rows,
            plan="unknown",
            split=Split.TRAIN,
            round_number=1,
            attempt=1,
            event=ROUND,
        )


def test_a_sound_ledger_verifies_and_survives_its_own_json() -> None:
    rows = with_charges(3)
    ledger.verify(rows)
    assert tuple(ledger.parse_row(r.as_dict(), number=r.number) for r in rows) == rows


@given(
    place=st.integers(0, 9), field=st.sampled_from(["steps", "noise_multiplier", "state", "hash", "previous"])
)
@settings(max_examples=tries(60), deadline=None)
def test_any_edit_is_found_and_the_first_bad_row_is_named(place: int, field: str) -> None:
    rows = list(with_charges(3))
    value = rows[place].as_dict()
    value[field] = {
        "steps": value["steps"] + 1,
        "noise_multiplier": value["noise_multiplier"] * 2,
        "state": "void" if value["state"] != "void" else "running",
        "hash": "f" * 64,
        "previous": "e" * 64,
    }[field]
    rows[place] = ledger.parse_row(value, number=place + 1)
    with pytest.raises(LedgerDamaged) as caught:
        ledger.verify(rows)
    assert caught.value.row == place + 1


@pytest.mark.parametrize("place", range(9))
def test_a_missing_or_swapped_row_is_found(place: int) -> None:
    rows = with_charges(3)
    with pytest.raises(LedgerDamaged) as caught:
        ledger.verify(rows[:place] + rows[place + 1 :])
    assert caught.value.row == place + 1
    swapped = (*rows[:place], rows[place + 1], rows[place], *rows[place + 2 :])
    with pytest.raises(LedgerDamaged):
        ledger.verify(swapped)


@pytest.mark.parametrize(
    "change", [{"steps": "3"}, {"round": 1.5}, {"unit": "image"}, {"extra": 1}, {"state": "x"}]
)
def test_a_row_of_the_wrong_form_is_refused(change: dict[str, object]) -> None:
    value = with_charges(1)[1].as_dict() | change
    with pytest.raises(LedgerDamaged) as caught:
        ledger.verify((with_charges(1)[0], ledger.parse_row(value, number=2)))
    assert caught.value.row == 2


def test_a_patient_pays_for_the_own_split_only() -> None:
    rows = ledger.append((), schedule())
    for split in (Split.VAL, Split.TEST):
        rows = ledger.append(rows, replace(schedule(), split=split, event=Event(0.601, 1.0, 1)))
    assert ledger.committed(rows, "d", DELTA) == max(
        epsilon([SCHEDULE], DELTA), epsilon([Event(0.601, 1.0, 1)], DELTA)
    )
    again = replace(schedule(plan="q", event=Event(0.601, 1.0, 1)), split=Split.TEST, cap=9.0)
    with pytest.raises(ledger.BudgetExceeded):
        ledger.admit(rows, again)
    assert ledger.admit(rows, replace(again, cap=20.0)) == epsilon([Event(0.601, 1.0, 2)], DELTA)


def test_a_plan_draws_each_split_from_its_own_schedule() -> None:
    rows = ledger.append((), schedule())
    with pytest.raises(ledger.NotRegistered):
        ledger.next_charge(
            rows, plan="p", split=Split.TEST, round_number=11, attempt=1, event=Event(0.601, 1.0, 1)
        )
    rows = ledger.append(rows, replace(schedule(), split=Split.TEST, event=Event(0.601, 1.0, 1)))
    entry = ledger.next_charge(
        rows, plan="p", split=Split.TEST, round_number=11, attempt=1, event=Event(0.601, 1.0, 1)
    )
    rows = ledger.append(rows, entry)
    assert ledger.spent(rows, "d", DELTA) == epsilon([Event(0.601, 1.0, 1)], DELTA)
    train = ledger.next_charge(rows, plan="p", split=Split.TRAIN, round_number=1, attempt=1, event=SCHEDULE)
    assert train.charge == entry.charge + 1
    with pytest.raises(ledger.BadTransition):
        ledger.append(rows, replace(train, split=Split.TEST))


def test_sampled_schedules_after_one_another_must_also_pass_the_renyi_filter() -> None:
    """Alone it is composed exactly; beside another the stricter bound for adaptive choice counts."""
    sampled = Event(1.0, 0.05, 400)
    alone = epsilon([sampled], DELTA)
    first = replace(schedule(event=sampled), cap=alone * 1.001)
    assert ledger.admit((), first) == alone
    rows = ledger.append((), replace(schedule(event=Event(200.0, 1.0, 1)), cap=20.0))
    exact = epsilon([sampled, Event(200.0, 1.0, 1)], DELTA)
    with pytest.raises(ledger.BudgetExceeded) as caught:
        ledger.admit(rows, replace(first, plan="q", cap=exact * 1.02))
    assert caught.value.asked == filter_epsilon([Event(200.0, 1.0, 1), sampled], DELTA, cap=exact * 1.02)
    assert ledger.admit(rows, replace(first, plan="q", cap=exact * 1.3)) < exact * 1.3
    other = replace(first, plan="q", split=Split.VAL, cap=alone * 1.001)
    assert ledger.admit(rows, other) < exact  # other patients: nothing to choose by


def test_what_a_crash_left_open_is_known_and_what_was_released_is_not_in_it() -> None:
    rows = with_charges(1)
    for number, states in ((2, [State.RESERVED]), (3, [State.RESERVED, State.RUNNING, State.RUNNING])):
        entry = ledger.next_charge(
            rows,
            plan="p",
            split=Split.TRAIN,
            round_number=number,
            attempt=1,
            event=ROUND,
        )
        for state in states:
            rows = ledger.append(rows, replace(entry, state=state))
    ledger.verify(rows)
    assert {key[2] for key in ledger.left_open(rows)} == {2, 3}


@pytest.mark.slow
def test_a_long_ledger_is_verified_in_little_time() -> None:
    """Every row is held against what is known, not against all rows before it."""
    rows: tuple[Row, ...] = ledger.append((), schedule(event=Event(9.0, 1.0, 3000)))
    known = list(rows)
    for number in range(1, 1001):
        entry = Entry(State.RESERVED, "d", "p", number, 1, number, Event(9.0, 1.0, 3), DELTA, 8.0)
        for state in (State.RESERVED, State.RUNNING, State.RELEASED):
            known.append(ledger._sealed(known[-1], replace(entry, state=state)))
    assert calls_of(lambda: ledger.verify(known)) < 2.2 * calls_of(lambda: ledger.verify(known[:1501]))


def calls_of(action: Callable[[], object]) -> int:
    """How many functions are called: the same on a slow machine as on a fast one."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


FALLING = (Event(9.0, 1.0, 3), Event(6.0, 1.0, 3), Event(4.0, 1.0, 3))


def falling(count: int = 0) -> tuple[Row, ...]:
    whole = ledger.promise("d", "p", Split.TRAIN, FALLING, delta=DELTA, cap=8.0)
    rows = ledger.append((), whole)
    for number, event in enumerate(FALLING[:count], start=1):
        rows = charged(rows, number, event)
    return rows


def charged(rows: tuple[Row, ...], number: int, event: Event) -> tuple[Row, ...]:
    entry = ledger.next_charge(rows, plan="p", split=Split.TRAIN, round_number=number, attempt=1, event=event)
    for state in (State.RESERVED, State.RUNNING, State.RELEASED):
        rows = ledger.append(rows, replace(entry, state=state))
    return rows


def test_rounds_of_different_noise_are_promised_together_and_each_costs_its_own() -> None:
    rows = falling(2)
    ledger.verify(rows)
    assert tuple(ledger.parse_row(r.as_dict(), number=r.number) for r in rows) == rows
    assert ledger.committed(rows, "d", DELTA) == epsilon(FALLING, DELTA)
    assert ledger.spent(rows, "d", DELTA) == epsilon(FALLING[:2], DELTA)
    rows = charged(rows, 3, FALLING[2])
    assert ledger.spent(rows, "d", DELTA) == ledger.committed(rows, "d", DELTA)
    for event in FALLING:
        with pytest.raises(ScheduleUsedUp):
            charged(rows, 4, event)


def test_a_repeated_round_takes_the_price_of_a_later_one_and_no_other_noise_is_charged() -> None:
    rows = charged(falling(2), 1, FALLING[0])
    with pytest.raises(ScheduleUsedUp):
        charged(rows, 3, FALLING[2])
    with pytest.raises(ledger.BadTransition, match="not the registered noise"):
        charged(rows, 3, Event(20.0, 1.0, 1))
    assert ledger.spent(rows, "d", DELTA) < ledger.committed(rows, "d", DELTA)


def test_another_cohort_takes_over_the_noise_of_the_rounds_that_are_left() -> None:
    rows = falling(1)
    taken = ledger.taken_over(rows, "p", Split.TRAIN, "e", 8.0)
    rows = ledger.append(rows, taken)
    assert ledger.committed(rows, "e", DELTA) == epsilon(FALLING[1:], DELTA)
    with pytest.raises(ledger.BadTransition):
        ledger.append(rows[:-1], replace(taken, further=taken.further[:1]))
