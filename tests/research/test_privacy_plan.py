"""A privacy plan says before any run what a schedule costs and whether anything can be learned under it."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from medveil.errors import BadFile
from medveil_research.cli import register
from medveil_research.privacy_plan import HopelessPlan, PrivacyPlan, check_hope, plan_privacy, shipped
from medveil_research.studies import new_study
from privacy.dp.accounting import Event, epsilon

USUAL: dict[str, Any] = {"rounds": 10, "steps": 20, "patients": 300, "hospitals": 5, "parameters": 1217}


def _plan(**changes: Any) -> PrivacyPlan:
    return plan_privacy(**({"epsilon": None, "noise_multiplier": None} | USUAL | changes))


def _run(*arguments: str) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    register(app)
    return CliRunner().invoke(app, ["privacy", "plan", *arguments], catch_exceptions=False)


@pytest.mark.parametrize(("price", "rate"), [(8.0, 1.0), (1.0, 1.0), (3.0, 0.2)])
def test_noise_fits_the_epsilon_and_the_epsilon_fits_the_noise(price: float, rate: float) -> None:
    there = _plan(epsilon=price, sample_rate=rate)
    assert 0.98 * price < there.epsilon_local <= price
    back = _plan(noise_multiplier=there.event.noise_multiplier, sample_rate=rate)
    assert back == there


def test_the_cost_is_that_of_every_step_of_every_round() -> None:
    found = _plan(noise_multiplier=9.0, delta=1e-6)
    assert found.epsilon_local == epsilon([Event(9.0, 1.0, 200)], 1e-6)


def test_several_steps_a_round_make_no_claim_on_the_others_noise() -> None:
    found = _plan(epsilon=8.0)
    assert found.epsilon_joint == found.epsilon_local


def test_delta_follows_the_number_of_patients_unless_it_is_given() -> None:
    assert _plan(epsilon=8.0).delta == 1e-5
    assert _plan(epsilon=8.0, patients=50_000).delta == pytest.approx(2e-6)
    assert _plan(epsilon=8.0, delta=1e-7).delta == 1e-7


def test_more_patients_and_more_hospitals_leave_more_to_learn() -> None:
    one = _plan(epsilon=8.0).noise_to_signal
    assert _plan(epsilon=8.0, patients=600).noise_to_signal == pytest.approx(one / 2)
    assert _plan(epsilon=8.0, hospitals=20).noise_to_signal == pytest.approx(one / 2)


def test_more_noise_than_signal_is_refused_with_a_remedy_unless_the_researcher_insists() -> None:
    hopeless = _plan(epsilon=8.0, parameters=7_000_000)
    with pytest.raises(HopelessPlan) as caught:
        check_hope(hopeless, anyway=False)
    assert "smaller model" in caught.value.remedy
    check_hope(hopeless, anyway=True)
    check_hope(_plan(epsilon=8.0), anyway=False)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"epsilon": 8.0, "noise_multiplier": 1.0},
        {"epsilon": 0.0},
        {"noise_multiplier": float("nan")},
        {"epsilon": 8.0, "sample_rate": 0.0},
        {"epsilon": 8.0, "delta": 0.5},
        {"epsilon": 8.0, "patients": 0},
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_words(bad: dict[str, Any]) -> None:
    with pytest.raises(BadFile):
        _plan(**bad)


def test_weights_and_schedule_are_those_of_the_study_that_would_be_written() -> None:
    size = (16, 16, 16)
    study, _ = new_study(
        name="brains",
        task="segmentation",
        profile="mri",
        hospitals=4,
        size=size,
        classes=("background", "front", "back"),
    )
    found = shipped(task="segmentation", profile="mri", model=None, classes=3, size=size)
    assert found.model == study.model.name == "position_head"
    assert found.parameters == study.model.tensors.size
    assert (found.rounds, found.steps) == (study.training.rounds, study.training.local_steps)


def test_the_command_prints_noise_steps_both_epsilons_and_the_outlook() -> None:
    shown = _run("--epsilon", "8", "--rounds", "10", "--steps", "20", "--patients", "300", "--hospitals", "5")
    plan = _plan(epsilon=8.0)
    assert shown.exit_code == 0
    assert f"{plan.event.noise_multiplier:g} times the clipping norm" in shown.output
    assert "200 in all" in shown.output
    assert "against everybody" in shown.output
    assert "jointly" in shown.output
    assert f"= {plan.noise_to_signal:.2f} with" in shown.output
    assert "fine" in shown.output


def test_the_command_refuses_a_large_network_and_goes_on_anyway() -> None:
    asked = ["--epsilon", "1", "--patients", "30", "--hospitals", "3", "--model", "small_cnn"]
    with pytest.raises(HopelessPlan):
        _run(*asked)
    insisted = _run(*asked, "--anyway")
    assert insisted.exit_code == 0
    assert "hopeless" in insisted.output
