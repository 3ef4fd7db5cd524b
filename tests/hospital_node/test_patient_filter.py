"""What patients used of a plan with a filter: booked after the round, worst case until then, never shown."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hospital_node import computation, individual
from hospital_node.computation import Computation
from hospital_node.individual import Filters
from hospital_node.ledger import Charge, Ledger
from hospital_node.training import NoCharge, TrainingRound
from hospital_node.training.run import check_paid
from hospital_node.training.unbooked import unbooked_charge, unbooked_filter
from hospital_node.unsent import Unsent
from hospitals import LOCAL, PEOPLE, Hospital, make_hospital
from medveil.identity import Secret
from medveil.plan import Plan
from medveil.rounds import AttemptKey, RoundKind
from medveil.study import Study
from medveil.tensors import Update
from medveil_imaging.patients import PatientImages
from privacy.dp.individual import PatientFilter, reserve
from privacy.dp.ledger import State
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split, study_events
from world import make_plan, make_study

NOISE = LOCAL | {"patient_mu": 0.5, "epsilon": 9.0}
"""A step at the full norm takes 1/16 of mu squared, and the budget is 1/4: four of ten steps."""
PAYERS = {"p": "p", "q": "q"}


def study_of(name: str = "films", **privacy: Any) -> Study:
    training = {"rounds": 10, "local_steps": 1, "learning_rate": 0.1}
    evaluation = {"bins": 16, "every_round": False}
    return make_study(name=name, training=training, evaluation=evaluation, privacy=NOISE | privacy)


STUDY = study_of()
KEPT_BACK = reserve(study_events(STUDY)[Split.TRAIN])


def opened(folder: Path, study: Study = STUDY, plan: str = "a", cap: float = 9.0) -> tuple[Ledger, Filters]:
    ledger = Ledger.open(folder / "ledger.jsonl")
    ledger.register(study, plan_id=plan, dataset="films", cap=cap)
    return ledger, Filters(ledger, folder / "use")


def charged(ledger: Ledger, number: int, *, plan: str = "a", study: Study = STUDY) -> Charge:
    return ledger.charge(study, plan_id=plan, round_number=number, attempt=1)


def room(found: PatientFilter | None, patient: str) -> float:
    """mu squared that a patient has left."""
    assert found is not None
    return float(found._left[found._places[patient]])


def a_round(
    ledger: Ledger, filters: Filters, number: int, *, length: float = 0.5, settled: bool = True
) -> None:
    """p adds this much of the norm, q nothing."""
    charge = charged(ledger, number)
    used = filters.of(charge, PAYERS)
    assert used is not None
    charge.begin()
    used.book(["p", "q"], np.minimum([length, 0.0], used.shares(["p", "q"], 4.0)), 4.0)
    charge.end()
    if settled:
        filters.settle(charge, used)


def test_a_round_counts_in_full_until_it_is_settled_and_then_as_it_was(tmp_path: Path) -> None:
    ledger, filters = opened(tmp_path)
    with ledger:
        first = charged(ledger, 1)
        assert room(filters.of(first, PAYERS), "p") == pytest.approx(0.25 - KEPT_BACK)
        first.end()  # given back: it never began
        a_round(ledger, filters, 1)
        second = charged(ledger, 2)
        price = (0.5 * 1.001 + 0.001) ** 2 / 16
        assert room(filters.of(second, PAYERS), "p") == pytest.approx(0.25 - KEPT_BACK - price)
        assert room(filters.of(second, PAYERS), "q") == pytest.approx(0.25 - KEPT_BACK)
        second.begin()
        second.end()  # released, and then the node was killed
        third = charged(ledger, 3)
        assert room(filters.of(third, PAYERS), "p") == pytest.approx(0.25 - KEPT_BACK - price - 1 / 16)
        assert room(filters.of(third, PAYERS), "q") == pytest.approx(0.25 - KEPT_BACK - 1 / 16)


def test_the_file_is_the_owners_alone_and_without_it_everything_counts_in_full(tmp_path: Path) -> None:
    ledger, filters = opened(tmp_path)
    with ledger:
        for number in (1, 2):
            a_round(ledger, filters, number)
        (path,) = (tmp_path / "use").iterdir()  # the one before is gone
        assert path.stat().st_mode & 0o077 == 0
        assert json.loads(path.read_bytes())["used"].keys() == {"p", "q"}
        assert [r.entry.state for r in ledger.rows()].count(State.USED) == 2
        whole = path.read_bytes()
        for damaged in (whole.replace(b'"p"', b'"r"'), whole[:-1], None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            last = charged(ledger, 3)
            assert room(filters.of(last, PAYERS), "q") == pytest.approx(0.25 - KEPT_BACK - 2 / 16)
            last.end()
        ledger.verify()


def test_who_has_used_the_budget_adds_nothing_and_nothing_else_changes(tmp_path: Path) -> None:
    ledger, filters = opened(tmp_path)
    with ledger:
        for number in range(1, 11):
            a_round(ledger, filters, number, length=1.0)
        paid = [row.entry.state for row in ledger.rows()].count(State.RELEASED)
        assert paid == 10  # what is charged and released does not show who is left
        (path,) = (tmp_path / "use").iterdir()
        used = json.loads(path.read_bytes())["used"]
        assert 0.24 < used["p"] <= 0.25
        assert used["q"] == KEPT_BACK


def test_the_next_study_takes_what_this_one_left_of_the_cap_and_is_not_refused_for_one_patient(
    tmp_path: Path,
) -> None:
    cap = 2.5  # mu .5 costs 2.0 at this delta: two such budgets are over it
    ledger, filters = opened(tmp_path, study_of(), cap=cap)
    with ledger:
        for number in range(1, 6):
            a_round(ledger, filters, number, length=1.0)
        later = study_of("later")
        ledger.register(later, plan_id="b", dataset="films", cap=cap)
        assert ledger.committed("films") <= cap
        found = filters.of(charged(ledger, 1, plan="b", study=later), PAYERS)
        assert 0.0 < room(found, "p") < 0.15
        assert room(found, "q") == pytest.approx(0.25 - KEPT_BACK)


def test_a_charge_that_was_taken_up_again_after_later_ones_may_use_nothing_more(tmp_path: Path) -> None:
    ledger, filters = opened(tmp_path)
    with ledger:
        charged(ledger, 1).begin()
    ledger = Ledger.open(tmp_path / "ledger.jsonl")
    with ledger:
        filters = Filters(ledger, tmp_path / "use")
        a_round(ledger, filters, 2)
        again = charged(ledger, 1)
        assert again.entry.charge == 1
        assert room(filters.of(again, PAYERS), "q") == 0.0


def test_training_wants_the_filter_of_its_study_and_no_other() -> None:
    patients = (PatientImages("p", np.zeros(0), np.zeros(0)),)  # type: ignore[arg-type]

    def given(study: Study, filter: PatientFilter | None) -> TrainingRound:
        return TrainingRound(
            study,
            np.zeros(1, np.float32),
            patients,
            number=1,
            declared_patients=10,
            noise=NoiseSource.fresh(),
            charge=unbooked_charge(study, round_number=1, split=Split.TRAIN),
            device=None,  # type: ignore[arg-type]
            filter=filter,
        )

    plain = make_study(privacy=LOCAL)
    check_paid(given(STUDY, unbooked_filter(STUDY, patients)))
    check_paid(given(plain, unbooked_filter(plain, patients)))
    for study, filter in ((STUDY, None), (plain, unbooked_filter(STUDY, patients))):
        with pytest.raises(NoCharge, match="filter"):
            check_paid(given(study, filter))


def computed(hospital: Hospital, plan: Plan, number: int) -> list[str]:
    """One round of a node's own computation, and what came to stable storage, in order."""
    with hospital.works() as records:
        records.register(plan)
        made = Computation(
            plan,
            lambda p: _site(hospital, p),
            records,
            unsent=Unsent(hospital.node.unsent, Secret(bytes(32))),
        )
        vector = np.zeros(plan.study.model.tensors.size, np.float32)

        async def prepared() -> None:
            await made.prepare(AttemptKey(plan.id, number, 1), RoundKind.TRAIN, b"m".ljust(32), vector)

        asyncio.run(prepared())
        made.close()
        return [row.entry.state.value for row in records.ledger.rows()]


def _site(hospital: Hospital, plan: Plan) -> Any:
    from medveil_imaging.sources.site import read_site

    return read_site(hospital.images, plan.study)


def test_wherever_the_node_is_killed_no_patient_is_booked_for_less_than_the_round_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = make_hospital(tmp_path, epsilon_cap=9.0)
    plan = make_plan(PEOPLE, STUDY)
    hospital.approve(plan)
    truth: dict[str, float] = {}

    def train(given: TrainingRound) -> Update:
        assert given.filter is not None
        assert given.charge is not None
        given.charge.begin()
        names = [one.patient for one in given.patients]
        given.filter.book(names, 0.9 * given.filter.shares(names, 4.0), 4.0)
        truth.update(given.filter.used)
        return Update(np.zeros_like(given.start))

    monkeypatch.setattr(computation, "train", train)
    copies: list[Path] = []

    def watched(thing: Any, name: str) -> None:
        real = getattr(thing, name)

        def step(*arguments: Any, **named: Any) -> Any:
            for when in ("before", "after"):
                if when == "after":
                    result = real(*arguments, **named)
                copies.append(tmp_path / f"{len(copies)} {when} {name}")
                shutil.copytree(hospital.node.folder, copies[-1])
            return result

        monkeypatch.setattr(thing, name, step)

    watched(Ledger, "_append")
    watched(Unsent, "store")
    watched(individual, "replace_durably")
    states = computed(hospital, plan, 1)
    assert states[-4:] == ["reserved", "running", "released", "used"]
    assert len(truth) == 12
    assert len(copies) >= 12
    stored = [copy.name for copy in copies].index(
        next(c.name for c in copies if c.name.endswith("after store"))
    )
    monkeypatch.undo()
    for place, copy in enumerate(copies[6:], start=6):
        with Ledger.open(copy / "ledger.jsonl", cohorts=copy / "cohorts") as ledger:
            if place >= stored:  # it is sent, whatever becomes of the node
                ledger.settle(plan_id=plan.lineage, round_number=1)
                charge = ledger.charge(plan.study, plan_id=plan.lineage, round_number=2, attempt=1)
                left = Filters(ledger, copy / "use").of(charge, {payer: payer for payer in truth})
                price = [0.25 - KEPT_BACK - room(left, payer) - used for payer, used in truth.items()]
                assert min(price) >= -1e-12, copy.name
                assert max(price) < 1e-12 or max(price) == pytest.approx(1 / 16 - max(truth.values()))
