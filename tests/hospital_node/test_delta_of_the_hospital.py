"""Every epsilon at a hospital, of a plan and of the ledger, is counted at the hospital's own delta."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from folders import write_folder
from hospital_node.cli import app
from hospital_node.governance import PlanRefused
from hospital_node.operator import approve_plan, opened, viewed
from hospital_node.records import Records
from hospital_node.settings import Node, NodeSettings, Policy
from medveil.identity import Identity
from medveil.plan import Plan
from medveil.study import Study
from privacy.dp.accounting import Event, epsilon
from privacy.dp.ledger import BudgetExceeded
from world import make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 5)]
STEPS = {"rounds": 10, "local_steps": 1, "learning_rate": 1.0}
LOOSE = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 8.0,
    "evaluation_multiplier": 4.0,
    "epsilon": 3.0,
    "delta": 1e-3,
}


def cost(plans: int, delta: float) -> float:
    return epsilon([Event(8.0, 1.0, 10 * plans)], delta)


def plan_named(name: str, **privacy: Any) -> Plan:
    study = make_study(name=name, training=STEPS, privacy=LOOSE | privacy, evaluation={"every_round": False})
    return make_plan(PEOPLE, study)


def node_with(tmp_path: Path, **policy: Any) -> Node:
    settings = NodeSettings(
        name="hospital-1",
        aggregator="https://fl.example.org:8443",
        data=write_folder(tmp_path / "data"),
        dataset="films",
        policy=Policy(**policy),
    )
    node = Node(tmp_path / "node", settings)
    node.save()
    PEOPLE[0].save(node.key)
    return node


def register(node: Node, plan: Plan) -> None:
    """What the running node does before the first round."""
    with opened(node) as journal, closing(Records.open(node, PEOPLE[0], journal)) as records:
        records.register(plan)


def test_the_budget_of_several_studies_is_counted_at_the_hospitals_delta(tmp_path: Path) -> None:
    cap = (cost(2, 1e-3) + cost(2, 1e-5)) / 2
    assert cost(1, 1e-5) < cap
    node = node_with(tmp_path, epsilon_cap=cap)
    first, second = plan_named("first"), plan_named("second")
    approve_plan(node, first)
    register(node, first)
    with pytest.raises(BudgetExceeded):
        approve_plan(node, second)
    with viewed(node) as records:
        assert records.delta_limit() == 1e-5
        assert records.ledger.committed(delta=records.delta_limit()) == pytest.approx(cost(1, 1e-5))


def test_an_operator_may_choose_the_delta_and_the_ledger_says_at_which_it_counts(tmp_path: Path) -> None:
    cap = (cost(2, 1e-3) + cost(2, 1e-5)) / 2
    node = node_with(tmp_path, epsilon_cap=cap, delta_cap=1e-3)
    for plan in (plan_named("first"), plan_named("second")):
        approve_plan(node, plan)
        register(node, plan)
    shown = CliRunner().invoke(app, ["ledger", "--folder", str(node.folder)])
    assert shown.exit_code == 0
    text = " ".join(shown.output.split())
    assert f"{cost(2, 1e-3):.3f} promised" in text
    assert "(delta 0.001;" in text


def test_what_is_declared_moves_the_delta_of_a_large_hospital(tmp_path: Path) -> None:
    node = node_with(tmp_path, epsilon_cap=50.0)
    content = make_study().model_dump() | {
        "privacy": LOOSE | {"delta": 1e-5, "epsilon": 5.0},
        "training": STEPS,
        "secure_aggregation": {"update_clip": 2.0, "max_weight": 200_000},
        "evaluation": {"every_round": False},
    }
    plan = make_plan(PEOPLE, Study.model_validate(content))
    approve_plan(node, plan, patients=100_000)
    with viewed(node) as records:
        assert records.delta_limit() == 1e-6
        assert records.delta_limit(5) == 1e-6  # what was declared once counts on
        assert records.delta_limit(200_000) == 5e-7


@pytest.mark.parametrize("patients", [0, 9, 101])
def test_a_number_that_no_sum_takes_is_not_declared(tmp_path: Path, patients: int) -> None:
    node = node_with(tmp_path)
    with pytest.raises(PlanRefused, match="it counts 10 to 100 patients of a hospital"):
        approve_plan(node, plan_named("first"), patients=patients)
