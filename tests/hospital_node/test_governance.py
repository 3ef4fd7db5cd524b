"""The hospital decides: its own policy and key come before anything an aggregator or admin wrote."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from folders import write_folder
from hospital_node import operator
from hospital_node.cli import app
from hospital_node.governance import (
    PlanRefused,
    binding,
    check_plan,
    check_price,
    declared_patients,
    read_offer,
)
from hospital_node.journal import Journal
from hospital_node.ledger import Ledger, LedgerUnreadable
from hospital_node.operator import approve_plan, opened, standing
from hospital_node.records import Records
from hospital_node.settings import Node, NodeSettings, NoNode, Policy
from hospital_node.views import show_plan
from medveil.bounds import STORED
from medveil.errors import BadFile
from medveil.identity import Identity
from medveil.messages import PlanOffer
from medveil.plan import BadPlan, NotApproved, Plan, parse_plan, sign_approval
from medveil.profile_source import profile_hash
from medveil.shown import Screen
from medveil_imaging.sources.site import read_site
from privacy.dp.accounting import calibrate
from privacy.dp.grid import RingTooSmall
from privacy.dp.ledger import BudgetExceeded, LedgerDamaged
from privacy.dp.policy import UnderstatedEpsilon, cost
from world import make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 5)]
ADMIN = Identity.generate("admin")
LOCAL: dict[str, Any] = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 4.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 3.0,
}


FOLDER = Path(tempfile.mkdtemp(prefix="medveil-films-"))
atexit.register(shutil.rmtree, FOLDER)
write_folder(FOLDER)


def settings(**policy: Any) -> NodeSettings:
    return NodeSettings(
        name="hospital-1",
        aggregator="https://fl.example.org:8443",
        data=FOLDER,
        dataset="films",
        policy=Policy(**policy),
    )


def plan_of(**changes: Any) -> Plan:
    return make_plan(PEOPLE, make_study(**changes))


def offer_of(signed: Plan, signers: list[Identity], **changes: Any) -> PlanOffer:
    content: dict[str, Any] = {
        "plan": signed.model_dump_json(),
        "admin_key": ADMIN.public_key,
        "admin_signature": ADMIN.sign("create-plan", signed.hash),
        "approvals": {p.name: sign_approval(signed, p) for p in signers},
    }
    return PlanOffer(**(content | changes))


def test_a_private_plan_within_the_cap_is_allowed_and_its_cost_is_told() -> None:
    plan = plan_of(privacy=LOCAL)
    price = check_plan(plan, settings(), PEOPLE[0])
    assert price == cost(plan.study)
    assert price is not None
    assert 0 < price.epsilon_local <= 3.0


def test_a_plan_whose_profile_holds_other_code_here_is_refused_by_its_name() -> None:
    films = {"profile": "xray", "size": (16, 16)}
    same = plan_of(privacy=LOCAL, transforms=films | {"profile_hash": profile_hash("xray")})
    check_plan(same, settings(), PEOPLE[0])
    other = plan_of(privacy=LOCAL, transforms=films | {"profile_hash": profile_hash("picture")})
    with pytest.raises(PlanRefused, match="its profile 'xray' holds other code here"):
        check_plan(other, settings(), PEOPLE[0])


def test_a_plan_whose_profile_this_node_does_not_have_is_refused_by_its_name() -> None:
    plan = plan_of(privacy=LOCAL).model_dump(mode="json")
    plan["study"]["transforms"]["profile"] = "ultrasound"
    with pytest.raises(BadPlan, match=r"there is no 'ultrasound' here, it must be one of .*xray"):
        parse_plan(plan)


def test_no_privacy_is_refused_unless_the_operator_allowed_it() -> None:
    with pytest.raises(PlanRefused, match="no differential privacy"):
        check_plan(plan_of(), settings(), PEOPLE[0])
    assert check_plan(plan_of(), settings(allow_no_privacy=True), PEOPLE[0]) is None


def test_the_hospitals_cap_stands_above_the_study() -> None:
    with pytest.raises(PlanRefused, match=r"the cap here is 0\.5"):
        check_plan(plan_of(privacy=LOCAL), settings(epsilon_cap=0.5), PEOPLE[0])


LOOSE = LOCAL | {"delta": 0.001}
"""Cheap at a delta that means little."""


def test_the_cap_is_held_at_the_hospitals_delta_not_at_the_plans() -> None:
    plan = plan_of(privacy=LOOSE)
    loose, strict = cost(plan.study), cost(plan.study, delta=1e-5)
    assert loose.epsilon_local < strict.epsilon_local
    between = (loose.epsilon_local + strict.epsilon_local) / 2
    with pytest.raises(PlanRefused, match=r"at delta 1e-05; the cap here is"):
        check_plan(plan, settings(epsilon_cap=between), PEOPLE[0])
    assert check_plan(plan, settings(epsilon_cap=strict.epsilon_local), PEOPLE[0]) == strict
    own = settings(epsilon_cap=between, delta_cap=1e-3)
    assert check_plan(plan, own, PEOPLE[0]) == loose


def test_a_plan_of_an_earlier_version_with_a_delta_that_means_nothing_is_refused_by_name() -> None:
    content = plan_of(privacy=LOCAL).model_dump(mode="json")
    content["study"]["privacy"]["delta"] = 0.0099
    with pytest.raises(BadPlan):
        parse_plan(content)
    plan = Plan.model_validate(content, context=STORED)
    with pytest.raises(PlanRefused, match=r"privacy\.delta must not exceed 0\.001"):
        check_plan(plan, settings(epsilon_cap=1e6), PEOPLE[0])


def test_a_plan_with_a_smaller_delta_than_the_hospitals_is_counted_at_its_own() -> None:
    plan = plan_of(privacy=LOCAL | {"delta": 1e-7, "epsilon": 9.0})
    assert check_plan(plan, settings(), PEOPLE[0]) == cost(plan.study)


def test_the_usual_delta_falls_with_the_declared_patients() -> None:
    assert Policy().delta_limit() == Policy().delta_limit(5) == Policy().delta_limit(9_000) == 1e-5
    assert Policy().delta_limit(100_000) == 1e-6
    assert Policy(delta_cap=1e-4).delta_limit(100_000) == 1e-4
    plan = plan_of(privacy=LOCAL)
    price = check_plan(plan, settings(), PEOPLE[0], declared=100_000)
    assert price == cost(plan.study, delta=1e-6)
    for wrong in (0.0, 0.01, 0.0011, -1e-5, float("nan")):
        with pytest.raises(ValidationError):
            Policy(delta_cap=wrong)


def test_a_plan_that_costs_more_than_it_says_is_refused() -> None:
    with pytest.raises(UnderstatedEpsilon):
        check_plan(plan_of(privacy=LOCAL | {"epsilon": 0.1}), settings(), PEOPLE[0])


def test_a_smaller_cohort_than_the_hospital_wants_is_refused() -> None:
    with pytest.raises(PlanRefused, match="3 hospitals; 4 is the least"):
        check_plan(plan_of(privacy=LOCAL), settings(min_hospitals=4), PEOPLE[0])
    larger = plan_of(privacy=LOCAL, cohort={"min_hospitals": 4})
    assert check_plan(larger, settings(min_hospitals=4), PEOPLE[0]) is not None


@pytest.mark.parametrize("strategy", [{"name": "krum"}, {"name": "fedavgm", "options": {"momentum": 2.0}}])
def test_a_strategy_that_this_node_cannot_repeat_is_refused(strategy: dict[str, object]) -> None:
    with pytest.raises(PlanRefused, match="cannot make its models"):
        check_plan(plan_of(privacy=LOCAL, strategy=strategy), settings(), PEOPLE[0])


def test_a_roster_with_another_key_in_this_hospitals_name_is_refused() -> None:
    plan = plan_of(privacy=LOCAL)
    for identity in (Identity.generate("hospital-1"), Identity.generate("hospital-9")):
        with pytest.raises(PlanRefused, match="own key"):
            check_plan(plan, settings(), identity)


def test_an_offer_needs_the_signature_under_exactly_this_plan() -> None:
    plan, other = plan_of(), plan_of(name="other")
    assert read_offer(offer_of(plan, [])) == plan
    with pytest.raises(PlanRefused, match="signature"):
        read_offer(offer_of(plan, [], admin_signature=ADMIN.sign("create-plan", other.hash)))
    with pytest.raises(PlanRefused, match="signature"):
        read_offer(offer_of(plan, [], admin_key=PEOPLE[0].public_key))
    for text in ("", "{}", "null", "[1", '{"study": 1}', "9" * 5000, "[" * 100_000):
        with pytest.raises(BadPlan):
            read_offer(offer_of(plan, [], plan=text))


def test_a_plan_binds_when_most_hospitals_signed_it_and_not_before() -> None:
    plan = plan_of()
    binding(plan, offer_of(plan, PEOPLE[:3]))
    with pytest.raises(NotApproved):
        binding(plan, offer_of(plan, PEOPLE[:2]))


@pytest.mark.parametrize(
    ("count", "declared"), [(0, 10), (1, 10), (14, 10), (16, 20), (94, 90), (96, 100), (5000, 100)]
)
def test_the_declared_number_of_patients_is_rounded_and_bounded(count: int, declared: int) -> None:
    assert declared_patients(count, 100) == declared


def test_no_two_neighbouring_numbers_can_be_told_apart_except_at_a_boundary() -> None:
    declared = [declared_patients(n, 10_000) for n in range(1, 400)]
    assert all(b - a in (0, 10) for a, b in pairwise(declared))
    assert len(set(declared)) == 40


def joint_plan() -> Plan:
    noise = {**LOCAL, "kind": "joint", "honest_hospitals": 3}
    return plan_of(privacy=noise, training={"rounds": 2, "local_steps": 1, "learning_rate": 1.0})


def test_the_others_noise_counts_towards_the_cap_only_where_the_hospital_says_so() -> None:
    cost = check_plan(joint_plan(), settings(epsilon_cap=1e6), PEOPLE[0])
    assert cost is not None
    assert cost.epsilon_joint < cost.epsilon_local
    between = (cost.epsilon_joint + cost.epsilon_local) / 2
    with pytest.raises(PlanRefused) as refused:
        check_plan(joint_plan(), settings(epsilon_cap=between), PEOPLE[0])
    assert "count_joint_noise" in refused.value.remedy
    assert check_plan(joint_plan(), settings(epsilon_cap=between, count_joint_noise=True), PEOPLE[0]) == cost


def test_an_operator_is_told_what_a_curious_member_would_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node, plan = node_with(tmp_path, epsilon_cap=1e6), joint_plan()
    show_plan(Screen(), standing(node, plan), node.settings)
    shown = " ".join(capsys.readouterr().out.split())
    price = cost(plan.study, sharers=2)
    assert cost(plan.study).epsilon_joint < price.epsilon_joint < price.epsilon_local
    assert f"epsilon {price.epsilon_joint:.2f} if one of them does not keep its noise to itself" in shown
    assert f"{price.epsilon_local:.2f} if no other hospital adds its own" in shown


def test_the_others_noise_does_not_count_where_the_encoding_is_too_coarse_for_it() -> None:
    coarse = make_study(
        **{
            **joint_plan().study.model_dump(),
            "secure_aggregation": {"update_clip": 500.0, "max_weight": 4096, "lane_bits": 16},
        }
    )
    plan = make_plan(PEOPLE, coarse)
    with pytest.raises(PlanRefused, match="too coarse for the hospitals' noise to add up"):
        check_plan(plan, settings(epsilon_cap=1e6, count_joint_noise=True), PEOPLE[0])
    assert check_plan(plan, settings(epsilon_cap=1e6), PEOPLE[0]) is not None  # its own noise holds


def test_settings_survive_their_file_and_a_misspelt_policy_is_refused(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", settings(epsilon_cap=2.0))
    node.save()
    assert Node.load(tmp_path / "node").settings == node.settings
    text = (tmp_path / "node" / "node.json").read_text()
    (tmp_path / "node" / "node.json").write_text(text.replace("epsilon_cap", "epsilon_cup"))
    with pytest.raises(BadFile):
        Node.load(tmp_path / "node")
    with pytest.raises(NoNode):
        Node.load(tmp_path / "absent")


@pytest.mark.parametrize(
    "address", ["http://fl.example.org", "fl.example.org", "https://fl.example.org/path"]
)
def test_an_aggregator_is_reached_over_https_only(address: str) -> None:
    with pytest.raises(ValueError, match="aggregator"):
        NodeSettings(name="a", aggregator=address, data=Path("/"), dataset="a")


def test_evaluation_counts_towards_the_epsilon_that_a_plan_states() -> None:
    quiet = LOCAL | {"evaluation_multiplier": 0.3}
    with pytest.raises(UnderstatedEpsilon):
        check_plan(plan_of(privacy=quiet), settings(epsilon_cap=1e6), PEOPLE[0])


def test_a_plan_whose_evaluation_would_pass_the_cap_is_refused() -> None:
    louder = LOCAL | {"noise_multiplier": 400.0, "epsilon": 3.0}
    plan = plan_of(privacy=louder)
    price = check_plan(plan, settings(), PEOPLE[0])
    assert price is not None
    assert 1 < price.epsilon_local < 3
    with pytest.raises(PlanRefused, match="the cap here is 1"):
        check_plan(plan, settings(epsilon_cap=1.0), PEOPLE[0])


def node_with(tmp_path: Path, **policy: Any) -> Node:
    node = Node(tmp_path / "node", settings(**policy))
    node.save()
    PEOPLE[0].save(node.key)
    return node


@contextmanager
def worked_on(node: Node) -> Iterator[Records]:
    """The node's records as the process that works has them."""
    with opened(node) as journal, closing(Records.open(node, PEOPLE[0], journal)) as records:
        yield records


def test_an_operator_is_told_the_noise_and_that_the_author_insisted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = node_with(tmp_path)

    def shown_of(plan: Plan) -> str:
        show_plan(Screen(), standing(node, plan), node.settings)
        return " ".join(capsys.readouterr().out.split())

    assert "insists" not in shown_of(plan_of(privacy=LOCAL))
    shown = shown_of(plan_of(privacy=LOCAL | {"despite_noise": True}))
    assert "its author insists: the noise exceeds what can be learned" in shown
    assert "train 4 x 2" in shown
    assert "test 2 x 1" in shown
    assert "exact discrete noise" not in shown
    assert "exact discrete noise: whole numbers" in shown_of(plan_of(privacy=LOCAL | {"noise": "discrete"}))


def test_noise_that_does_not_fit_its_ring_is_refused_before_approval() -> None:
    joint = LOCAL | {"kind": "joint", "honest_hospitals": 2, "noise": "discrete"}
    one_step = {"rounds": 4, "local_steps": 1, "learning_rate": 1.0}
    with pytest.raises(RingTooSmall, match="lanes have 21 bits"):
        check_price(plan_of(privacy=joint, training=one_step), settings().policy)


def ledger_command(node: Node, *arguments: str) -> str:
    found = CliRunner().invoke(app, ["ledger", "--folder", str(node.folder), *arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.output


def test_the_ledger_is_shown_study_by_study_with_what_the_cap_leaves(tmp_path: Path) -> None:
    node, plan = node_with(tmp_path, epsilon_cap=5.0), plan_of(privacy=LOCAL, name="chest")
    approve_plan(node, plan)
    assert "0.000 spent, 0.000 promised" in ledger_command(node)
    with worked_on(node) as records:
        records.register(plan)
        ledger = records.ledger
        done = ledger.charge(plan.study, plan_id=plan.id, round_number=1, attempt=1)
        done.begin()
        done.end()
        ledger.charge(plan.study, plan_id=plan.id, round_number=2, attempt=1).begin()
        spent, room = ledger.spent(), ledger.room(None, 5.0)
    shown = ledger_command(node)
    assert "chest" in shown
    assert re.search(r"train\W+2 of 2\W", shown)
    assert f"epsilon {spent:.3f} spent" in shown
    assert f"room for one more study of epsilon {room:.3f}" in shown
    assert "1 charge(s)" in shown
    assert "reserved" not in shown
    assert "reserved" in ledger_command(node, "--rows")


def test_the_room_that_is_shown_is_the_room_that_there_is(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        quiet = LOCAL | {"evaluation_multiplier": 50.0}
        ledger.register(plan_of(privacy=quiet).study, plan_id="a", dataset="films", cap=9.0)
        room = ledger.room("films", 9.0)
        noise = calibrate(room, 1e-5, sample_rate=1.0, steps=2)
        fits = LOCAL | {"noise_multiplier": noise, "evaluation_multiplier": noise, "epsilon": room * 1.01}
        for sign in (-0.02, 0.02):
            changed = fits | {"noise_multiplier": noise * (1 + sign), "epsilon": 9.0}
            study = plan_of(
                privacy=changed, evaluation={"every_round": False}, name=f"more-{sign > 0:d}"
            ).study
            if sign < 0:
                with pytest.raises(BudgetExceeded):
                    ledger.register(study, plan_id="b", dataset="films", cap=9.0)
            else:
                ledger.register(study, plan_id="b", dataset="films", cap=9.0)
        assert ledger.room("films", 3.0) == 0.0


def test_verify_shows_the_last_hash_and_names_a_damaged_row(tmp_path: Path) -> None:
    node, plan = node_with(tmp_path), plan_of(privacy=LOCAL)
    approve_plan(node, plan)
    with worked_on(node) as records:
        records.register(plan)
        last = records.ledger.rows()[-1].hash[:16]
    assert last in ledger_command(node, "verify")
    with node.ledger.open("ab") as file:
        file.write(b'{"half')
    assert "unfinished row" in ledger_command(node, "verify")
    node.ledger.write_bytes(node.ledger.read_bytes().replace(b'"steps":2', b'"steps":1', 1))
    with pytest.raises(LedgerDamaged, match="Row 1 "):
        ledger_command(node, "verify")


@pytest.mark.parametrize(
    ("manifest", "code", "words"),
    [
        ("image,split,label\na.png,train,0\n", "missing-columns", "patient_id"),
        ("image,patient_id,split,label\na.png,,train,0\n", "no-patient", "names no patient"),
    ],
)
def test_images_of_nobody_are_refused_and_the_remedy_named(
    tmp_path: Path, manifest: str, code: str, words: str
) -> None:
    (tmp_path / "manifest.csv").write_text(manifest)
    site = read_site(tmp_path, plan_of(privacy=LOCAL).study)
    problem = next(p for p in site.problems if p.code == code)
    assert words in problem.reason
    assert problem.remedy
    assert site.train == ()


def test_an_approval_holds_a_plan_against_the_policy_once_at_the_number_that_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, plan, asked = node_with(tmp_path), plan_of(privacy=LOCAL), []

    def watched(name: str) -> None:
        real = getattr(operator, name)

        def told(*given: Any, **named: Any) -> Any:
            asked.append((name, named.get("declared")))
            return real(*given, **named)

        monkeypatch.setattr(operator, name, told)

    for name in ("check_terms", "check_price", "_declared"):
        watched(name)
    approve_plan(node, plan, patients=20)
    assert asked == [("check_terms", None), ("_declared", None), ("check_price", 20)]


def test_a_cap_that_is_spent_stops_the_approval_and_says_what_to_change(tmp_path: Path) -> None:
    node = node_with(tmp_path, epsilon_cap=3.0)
    before = [plan_of(privacy=LOCAL, name=name) for name in ("earlier", "second")]
    for plan in before:
        approve_plan(node, plan)
        with worked_on(node) as records:
            records.register(plan)
    for name in ("third", "fourth", "fifth"):
        plan = plan_of(privacy=LOCAL, name=name)
        with pytest.raises(BudgetExceeded) as refused:
            approve_plan(node, plan)
        assert "cap" in refused.value.remedy
    assert "no further study" in ledger_command(node) or "room for one more" in ledger_command(node)
    journal = Journal(node.journal)
    assert [plan for plan, _ in journal.approved()] == before
    journal.close()


def test_a_damaged_ledger_stops_the_approval_by_name_and_stays_as_it_is(tmp_path: Path) -> None:
    node = node_with(tmp_path)
    node.ledger.write_bytes(b"not a row\n")
    with pytest.raises(LedgerDamaged) as refused:
        approve_plan(node, plan_of(privacy=LOCAL))
    assert "backup" in refused.value.remedy
    assert node.ledger.read_bytes() == b"not a row\n"
    node.ledger.unlink()
    node.ledger.mkdir()
    with pytest.raises(LedgerUnreadable):
        approve_plan(node, plan_of(privacy=LOCAL))


def test_a_plan_signed_by_another_admin_than_the_pinned_one_is_not_looked_at() -> None:
    plan, other = plan_of(), Identity.generate("admin")
    offer = offer_of(plan, PEOPLE)
    assert read_offer(offer, ADMIN.public_key) == plan
    with pytest.raises(PlanRefused, match="another admin key"):
        read_offer(offer, other.public_key)
    by_other = offer.model_copy(
        update={"admin_key": other.public_key, "admin_signature": other.sign("create-plan", plan.hash)}
    )
    assert read_offer(by_other) == plan
