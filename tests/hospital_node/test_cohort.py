"""Whom a plan may use is frozen at its approval: by patient, image, split and label, whatever names say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from folders import film, lines_of
from hospital_node.cli import app
from hospital_node.cohort import (
    Changes,
    Cohort,
    CohortChanged,
    CohortDamaged,
    CohortMissing,
    Cohorts,
    Held,
    Names,
)
from hospital_node.governance import PlanRefused
from hospital_node.journal import Journal
from hospital_node.operator import opened
from hospital_node.records import Read
from hospitals import PEOPLE, Hospital, make_hospital, plan_of
from medveil.identity import Identity
from medveil.plan import Plan, sign_approval
from medveil_imaging.sources.site import read_site
from privacy.dp.ledger import BudgetExceeded
from privacy.dp.policy import Split, cost
from tries import leading


def command(hospital: Hospital, *words: str) -> str:
    found = CliRunner().invoke(app, [*words, "--folder", str(hospital.node.folder)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return " ".join(found.output.split())


def checked(hospital: Hospital, plan: Plan) -> Any:
    """What a plan's computation would train on."""
    with hospital.works() as records:
        records.register(plan)
        read = records.read(plan, lambda p: read_site(hospital.images, p.study))
        return records.check(plan, read)


def changes_of(hospital: Hospital, plan: Plan) -> Changes:
    with pytest.raises(CohortChanged) as caught:
        checked(hospital, plan)
    return caught.value.changes


def test_a_folder_that_is_what_was_approved_is_used_whole(tmp_path: Path) -> None:
    hospital, plan = make_hospital(tmp_path), plan_of()
    hospital.approve(plan)
    site = checked(hospital, plan)
    assert [len(site.train), len(site.val), len(site.test)] == [12, 0, 4]  # nothing is released about val


LINES = lines_of(images=2)
CHANGED: dict[str, tuple[Any, dict[str, int]]] = {
    "a patient more": (
        lambda h: h.write([*LINES, ("new.png", "new", "train", 0)]),
        {"joined": 1},
    ),
    "a patient less": (lambda h: h.write(LINES[2:]), {"gone": 1}),
    "an image more": (
        lambda h: h.write([*LINES, ("more.png", "train-0", "train", 0)]),
        {"with other images": 1},
    ),
    "an image less": (lambda h: h.write(LINES[1:]), {"with other images": 1}),
    "another image under the same name": (
        lambda h: film(h.images / LINES[0][0], 4711),
        {"with other images": 1},
    ),
    "another label": (
        lambda h: h.write([(LINES[0][0], "train-0", "train", 1), *LINES[1:]]),
        {"with other labels": 1},
    ),
    "another split": (
        lambda h: h.write([(f, p, "test" if p == "train-0" else s, n) for f, p, s, n in LINES]),
        {"in another split": 1},
    ),
    "another pseudonym": (
        lambda h: h.write([(f, "who" if p == "train-0" else p, s, n) for f, p, s, n in LINES]),
        {"joined": 1, "gone": 1},
    ),
    "an empty folder": (lambda h: h.write([]), {"gone": 20}),
}


@pytest.mark.parametrize("change", leading(CHANGED, 5))
def test_a_private_plan_refuses_a_folder_that_has_changed_and_tells_counts_only(
    tmp_path: Path, change: str
) -> None:
    hospital, plan = make_hospital(tmp_path, LINES), plan_of()
    hospital.approve(plan)
    act, expected = CHANGED[change]
    act(hospital)
    with capture_logs() as logs:
        changes = changes_of(hospital, plan)
    assert {kind: count for kind, count in changes.counts.items() if count} == expected
    told = str(CohortChanged(changes=changes)) + json.dumps(logs) + repr(changes)
    assert not any(word in told for word in ("train-0", ".png", "who"))
    assert [e["event"] for e in logs] == ["cohort.changed"]


@pytest.mark.parametrize(
    "same",
    [
        lambda lines: lines[::-1],
        lambda lines: [(f, p.upper(), s, n) for f, p, s, n in lines],
        lambda lines: [(f, f" {p} ", s.upper(), n) for f, p, s, n in lines],
    ],
    ids=["another order", "capital letters", "spaces"],
)
def test_the_same_patients_written_otherwise_are_no_change(tmp_path: Path, same: Any) -> None:
    hospital, plan = make_hospital(tmp_path, LINES), plan_of()
    hospital.approve(plan)
    hospital.write(same(LINES))
    assert len(checked(hospital, plan).train) == 12


def test_the_operator_takes_the_folder_as_it_is_and_the_plan_goes_on(tmp_path: Path) -> None:
    hospital, plan = make_hospital(tmp_path, LINES), plan_of()
    hospital.approve(plan)
    hospital.runs(plan, 1)
    hospital.write([*LINES[2:], ("new.png", "new", "train", 0)])
    changes_of(hospital, plan)
    hospital.take(plan)
    site = checked(hospital, plan)
    assert {p.patient for p in site.train} == {*(f"train-{i}" for i in range(1, 12)), "new"}
    hospital.runs(plan, 2)
    with hospital.works() as records:
        names, known = Names(PEOPLE[0]), Cohorts(hospital.node.cohorts).all()
        held = {n: h for c in known for n, h in c.patients.items()}
        paid = {
            who: records.ledger.spent(Cohort("films", {names.patient(who): held[names.patient(who)]}))
            for who in ("train-0", "train-1", "new", "val-0")
        }
    assert paid["train-1"] > paid["train-0"] == paid["new"] > 0  # two rounds, the first, the second
    assert paid["val-0"] == 0


def test_a_patient_who_says_no_can_go_at_any_time_by_the_operators_word(tmp_path: Path) -> None:
    """Also where the cap is used up to the last bit."""
    hospital, plan = make_hospital(tmp_path, LINES), plan_of()
    hospital.approve(plan)
    hospital.runs(plan, 1)
    with hospital.works() as records:
        full = records.ledger.committed()
    changed = hospital.node.settings.policy.model_copy(update={"epsilon_cap": full})
    hospital.node.settings = hospital.node.settings.model_copy(update={"policy": changed})
    hospital.node.save()
    for left in range(1, 4):
        hospital.write(LINES[2 * left :])
        hospital.take(plan)
        assert len(checked(hospital, plan).train) == 12 - left


def test_who_joins_must_be_able_to_pay_and_else_nothing_changes(tmp_path: Path) -> None:
    first, second = plan_of(), plan_of("second")
    alone = cost(first.study).epsilon_local
    hospital = make_hospital(tmp_path, LINES, epsilon_cap=1.1 * alone)
    hospital.approve(first)
    hospital.runs(first, 1, 2)
    hospital.write([("o.png", "other", "train", 0)])
    hospital.approve(second)
    hospital.runs(second, 1)
    hospital.write([*LINES, ("o.png", "other", "train", 0)])
    with pytest.raises(BudgetExceeded):
        hospital.take(second)
    with opened(hospital.node) as journal, hospital.works() as records:
        part = records.plans.part(second.id)
        assert part is not None
        assert part.turn == 1
        assert [p.id for p, _ in journal.approved()] == [first.id, second.id]


def test_a_plan_without_privacy_is_warned_about_and_runs(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path, LINES, allow_no_privacy=True)
    plan = plan_of(privacy={"kind": "none"})
    hospital.approve(plan)
    hospital.write(LINES[2:])
    with capture_logs() as logs:
        assert len(checked(hospital, plan).train) == 11
    assert [e["event"] for e in logs] == ["cohort.changed"]


def test_a_folder_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    hospital, plan = make_hospital(tmp_path, LINES), plan_of()
    hospital.approve(plan)

    def read(one: Plan) -> Any:
        site = read_site(hospital.images, one.study)
        film(hospital.images / LINES[0][0], 4711)
        return site

    with hospital.works() as records, pytest.raises(CohortChanged):
        records.read(plan, read)


def test_a_plan_that_an_earlier_version_approved_waits_for_the_operators_word(tmp_path: Path) -> None:
    hospital, plan = make_hospital(tmp_path), plan_of()
    journal = Journal(hospital.node.journal)
    journal.approve(plan, sign_approval(plan, PEOPLE[0]))
    journal.close()
    with pytest.raises(CohortMissing) as caught, hospital.works() as records:
        records.register(plan)
    assert "medveil node cohort --take" in caught.value.remedy
    assert "approved with an earlier version" in command(hospital, "cohort")
    assert "Taken. 10 patients" in command(hospital, "cohort", "--take", "--yes")
    assert len(checked(hospital, plan).train) == 12


def test_a_plan_for_an_empty_folder_is_not_approved(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path, [])
    with pytest.raises(PlanRefused, match="no patient"):
        hospital.approve(plan_of())


def test_the_operator_sees_line_and_file_of_what_has_changed_and_how_to_take_it(tmp_path: Path) -> None:
    hospital, plan = make_hospital(tmp_path, LINES), plan_of()
    hospital.approve(plan)
    assert "unchanged" in command(hospital, "cohort")
    hospital.write([(LINES[0][0], "train-0", "train", 1), *LINES[1:-2], ("new.png", "new", "train", 0)])
    from hospital_node.cli_cohort import check_images

    with CliRunner().isolation() as (out, *_):
        assert check_images(hospital.node, plan.study, plan) == 1
        shown = " ".join(out.getvalue().decode().split())
    for words in ("the label is another one", LINES[0][0], "this patient has joined", "new.png"):
        assert words in shown
    assert "1 patient(s) are gone" in shown
    assert "1 patient(s) joined, 1 patient(s) gone, 1 patient(s) with other labels" in command(
        hospital, "cohort"
    )


# ---- the declared number ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(15, 14), (26, 25), (106, 105)])
def test_one_patient_less_and_a_restart_keep_divisor_and_weight(
    tmp_path: Path, before: int, after: int
) -> None:
    lines = lines_of((("train", before), ("test", 1)))
    hospital, plan = (
        make_hospital(tmp_path, lines),
        plan_of(secure_aggregation={"update_clip": 2.0, "max_weight": 500}),
    )
    hospital.approve(plan)
    with hospital.works() as records:
        first = records.use(plan)
    hospital.write(lines[before - after :])
    hospital.take(plan)
    with hospital.works() as records:
        second = records.use(plan)
    assert first is not None
    assert second is not None
    assert second.declared == first.declared
    assert second.cohort.count(Split.TRAIN) == first.cohort.count(Split.TRAIN) - 1


def test_the_operator_declares_another_number_once_and_for_all(tmp_path: Path) -> None:
    hospital, plan = make_hospital(tmp_path), plan_of()
    for wrong in (0, 101):
        with pytest.raises(PlanRefused, match="10 to 100"):
            hospital.approve(plan, patients=wrong)
    hospital.approve(plan, patients=30)
    hospital.approve(plan)
    with pytest.raises(PlanRefused, match="for the plan's life"):
        hospital.approve(plan, patients=40)
    with hospital.works() as records:
        use = records.use(plan)
    assert use is not None
    assert use.declared == 30


def test_the_approval_shows_whom_it_freezes_and_the_number_it_declares(tmp_path: Path) -> None:
    from hospital_node.operator import standing
    from hospital_node.views import show_plan
    from medveil.shown import Screen

    hospital = make_hospital(tmp_path)
    with CliRunner().isolation() as (out, *_):
        show_plan(Screen(), standing(hospital.node, plan_of()), hospital.node.settings)
        shown = " ".join(out.getvalue().decode().split())
    assert "12 train, 4 val, 4 test" in shown
    assert "10 training patients, as a constant for the plan's life" in shown


# ---- the files -------------------------------------------------------------------------------------------


def test_the_files_hold_no_pseudonym_and_trying_names_needs_the_nodes_key(tmp_path: Path) -> None:
    hospital, plan = make_hospital(tmp_path), plan_of()
    hospital.approve(plan)
    (path,) = hospital.node.cohorts.iterdir()
    text = path.read_text()
    assert "train-0" not in text
    assert path.stat().st_mode & 0o077 == 0
    assert hospital.node.cohorts.stat().st_mode & 0o077 == 0
    own, other = Names(PEOPLE[0]), Names(Identity.generate("hospital-1"))
    assert own.patient("TRAIN-0") in text
    assert other.patient("train-0") not in text
    assert own.patient("train-0") != own.account("train-0")


def test_a_cohort_survives_its_bytes_and_its_name_is_its_content(tmp_path: Path) -> None:
    held = Held(Split.TRAIN, (("a", "b"), ("c", "d")), "x", (("films", Split.TEST),))
    cohort, other = Cohort("films", {"p": held}), Cohort("films", {"q": held})
    assert Cohort.from_bytes(cohort.to_bytes()) == cohort
    assert cohort.name != other.name
    book = Cohorts(tmp_path / "cohorts")
    book.keep(cohort)
    assert book.load(cohort.name) == cohort
    path = next(book.folder.iterdir())
    for data in (b"", b"{", b"[]", b"null", other.to_bytes(), cohort.to_bytes()[:-1]):
        path.write_bytes(data)
        with pytest.raises(CohortDamaged):
            book.load(cohort.name)
    path.unlink()
    with pytest.raises(CohortDamaged):
        book.load(cohort.name)


def test_what_was_read_is_no_secret_of_its_own(tmp_path: Path) -> None:
    hospital, plan = make_hospital(tmp_path), plan_of()
    with hospital.works() as records:
        site = read_site(hospital.images, plan.study)
        assert "train-0" not in repr(Read(site, records.reading(plan.study).patients))
