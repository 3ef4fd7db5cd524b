"""What the page of controls names exists, and the impact assessment's figures are those of the demo."""

from __future__ import annotations

import re

from hospital_node.settings import Policy
from medveil.bounds import default_delta
from medveil_research.options import DemoOptions
from rooms import ROOT

CONTROLS = (ROOT / "docs" / "controls.md").read_text(encoding="utf-8")
ASSESSMENT = (ROOT / "docs" / "dpia.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    """The cells of each control, header and rule lines left out."""
    lines = [
        line for line in CONTROLS.splitlines() if line.startswith("| ") and not line.startswith("| duty")
    ]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_each_control_names_code_and_a_test_that_exist() -> None:
    assert len(rows()) > 25
    for duty, _, code, tests, _ in rows():
        named = re.findall(r"`([^`]+)`", code)
        assert named or "](" in code, duty
        held = re.findall(r"`([^`]+)`", tests)
        assert held, duty
        for name in held:
            assert name.startswith("tests/"), name
        for name in (*named, *held):
            assert (ROOT / name).exists(), f"{duty}: {name}"


def test_the_assessments_figures_are_those_of_the_demos_study() -> None:
    """Its options' and the policy's defaults, and what the README shows of a demo."""
    demo, cap = DemoOptions(), Policy().epsilon_cap
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    model, weights, rounds = re.search(
        r"model +(\w+), ([\d,]+) trained.*?for all (\d+) rounds", shown, re.S
    ).groups()  # type: ignore[union-attr]
    assert demo.hospitals == 4
    for said in (
        "made-up patients of four hospitals",
        f"epsilon {demo.epsilon:g} at delta {default_delta(1):.5f}",
        f"{rounds} rounds of training of `{model}`, {weights} numbers",
        f"a cap ({cap:g} here)",
    ):
        assert said in ASSESSMENT
