"""Ledger and splits as version 0.1 left them: brought into today's form once, and nobody pays less for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from folders import lines_of
from hospital_node.ledger import LedgerSetBack
from hospital_node.splits import SplitsDamaged, read_former
from hospitals import PEOPLE, Hospital, as_of_version_0_1, charge, make_hospital, plan_of
from medveil.errors import Error
from medveil.plan import Plan
from one_budget import ALONE, CAP, go_on_from
from privacy.dp.ledger import BudgetExceeded, ScheduleUsedUp


def old_node(tmp_path: Path, *, cap: float = CAP) -> tuple[Hospital, Plan]:
    """A folder as version 0.1 left it after a whole study on the data set "films"."""
    hospital, first = make_hospital(tmp_path, epsilon_cap=cap), plan_of()
    from hospital_node.ledger import Ledger

    with Ledger.open(hospital.node.ledger) as ledger:
        ledger.register(first.study, plan_id=first.id, dataset="films", cap=cap)
        for number in (1, 2):
            one = ledger.charge(first.study, plan_id=first.id, round_number=number, attempt=1)
            one.begin()
            one.end()
    as_of_version_0_1(hospital, {p: s for _, p, s, _ in lines_of() if s != "val"})
    return hospital, first


def test_an_old_ledger_keeps_every_row_and_its_patients_have_paid(tmp_path: Path) -> None:
    hospital, _ = old_node(tmp_path)
    before = hospital.node.ledger.read_bytes()
    with hospital.works() as records:
        assert records.ledger.spent() == records.ledger.committed() == pytest.approx(ALONE)
    assert hospital.node.ledger.read_bytes().startswith(before)
    for name in ("films", "films ", "others"):
        with pytest.raises(BudgetExceeded):
            hospital.named(name).approve(plan_of("second"))
    hospital.write([(f"other-{f}", f"other-{p}", s, n) for f, p, s, n in lines_of()])
    with pytest.raises(BudgetExceeded):  # as ever: they joined that data set
        hospital.approve(plan_of("second"))
    hospital.named("others").approve(plan_of("second"))


def test_an_old_splits_file_loses_its_key_and_keeps_what_it_knows(tmp_path: Path) -> None:
    hospital, _ = old_node(tmp_path, cap=50.0)
    key = json.loads(hospital.node.splits.read_text())["key"]
    swap = {"train": "test", "test": "train", "val": "val"}
    hospital.write([(f, p, swap[s], n) for f, p, s, n in lines_of()])
    with pytest.raises(Error, match="no patient whom it could train on"):
        hospital.approve(plan_of("second"))
    text = hospital.node.splits.read_text()
    assert key not in text
    assert "key" not in json.loads(text)
    former, name = read_former(hospital.node.splits, PEOPLE[0])
    assert former.before("train-3") == {"films": "train"}
    assert former.before("nobody") == {}
    assert len(former) == 16
    with hospital.works() as records:
        assert [r.entry.dataset for r in records.ledger.rows()][-1] == name
    with pytest.raises(SplitsDamaged):  # trying names takes this node's identity
        read_former(hospital.node.splits, PEOPLE[1])


@pytest.mark.parametrize("when", ["before the upgrade", "after it"])
@pytest.mark.parametrize("how", ["deleted", "altered", "emptied"])
def test_old_splits_that_are_gone_or_altered_are_missed(tmp_path: Path, when: str, how: str) -> None:
    hospital, _ = old_node(tmp_path)
    if when == "after it":
        with hospital.works():
            pass
    path = hospital.node.splits
    if how == "deleted":
        path.unlink()
    elif how == "altered" and when == "after it":
        path.write_text(path.read_text().replace('"train"', '"test"', 1))
    else:
        path.write_text("{")
    for attempt in (lambda: hospital.approve(plan_of("second")), lambda: hospital.runs(plan_of("second"))):
        with pytest.raises(SplitsDamaged) as caught:
            attempt()
        assert "backup" in caught.value.remedy
    go_on_from(hospital)
    with pytest.raises(BudgetExceeded):
        hospital.named("others").approve(plan_of("second"))


def test_two_processes_that_bring_old_splits_into_todays_form_write_the_same(tmp_path: Path) -> None:
    hospital, _ = old_node(tmp_path)
    old = hospital.node.splits.read_bytes()
    name = read_former(hospital.node.splits, PEOPLE[0])[1]
    hospital.node.splits.write_bytes(old)
    assert read_former(hospital.node.splits, PEOPLE[0])[1] == name


def test_old_splits_without_a_ledger_are_a_ledger_that_was_deleted(tmp_path: Path) -> None:
    hospital, _ = old_node(tmp_path)
    hospital.node.ledger.unlink()
    with pytest.raises(LedgerSetBack), hospital.works():
        pass


def test_an_old_plan_that_never_ran_goes_on_when_its_cohort_is_taken(tmp_path: Path) -> None:
    hospital, first = make_hospital(tmp_path, epsilon_cap=CAP), plan_of()
    from hospital_node.ledger import Ledger

    with Ledger.open(hospital.node.ledger) as ledger:
        ledger.register(first.study, plan_id=first.id, dataset="films", cap=CAP)
    hospital.approve(first)
    hospital.runs(first, 1, 2)
    with hospital.works() as records:
        assert records.ledger.spent() == pytest.approx(records.ledger.committed(), abs=ALONE)
        assert records.ledger.committed() == pytest.approx(ALONE)


def test_an_old_plan_in_the_middle_goes_on_and_pays_once(tmp_path: Path) -> None:
    hospital, first = old_node(tmp_path)
    hospital.approve(first)
    with hospital.works() as records:
        records.register(first)
        assert records.ledger.committed() == pytest.approx(ALONE)
        with pytest.raises(ScheduleUsedUp):
            charge(records, first, 2)
