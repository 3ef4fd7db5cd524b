"""A study is one hash on every machine; a plan binds when most data owners signed exactly it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from medveil.errors import BadFile
from medveil.identity import Identity
from medveil.plan import BadPlan, NotApproved, Plan, check_approvals, parse_plan, sign_approval
from medveil.study import Study, read_study
from medveil_research.study_file import to_toml
from world import make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 6)]
SQUARED: dict[str, Any] = {"update_clip": 1.0, "max_weight": 100, "weights": "squared"}
LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 5.0,
}


@pytest.mark.parametrize(
    "changes",
    [{}, {"privacy": LOCAL}, {"strategy": {"name": "fedavgm", "options": {"momentum": 0.25}}}],
)
def test_the_hash_of_a_study_is_the_same_after_writing_and_reading(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    study = make_study(**changes)
    (tmp_path / "study.toml").write_text(to_toml(study), encoding="utf-8")
    read = read_study(tmp_path / "study.toml")
    assert read == study
    assert read.hash == study.hash
    assert Study.model_validate_json(study.model_dump_json()).hash == study.hash


def test_every_value_counts_for_the_hash() -> None:
    studies = [
        make_study(),
        make_study(name="other"),
        make_study(training={"rounds": 3, "local_steps": 1, "learning_rate": 1.0}),
        make_study(training={"rounds": 2, "local_steps": 1, "learning_rate": 1.0000001}),
        make_study(classes=("abnormal", "normal")),
        make_study(privacy=LOCAL),
        make_study(privacy=LOCAL | {"noise_multiplier": 2.5}),
        make_study(secure_aggregation={"update_clip": 2.0, "max_weight": 100, "colluders": 1}),
        make_study(secure_aggregation={"update_clip": 2.0, "max_weight": 100, "weights": "equal"}),
    ]
    assert len({s.hash for s in studies}) == len(studies)


def test_a_study_written_before_weights_could_be_chosen_keeps_its_hash() -> None:
    """Plans that were signed with an earlier version go on; this hash is from there."""
    assert make_study().hash.hex() == "d8d272e4e4cf91b7b7247ce55fd8d441e5c09b5e7154f271819bbed87274c54a"
    masked = make_study().secure_aggregation
    assert masked.weights == "declared"
    assert (masked.least_weight, masked.largest_weight, masked.weight_of(30)) == (10, 100, 30)
    assert 'weights = "declared"' in to_toml(make_study())


def test_with_equal_weights_each_hospital_counts_one() -> None:
    masked = make_study(
        secure_aggregation={"update_clip": 2.0, "max_weight": 100, "weights": "equal"}
    ).secure_aggregation
    assert (masked.least_weight, masked.largest_weight, masked.weight_of(50)) == (1, 1, 1)


def test_with_squared_weights_a_hospital_counts_the_square_of_its_patients() -> None:
    masked = make_study(secure_aggregation=SQUARED, privacy=LOCAL).secure_aggregation
    assert (masked.least_weight, masked.largest_weight, masked.weight_of(50)) == (100, 10_000, 2500)


def test_a_misspelt_option_is_an_error_and_is_named(tmp_path: Path) -> None:
    text = to_toml(make_study())
    for good, bad in (("learning_rate", "learning_rat"), ("max_weight", "maxweight"), ("task =", "tsk =")):
        (tmp_path / "study.toml").write_text(text.replace(good, bad), encoding="utf-8")
        with pytest.raises(BadFile, match=r"study\.toml cannot be used: "):
            read_study(tmp_path / "study.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"= 1", b"name = 'x'", b""])
def test_a_file_that_is_no_study_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.toml").write_bytes(content)
    with pytest.raises(BadFile, match=r"study\.toml"):
        read_study(tmp_path / "study.toml")
    with pytest.raises(BadFile, match=r"absent\.toml"):
        read_study(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"cohort": {"min_hospitals": 2}}, "min_hospitals"),
        ({"cohort": {"min_hospitals": 5, "max_hospitals": 4}}, "max_hospitals"),
        ({"secure_aggregation": {"update_clip": 1, "max_weight": 1, "colluders": 2}}, "colluders"),
        ({"secure_aggregation": {"update_clip": 0, "max_weight": 1}}, "update_clip"),
        ({"secure_aggregation": {"update_clip": float("inf"), "max_weight": 1}}, "update_clip"),
        ({"secure_aggregation": {"update_clip": 1, "max_weight": 1, "lane_bits": 20}}, "lane_bits"),
        ({"training": {"rounds": 1, "learning_rate": 1}}, "local_steps or local_epochs"),
        (
            {"training": {"rounds": 1, "learning_rate": 1, "local_steps": 1, "local_epochs": 1}},
            "local_steps or local_epochs",
        ),
        (
            {"training": {"rounds": 1, "learning_rate": 1, "local_epochs": 1}, "privacy": LOCAL},
            "unit of work",
        ),
        ({"privacy": LOCAL | {"epsilon": 0}}, "epsilon"),
        ({"privacy": LOCAL | {"sample_rate": 1.5}}, "sample_rate"),
        ({"privacy": {"kind": "sometimes"}}, "privacy"),
        ({"classes": ("a", "a")}, "same name"),
        ({"classes": ("a",)}, "classes"),
        ({"transforms": {"profile": "mri", "size": (16, 16)}}, "profile"),
        ({"transforms": {"profile": "xray", "size": (16, 4)}}, "edge"),
        ({"name": "Not A Name"}, "name"),
        ({"attempts": 0}, "attempts"),
        (
            {
                "privacy": LOCAL | {"kind": "joint", "honest_hospitals": 2},
                "secure_aggregation": {"update_clip": 1, "max_weight": 1, "weights": "equal"},
            },
            "joint noise adds up only where weights are 'declared'",
        ),
        ({"secure_aggregation": SQUARED}, "for local noise"),
        (
            {"secure_aggregation": SQUARED | {"max_weight": 46_341}, "privacy": LOCAL},
            "max_weight, squared, must not exceed",
        ),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_written(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        make_study(**changes)


def test_a_study_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        make_study().attempts = 3


def test_valid_approvals_are_counted_one_for_each_hospital() -> None:
    plan = make_plan(PEOPLE, make_study())
    assert plan.approvals_needed == 3
    signed = {p.name: sign_approval(plan, p) for p in PEOPLE}
    check_approvals(plan, dict(list(signed.items())[:3]))
    with pytest.raises(NotApproved, match="2 valid approvals"):
        check_approvals(plan, dict(list(signed.items())[:2]))
    check_approvals(plan, signed)


def test_forged_foreign_and_borrowed_approvals_do_not_count() -> None:
    plan = make_plan(PEOPLE, make_study())
    other = make_plan(PEOPLE, make_study(name="other"))
    first = sign_approval(plan, PEOPLE[0])
    approvals = {
        PEOPLE[0].name: first,
        PEOPLE[1].name: first,
        PEOPLE[2].name: sign_approval(other, PEOPLE[2]),
        PEOPLE[3].name: bytes(64),
        PEOPLE[4].name: Identity.generate("x").sign("approve-plan", plan.hash),
        "stranger": first,
    }
    with pytest.raises(NotApproved, match="1 valid approvals"):
        check_approvals(plan, approvals)


def test_another_roster_or_epoch_is_another_plan() -> None:
    plan = make_plan(PEOPLE, make_study())
    hashes = {
        plan.hash,
        make_plan(PEOPLE[:4], plan.study).hash,
        make_plan(PEOPLE[::-1], plan.study).hash,
        plan.model_copy(update={"epoch": 2}).hash,
    }
    assert len(hashes) == 4
    assert parse_plan(plan.model_dump(mode="json")).hash == plan.hash
    assert Plan.model_validate_json(plan.model_dump_json()).id == plan.id


@pytest.mark.parametrize("deep", [False, True])
def test_a_changed_copy_has_its_own_hash(deep: bool) -> None:
    plan = make_plan(PEOPLE, make_study())
    first = plan.hash
    later = plan.model_copy(update={"epoch": 2}, deep=deep)
    assert later.hash == Plan.model_validate(later.model_dump()).hash != first
    assert plan.model_copy(deep=deep).hash == first
    assert plan == Plan.model_validate_json(plan.model_dump_json())


@pytest.mark.parametrize("field", ["index", "name", "public_key"])
def test_two_members_cannot_be_the_same_one(field: str) -> None:
    value = make_plan(PEOPLE, make_study()).model_dump(mode="json")
    value["roster"][1][field] = value["roster"][0][field]
    with pytest.raises(BadPlan):
        parse_plan(value)


@pytest.mark.parametrize("value", [None, [], {}, {"study": {}}, "plan", 3])
def test_something_else_is_no_plan(value: object) -> None:
    with pytest.raises(BadPlan):
        parse_plan(value)


def test_a_roster_below_the_minimum_is_no_plan() -> None:
    with pytest.raises(ValidationError):
        make_plan(PEOPLE[:2], make_study())
    with pytest.raises(ValidationError, match="cohort limits"):
        make_plan(PEOPLE[:3], make_study(cohort={"min_hospitals": 4}))
