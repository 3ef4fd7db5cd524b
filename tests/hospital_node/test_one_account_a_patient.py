"""Budget follows the patient: no other name, folder or older file gives a patient a second one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.storage.ledgerends import LedgerBehind
from aggregator.storage.register import Party
from folders import lines_of
from hospital_node import operator
from hospital_node.cli import app
from hospital_node.cohort import CohortDamaged
from hospital_node.ledger import LedgerBusy, LedgerReplaced, LedgerSetBack
from hospital_node.operator import opened
from hospital_node.records import Records
from hospitals import LOCAL, PEOPLE, Hospital, charge, make_hospital, plan_of
from medveil.errors import Error
from medveil.identity import BadSignature, Identity
from medveil.messages import LedgerEnd, PlanOffers, sign_ledger_end
from medveil.shown import NotConfirmed
from one_budget import ALONE, go_on_from, spent_once
from privacy.dp.ledger import BudgetExceeded, LedgerDamaged, ScheduleUsedUp
from world import World

Build = Callable[..., World]


@pytest.mark.parametrize("name", ["films", "films ", "Films", "films-2", "ﬁlms"])
def test_another_name_of_the_data_set_is_no_second_budget(tmp_path: Path, name: str) -> None:
    hospital, second = spent_once(tmp_path)
    with pytest.raises(BudgetExceeded):
        hospital.named(name).approve(second)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "capital letters": str.upper,
    "spaces": lambda p: f" {p}\u00a0",
    "zero width": lambda p: f"{p[:2]}\u200b{p[2:]}",
    "another dash": lambda p: p.replace("-", "\u2013"),
    "full width": lambda p: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in p),
    "leading zeros": lambda p: p.replace("-", "-00"),
    "an underscore": lambda p: p.replace("-", "_"),
    "a Cyrillic a": lambda p: p.replace("a", "\u0430"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_of_the_pseudonyms_is_no_second_budget(tmp_path: Path, spelling: str) -> None:
    hospital, second = spent_once(tmp_path)
    hospital.write([(f, SPELLINGS[spelling](p), s, n) for f, p, s, n in lines_of()])
    with pytest.raises(BudgetExceeded):
        hospital.approve(second)


def test_a_new_pseudonym_with_the_same_images_is_no_second_budget(tmp_path: Path) -> None:
    hospital, second = spent_once(tmp_path)
    hospital.write([(f, f"renamed-{p}", s, n) for f, p, s, n in lines_of()])
    with pytest.raises(BudgetExceeded):
        hospital.approve(second)


def test_other_patients_have_a_budget_of_their_own(tmp_path: Path) -> None:
    hospital, second = spent_once(tmp_path)
    hospital.write([(f"other-{f}", f"other-{p}", s, n) for f, p, s, n in lines_of()])
    hospital.approve(second)
    hospital.runs(second, 1, 2)
    with hospital.works() as records:
        assert records.ledger.spent() <= records.ledger.committed() == pytest.approx(ALONE)


def test_one_patient_who_has_paid_before_is_enough_to_refuse_the_next_study(tmp_path: Path) -> None:
    hospital, second = spent_once(tmp_path)
    others = [(f"other-{f}", f"other-{p}", s, n) for f, p, s, n in lines_of()]
    hospital.write([*others, ("train-3-0.png", "train-3", "train", 1)])
    with pytest.raises(BudgetExceeded):
        hospital.approve(second)


def test_a_patient_keeps_the_first_split_for_life(tmp_path: Path) -> None:
    hospital, first = make_hospital(tmp_path, epsilon_cap=50.0), plan_of()
    hospital.approve(first)
    hospital.runs(first, 1)
    swap = {"train": "test", "test": "train", "val": "val"}
    hospital.write([(f, p, swap[s], n) for f, p, s, n in lines_of()])
    second = plan_of("second")
    with pytest.raises(Error, match="no patient whom it could train on"):
        hospital.approve(second)
    hospital.write([(f, p, "train" if p == "test-0" else s, n) for f, p, s, n in lines_of()])
    hospital.approve(second)
    with hospital.works() as records:
        use = records.use(second)
        assert use is not None
        assert len(use.cohort.patients) == 12 + 3  # test-0 has moved, nothing is released about val


# ---- files that are gone, cut, exchanged or older ----------------------------------------------------------


def cut(path: Path, rows: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-rows]))


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_rows_that_are_cut_off_are_missed(tmp_path: Path, rows: int) -> None:
    hospital, second = spent_once(tmp_path)
    cut(hospital.node.ledger, rows)
    with pytest.raises(LedgerSetBack) as caught, hospital.works():
        pass
    assert "go-on" in caught.value.remedy
    with pytest.raises(LedgerSetBack):
        hospital.approve(second)


def test_a_deleted_ledger_is_missed(tmp_path: Path) -> None:
    hospital, second = spent_once(tmp_path)
    hospital.node.ledger.unlink()
    for attempt in (lambda: hospital.approve(second), lambda: hospital.runs(second)):
        with pytest.raises(LedgerSetBack):
            attempt()


def test_another_ledger_in_its_place_is_seen(tmp_path: Path) -> None:
    hospital, _ = spent_once(tmp_path / "a")
    other, plan = make_hospital(tmp_path / "b"), plan_of("another")
    other.approve(plan)
    other.runs(plan, 1, 2)
    shutil.copy(other.node.ledger, hospital.node.ledger)
    for path in other.node.cohorts.iterdir():
        shutil.copy(path, hospital.node.cohorts)
    with pytest.raises(LedgerSetBack), hospital.works():
        pass


def test_a_journal_that_is_gone_or_older_is_missed(tmp_path: Path) -> None:
    hospital, first = make_hospital(tmp_path), plan_of()
    hospital.approve(first)
    hospital.runs(first)
    older = hospital.node.journal.read_bytes()
    hospital.runs(first, 1, 2)
    hospital.node.journal.write_bytes(older)
    with pytest.raises(LedgerSetBack, match="the journal is older"), hospital.works():
        pass
    hospital.node.journal.unlink()
    with pytest.raises(LedgerSetBack), hospital.works():
        pass


def test_a_crash_between_a_row_and_the_journal_is_no_set_back(tmp_path: Path) -> None:
    hospital, first = make_hospital(tmp_path), plan_of()
    hospital.approve(first)
    hospital.runs(first)
    with hospital.works() as records:
        records.ledger.charge(first.study, plan_id=first.id, round_number=1, attempt=1)
        before = hospital.node.journal.read_bytes()
        records.ledger.charge(first.study, plan_id=first.id, round_number=2, attempt=1)
    hospital.node.journal.write_bytes(before)
    with hospital.works() as records:
        records.ledger.verify()


@pytest.mark.parametrize("how", ["replaced", "deleted", "cut", "longer"])
def test_a_ledger_that_is_exchanged_under_a_running_node_takes_no_further_row(
    tmp_path: Path, how: str
) -> None:
    hospital, first = make_hospital(tmp_path), plan_of()
    hospital.approve(first)
    with hospital.works() as records:
        records.register(first)
        charge(records, first, 1)
        path = hospital.node.ledger
        content = path.read_bytes()
        if how in ("replaced", "deleted"):
            path.unlink()
        if how == "replaced":
            path.write_bytes(content)
        if how == "cut":
            os.truncate(path, len(content) - len(content.splitlines(keepends=True)[-1]))
        if how == "longer":
            path.write_bytes(content + b"{}\n")
        if how != "longer":
            with pytest.raises(LedgerBusy), opened(hospital.node) as journal:
                Records.open(hospital.node, PEOPLE[0], journal)
        with pytest.raises(LedgerReplaced):
            charge(records, first, 2)


def test_a_cohort_that_is_gone_or_altered_stops_everything_private_by_name(tmp_path: Path) -> None:
    hospital, second = spent_once(tmp_path)
    with hospital.works() as records:
        name = records.ledger.rows()[0].entry.dataset
    path = hospital.node.cohorts / f"{name.removeprefix('cohort:')}.json"
    whole = path.read_text()
    path.write_text(whole.replace('"train"', '"test"', 1))
    with pytest.raises(CohortDamaged), hospital.works():
        pass
    path.unlink()
    for attempt in (lambda: hospital.approve(second), lambda: hospital.runs(second)):
        with pytest.raises(CohortDamaged):
            attempt()


# ---- going on from an older copy --------------------------------------------------------------------------


def test_going_on_from_an_older_copy_is_the_operators_word_and_everything_promised_is_spent(
    tmp_path: Path,
) -> None:
    hospital, first = make_hospital(tmp_path, epsilon_cap=50.0), plan_of()
    hospital.approve(first)
    hospital.runs(first, 1)
    cut(hospital.node.ledger, 3)
    with pytest.raises(LedgerSetBack), hospital.works():
        pass
    go_on_from(hospital)
    with hospital.works() as records:
        assert records.ledger.spent() == records.ledger.committed() == pytest.approx(ALONE)
        with pytest.raises(ScheduleUsedUp):
            charge(records, first, 2)
    second = plan_of("second")
    hospital.approve(second)
    hospital.runs(second, 1, 2)
    with hospital.works() as records:
        assert records.ledger.spent() > ALONE


def test_after_everything_is_lost_everybody_pays_for_what_this_hospital_has_signed(tmp_path: Path) -> None:
    hospital, second = spent_once(tmp_path)
    hospital.node.ledger.unlink()
    shutil.rmtree(hospital.node.cohorts)
    go_on_from(hospital)
    hospital.write([(f"other-{f}", f"other-{p}", s, n) for f, p, s, n in lines_of()])
    with pytest.raises(BudgetExceeded):
        hospital.approve(second)
    with hospital.works() as records:
        assert records.ledger.spent() > ALONE  # train and test of it: nobody knows any more who was where


@pytest.mark.parametrize("how", ["deleted", "altered"])
def test_a_lost_cohort_is_paid_by_everybody_once_the_operator_goes_on(tmp_path: Path, how: str) -> None:
    hospital, second = spent_once(tmp_path)
    for path in hospital.node.cohorts.iterdir():
        path.write_bytes(b"{")
    if how == "deleted":
        shutil.rmtree(hospital.node.cohorts)
    go_on_from(hospital)
    (one,) = operator.frozen_plans(hospital.node)
    assert one.cohort is None
    hospital.write([(f"other-{f}", f"other-{p}", s, n) for f, p, s, n in lines_of()])
    with pytest.raises(BudgetExceeded):
        hospital.approve(second)


def test_the_command_shows_what_ends_and_asks(tmp_path: Path) -> None:
    hospital, _ = spent_once(tmp_path)
    cut(hospital.node.ledger, 3)
    words = ["ledger", "go-on", "--no-ask", "--folder", str(hospital.node.folder)]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, NotConfirmed)
    assert "ends here" in refused.output
    with pytest.raises(LedgerSetBack), hospital.works():
        pass
    assert CliRunner().invoke(app, [*words, "--yes"]).exit_code == 0
    with hospital.works() as records:
        records.ledger.verify()
    shown = CliRunner().invoke(app, ["ledger", "--rows", "--folder", str(hospital.node.folder)]).output
    assert "restored" in shown
    assert "all, restored" in " ".join(shown.split())


def test_nobody_goes_on_beside_a_running_node_or_from_a_file_that_was_edited(tmp_path: Path) -> None:
    hospital, _ = spent_once(tmp_path)
    with hospital.works(), pytest.raises(LedgerBusy):
        go_on_from(hospital)
    text = hospital.node.ledger.read_text()
    hospital.node.ledger.write_text(text.replace('"steps":2', '"steps":1', 1))
    with pytest.raises(LedgerDamaged):
        go_on_from(hospital)


# ---- the aggregator's audit log knows where the ledger ended ----------------------------------------------


def told(hospital: Hospital) -> LedgerEnd:
    with hospital.works() as records:
        end = records.end()
        assert end is not None
        assert str(end) == records.end_text()
        return end


def test_a_folder_that_was_set_back_as_a_whole_learns_it_from_the_aggregator(
    tmp_path: Path, build: Build
) -> None:
    world, party = build(), Party("hospital-1", "hospital", PEOPLE[0].public_key)
    hospital, first = make_hospital(tmp_path), plan_of()
    hospital.approve(first)
    hospital.runs(first)
    backup = hospital.copied("backup")
    hospital.runs(first, 1, 2)
    world.coordinator.ledger_ends.note(party, str(told(hospital)))
    entries = [e for e in world.store.log.entries() if e.action == "ledger.noted"]
    assert [e.subject for e in entries] == ["settings/ledger/hospital-1"]
    world.restart()
    seen = world.coordinator.instructions.offers("hospital-1").ledger
    assert seen == told(hospital)
    with hospital.works() as records:
        records.meet(seen)
        records.register(first)
    with backup.works() as records:  # each file of it fits the others
        records.meet(seen)
        with pytest.raises(LedgerSetBack, match="the aggregator has seen"):
            records.register(first)
        assert records.end() is None
    with backup.works() as records:  # and the alarm stands, also when the aggregator was set back as well
        records.meet(None)
        with pytest.raises(LedgerSetBack):
            records.register(first)
    with pytest.raises(LedgerSetBack):
        backup.approve(plan_of("second"))
    go_on_from(backup, seen)
    with backup.works() as records:
        records.meet(seen)
        end = records.end()
        assert end is not None
        assert end.count == 1
        world.coordinator.ledger_ends.note(party, str(end))
    with hospital.works() as records:  # the folder that was thought lost may not go on beside it
        records.meet(end)
        with pytest.raises(LedgerSetBack):
            records.register(first)


def test_a_second_folder_with_a_copied_identity_is_noticed_on_either_side(
    tmp_path: Path, build: Build
) -> None:
    world, party = build(), Party("hospital-1", "hospital", PEOPLE[0].public_key)
    hospital, first = make_hospital(tmp_path), plan_of()
    hospital.approve(first)
    hospital.runs(first)
    second = hospital.copied("second")
    hospital.runs(first, 1)
    second.runs(first, 1)
    ends = world.coordinator.ledger_ends
    ends.note(party, str(told(hospital)))
    with pytest.raises(LedgerBehind):  # as long, and another one
        ends.note(party, str(told(second)))
    second.runs(first, 2)
    with second.works() as records:
        records.meet(ends.newest("hospital-1"))
        with pytest.raises(LedgerSetBack):
            records.register(first)
    ends.note(party, str(told(hospital)))
    with pytest.raises(LedgerBehind):
        ends.note(party, str(sign_ledger_end(PEOPLE[0], 0, 1, bytes(32))))


def test_nobody_else_can_say_where_a_ledger_ends(tmp_path: Path, build: Build) -> None:
    world, party = build(), Party("hospital-1", "hospital", PEOPLE[0].public_key)
    forged = sign_ledger_end(Identity.generate("hospital-1"), 9, 9, bytes(32))
    with pytest.raises(BadSignature):
        world.coordinator.ledger_ends.note(party, str(forged))
    hospital, first = make_hospital(tmp_path), plan_of()
    hospital.approve(first)
    hospital.runs(first, 1)
    with hospital.works() as records:
        with pytest.raises(BadSignature):
            records.meet(forged)
        records.register(first)
    assert PlanOffers.from_bytes(PlanOffers(offers=(), ledger=forged).to_bytes()).ledger == forged


def test_what_the_aggregator_keeps_tells_nothing_of_the_rows(tmp_path: Path) -> None:
    """The same rows under two identities make two marks, so nobody can try what a row might say."""
    hospital, first = make_hospital(tmp_path), plan_of()
    hospital.approve(first)
    hospital.runs(first, 1)
    with hospital.works() as records:
        rows, end = records.ledger.rows(), records.end()
        assert end is not None
        assert rows[-1].hash not in str(end)
        with opened(hospital.node) as journal, Records.view(hospital.node, PEOPLE[1], journal) as other:
            another = other.end()
            assert another is not None
            assert another.mark != end.mark


def test_privacy_of_the_study_is_what_the_tests_take_it_for() -> None:
    assert plan_of().study.privacy.epsilon == LOCAL["epsilon"]
    assert LOCAL["epsilon"] > ALONE
