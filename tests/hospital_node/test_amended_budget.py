"""A change of the roster costs no patient more: who stays pays a round once, who joins for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amended import next_plan
from hospital_node import operator, roster_changes
from hospital_node.cli import app
from hospital_node.governance import PlanRefused
from hospital_node.operator import approve_plan
from hospitals import LOCAL, PEOPLE, Hospital, make_hospital
from medveil.identity import Identity
from medveil.messages import PlanOffer
from medveil.plan import Plan
from medveil.spoken import spoken
from privacy.dp import accounting
from privacy.dp.ledger import ScheduleUsedUp, State
from privacy.dp.policy import Split, cost, jointly, sharers_of, study_events
from world import make_plan, make_study

ADMIN, NEW = Identity.generate("admin"), Identity.generate("hospital-5")
JOINT = LOCAL | {
    "kind": "joint",
    "honest_hospitals": 3,
    "noise_multiplier": 8.0,
    "evaluation_multiplier": 6.0,
}
POLICY: dict[str, Any] = {"epsilon_cap": 50.0, "count_joint_noise": True}


def study_of(privacy: dict[str, Any]) -> Any:
    training = {"rounds": 4, "local_steps": 1, "learning_rate": 1.0}
    masked = {"update_clip": 2.0, "max_weight": 100, "lane_bits": 32}
    evaluation = {"bins": 16, "every_round": True}
    return make_study(privacy=privacy, training=training, secure_aggregation=masked, evaluation=evaluation)


@pytest.fixture(params=[LOCAL, JOINT], ids=["local", "joint"])
def first(request: pytest.FixtureRequest) -> Plan:
    return make_plan(PEOPLE, study_of(request.param))


def test_who_stays_pays_to_the_last_digit_what_it_approved(tmp_path: Path, first: Plan) -> None:
    """Two rounds under one roster and two under another leave the ledger of four rounds under one."""
    changed, same = (make_hospital(tmp_path / name, **POLICY) for name in ("changed", "same"))
    second = next_plan(first, [*PEOPLE, NEW], first_round=3)
    for hospital in (changed, same):
        hospital.approve(first)
        hospital.runs(first, 1, 2)
    with changed.works() as records:
        before, rows = records.ledger.committed(), len(records.ledger.rows())
    changed.approve(second)
    with changed.works() as records:
        assert records.ledger.committed() == before
        assert len(records.ledger.rows()) == rows  # nothing is registered, nothing is charged
    changed.runs(second, 3, 4)
    same.runs(first, 3, 4)
    with changed.works() as records, same.works() as others:
        mine, theirs = (r.ledger for r in (records, others))
        for joint in (True, False):
            assert mine.spent(joint=joint) == theirs.spent(joint=joint)
            assert mine.committed(joint=joint) == theirs.committed(joint=joint)
        whole, delta = study_events(first.study)[Split.TRAIN], first.study.privacy.delta  # type: ignore[union-attr]
        sharers = sharers_of(first.study, Split.TRAIN)
        assert mine.spent() == pytest.approx(
            accounting.epsilon([jointly(one, sharers) for one in whole], delta), abs=1e-12
        )
        with pytest.raises(ScheduleUsedUp):
            mine.charge(first.study, plan_id=second.lineage, round_number=5, attempt=1)
        assert mine.cohort(second.lineage) == mine.cohort(first.id)


def test_who_joins_registers_and_pays_for_the_rounds_that_are_left(tmp_path: Path, first: Plan) -> None:
    before = make_plan(PEOPLE[1:], first.study)
    plan = next_plan(before, PEOPLE, first_round=3)
    hospital = make_hospital(tmp_path, **POLICY)
    hospital.approve(plan)
    hospital.runs(plan, 3)
    third = next_plan(plan, [*PEOPLE, NEW], first_round=4)  # another change registers nothing anew
    hospital.approve(third)
    hospital.runs(third, 4)
    with hospital.works() as records:
        ledger = records.ledger
        registered = [r.entry for r in ledger.rows() if r.entry.state is State.REGISTERED]
        assert {e.split: e.event.steps for e in registered} == {Split.TRAIN: 2, Split.VAL: 2, Split.TEST: 1}
        price = cost(plan.study, first=3)
        assert ledger.committed() == pytest.approx(price.epsilon_joint, abs=1e-12)
        assert ledger.committed(joint=False) == pytest.approx(price.epsilon_local, abs=1e-12)
        with pytest.raises(ScheduleUsedUp):
            ledger.charge(plan.study, plan_id=plan.lineage, round_number=5, attempt=1)
    assert price.epsilon_joint < cost(plan.study).epsilon_joint


def test_who_stays_keeps_the_declared_number_and_the_frozen_patients(tmp_path: Path, first: Plan) -> None:
    hospital = make_hospital(tmp_path, **POLICY)
    part = approve_plan(hospital.node, first, patients=20)
    second = next_plan(first, [*PEOPLE, NEW])
    assert approve_plan(hospital.node, second) == part
    with pytest.raises(PlanRefused, match="20 patients were declared"):
        approve_plan(hospital.node, second, patients=30)


def offered(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = PlanOffer(
        plan=plan.model_dump_json(),
        admin_key=ADMIN.public_key,
        admin_signature=ADMIN.sign("create-plan", plan.hash),
        approvals={},
    )

    async def offers(_: object) -> tuple[tuple[object, ...], bytes | None]:
        return (offer,), ADMIN.public_key

    monkeypatch.setattr(operator, "offers", offers)


def said(hospital: Hospital, *typed: str) -> str:
    result = CliRunner().invoke(app, ["approve", *typed, "--folder", str(hospital.node.folder)])
    if result.exception is not None:
        raise result.exception
    return " ".join(result.stdout.split())


def test_who_stays_approves_the_difference_and_who_joins_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_plan(PEOPLE, study_of(JOINT))
    second = next_plan(first, [*PEOPLE[:3], NEW], first_round=3)
    hospital = make_hospital(tmp_path, **POLICY)
    hospital.approve(first)
    hospital.runs(first, 1, 2)
    offered(second, monkeypatch)
    text = said(hospital)
    assert spoken(first.hash) in text
    for words in ("joins hospital-5 key", "leaves hospital-4 key", "from round 3 on at the earliest"):
        assert words in text
    change = roster_changes.change_of(hospital.node, second)
    assert change is not None
    assert change.paid is not None
    assert change.paid.at_the_end == cost(first.study).epsilon_joint
    assert 0 < change.paid.so_far < change.paid.at_the_end < change.paid.at_the_end_alone
    assert f"spent here so far: epsilon {change.paid.so_far:.4g}" in text
    rows = text.replace(spoken(first.hash), "").replace(spoken(second.hash), "")  # words by chance
    for known in ("memory", "learns", "optimizer"):
        assert f" {known} " not in rows
    said(hospital, *spoken(second.hash).split(), "--yes")
    newcomer = make_hospital(tmp_path / "newcomer", **POLICY)
    offered(next_plan(make_plan(PEOPLE[1:], first.study), PEOPLE, first_round=3), monkeypatch)
    whole = said(newcomer)
    for words in ("joins hospital-1 key", "learns", "memory", "for rounds 3 to 4 and the evaluation"):
        assert words in whole


def test_a_forged_amendment_is_not_even_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_plan(PEOPLE, study_of(LOCAL))
    hospital = make_hospital(tmp_path, **POLICY)
    hospital.approve(first)
    good = next_plan(first, [*PEOPLE, NEW])
    other = good.model_dump(mode="json") | {"first_round": 2}
    offer = PlanOffer(
        plan=Plan.model_validate(other).model_dump_json(),
        admin_key=ADMIN.public_key,
        admin_signature=ADMIN.sign("create-plan", good.hash),
        approvals={},
    )

    async def offers(_: object) -> tuple[tuple[object, ...], bytes | None]:
        return (offer,), ADMIN.public_key

    monkeypatch.setattr(operator, "offers", offers)
    assert "the admin's signature does not match" in said(hospital)
