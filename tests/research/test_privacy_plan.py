"""A privacy plan says before any run what a schedule costs and whether anything can be learned under it."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from medveil.errors import BadFile
from medveil_research.cli import register
from medveil_research.outlook import HopelessPlan, check_hope, noise_to_signal
from medveil_research.privacy_plan import PrivacyPlan, Schedule, plan_privacy, shipped
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.accounting import EpsilonOutOfReach, Event, epsilon
from privacy.dp.matched import UnmatchedNoise
from tries import leading

USUAL: dict[str, Any] = {"rounds": 10, "steps": 20, "patients": 300, "hospitals": 5, "parameters": 1217}


def _plan(**changes: Any) -> PrivacyPlan:
    return plan_privacy(Schedule(**({"epsilon": None, "noise_multiplier": None} | USUAL | changes)))


def _run(*arguments: str) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    register(app)
    return CliRunner().invoke(app, ["privacy", "plan", *arguments], catch_exceptions=False)


@pytest.mark.parametrize(("price", "rate"), leading([(8.0, 1.0), (1.0, 1.0), (3.0, 0.2)], 1))
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
        check_hope(hopeless.noise_to_signal, anyway=False)
    assert "smaller model" in caught.value.remedy
    check_hope(hopeless.noise_to_signal, anyway=True)
    check_hope(_plan(epsilon=8.0).noise_to_signal, anyway=False)


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
        StudyOptions(
            name="brains",
            task="segmentation",
            profile="mri",
            hospitals=4,
            size=size,
            classes=("background", "front", "back"),
        )
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


def test_matched_noise_is_shown_by_round_and_costs_what_equal_noise_does() -> None:
    asked = ["--epsilon", "3", "--patients", "60", "--hospitals", "5", "--privacy", "joint"]
    even, matched = _run(*asked, "--equal-noise").output, _run(*asked, "--matched").output
    assert "by round 1: 7.499, 16: 8.689, 31: 10.83, 45: 16.07, 60: 183.5" in matched
    assert "1.18 times smaller" in matched
    shown = [line for line in matched.splitlines() if "matched" not in line and "by round" not in line]
    assert shown == even.splitlines()
    with pytest.raises(UnmatchedNoise):
        _run(*asked[:6], "--sample-rate", "0.5", "--matched")


def test_the_command_refuses_a_large_network_and_goes_on_anyway() -> None:
    asked = ["--epsilon", "1", "--patients", "30", "--hospitals", "3", "--model", "small_cnn"]
    with pytest.raises(HopelessPlan):
        _run(*asked)
    insisted = _run(*asked, "--anyway")
    assert insisted.exit_code == 0
    assert "hopeless" in insisted.output


JOINT: dict[str, Any] = {"privacy": "joint", "rounds": 60, "steps": 1}


@pytest.mark.parametrize("price", [8.0, 3.0])
def test_joint_noise_is_calibrated_both_ways_and_shows_both_epsilons(price: float) -> None:
    there = _plan(epsilon=price, honest=3, **JOINT)
    assert 0.98 * price < there.epsilon_joint <= price
    assert there.epsilon_local == epsilon([Event(there.noise_multiplier / 3**0.5, 1.0, 60)], there.delta)
    assert there.epsilon_local > 1.5 * there.epsilon_joint
    assert _plan(noise_multiplier=there.noise_multiplier, honest=3, **JOINT) == there


def test_joint_noise_leaves_more_to_learn_at_the_same_epsilon() -> None:
    """Five hospitals' patients together behind one noise, against each behind its own."""
    alone = _plan(epsilon=8.0, rounds=60, steps=1)
    together = _plan(epsilon=8.0, honest=5, **JOINT)
    assert together.noise_to_signal == pytest.approx(alone.noise_to_signal / 5**0.5)


def test_the_evaluation_costs_test_patients_no_more_than_the_study_says() -> None:
    for found in (_plan(epsilon=8.0), _plan(epsilon=3.0, honest=3, **JOINT)):
        price = epsilon([Event(found.evaluation_multiplier, 1.0, 1)], found.delta)
        assert 0.98 * found.epsilon_joint < price <= found.epsilon_joint


@pytest.mark.parametrize(
    "bad",
    [{"honest": 3}, {"honest": 1, **JOINT}, {"honest": 6, **JOINT}, {"privacy": "joint", "steps": 2}],
    ids=["local", "one", "more than there are", "two steps"],
)
def test_joint_noise_that_would_not_add_up_is_refused_in_words(bad: dict[str, Any]) -> None:
    with pytest.raises(BadFile):
        _plan(epsilon=8.0, **bad)


@pytest.mark.slow
def test_an_epsilon_that_no_noise_reaches_is_refused_with_a_remedy() -> None:
    with pytest.raises(EpsilonOutOfReach) as caught:
        _plan(epsilon=1e-4, sample_rate=0.5, steps=4)
    assert "larger epsilon" in caught.value.remedy


def test_the_joint_plan_is_that_of_the_study_that_would_be_written() -> None:
    study, _ = new_study(
        StudyOptions(
            name="films",
            task="classification",
            profile="xray",
            privacy="joint",
            hospitals=5,
            patients_hint=300,
        )
    )
    usual = shipped(task="classification", profile="xray", model=None, classes=2, size=None, privacy="joint")
    found = plan_privacy(
        Schedule(
            epsilon=8.0,
            noise_multiplier=None,
            rounds=usual.rounds,
            steps=usual.steps,
            patients=300,
            hospitals=5,
            parameters=usual.parameters,
            privacy="joint",
            mean_rounds=study.mean_rounds,
        )
    )
    assert found.mean_is_clear(1) == study.centred
    assert study.privacy.kind == "joint"
    assert found.noise_multiplier == pytest.approx(study.privacy.noise_multiplier)
    assert found.sharers == study.privacy.honest_hospitals
    assert found.evaluation_multiplier == pytest.approx(study.privacy.evaluation_multiplier, abs=0.002)
    assert found.noise_to_signal == noise_to_signal(study, patients=300, hospitals=5)


def test_the_command_prints_a_joint_plan() -> None:
    shown = _run(
        "--epsilon", "8", "--privacy", "joint", "--honest", "3", "--patients", "500", "--hospitals", "3"
    )
    assert shown.exit_code == 0
    assert "by each hospital; 3 of 3 must add theirs" in shown.output
    assert "60 in all" in shown.output
    assert "8 jointly, counting the noise of 3 hospitals" in shown.output
    assert "15.9 against everybody" in shown.output
    assert "all others" in shown.output
    assert "test patients pay at most the same" in shown.output


@pytest.mark.parametrize(
    ("patients", "words"), [(4000, "fine"), (70, "usable"), (40, "warning"), (20, "hopeless")]
)
def test_the_outlook_is_fine_usable_a_warning_or_a_refusal(patients: int, words: str) -> None:
    plan = _plan(epsilon=8.0, patients=patients, hospitals=1, parameters=2000)
    assert plan.lines()[-1].strip().startswith(words)


HOPELESS: dict[str, Any] = {
    "name": "brains",
    "task": "segmentation",
    "profile": "mri",
    "model": "unet3d",
    "size": (16, 16, 16),
    "hospitals": 3,
    "patients_hint": 20,
}


def test_a_study_without_hope_is_not_written_unless_its_author_insists_and_hospitals_see_that() -> None:
    with pytest.raises(HopelessPlan) as caught:
        new_study(StudyOptions(**HOPELESS))
    assert "smaller model" in caught.value.remedy
    insisted, _ = new_study(StudyOptions(**HOPELESS, anyway=True))
    assert insisted.privacy.kind == "local"
    assert insisted.privacy.despite_noise
    usual, _ = new_study(StudyOptions(**HOPELESS | {"model": None, "patients_hint": 2000}, anyway=True))
    assert usual.privacy.kind == "local"
    assert not usual.privacy.despite_noise
    assert new_study(StudyOptions(**HOPELESS, privacy="none"))[0].privacy.kind == "none"


def test_the_smallest_delta_that_is_usual_follows_the_patients() -> None:
    study, _ = new_study(
        StudyOptions(name="many", task="classification", profile="xray", hospitals=3, patients_hint=1_000_000)
    )
    assert study.privacy.kind == "local"
    assert study.privacy.delta == 1e-7


def test_a_private_mean_costs_nothing_more_and_leaves_one_round_less_to_learn() -> None:
    plain, centred = _plan(epsilon=8.0), _plan(epsilon=8.0, mean_rounds=1)
    assert (centred.event, centred.epsilon_local) == (plain.event, plain.epsilon_local)
    assert centred.noise_to_signal == pytest.approx(plain.noise_to_signal * (10 / 9) ** 0.5)
    options = {"name": "films", "task": "classification", "profile": "xray", "hospitals": 5}
    study, _ = new_study(StudyOptions(**options, patients_hint=300, options={"centred": True}))
    assert centred.noise_to_signal == pytest.approx(noise_to_signal(study, patients=300, hospitals=5))
    for bad in ({"rounds": 1}, {"sample_rate": 0.5}):
        with pytest.raises(BadFile):
            _plan(epsilon=8.0, mean_rounds=1, **bad)


def test_the_command_says_that_the_first_round_releases_the_mean() -> None:
    arguments = ("--epsilon", "8", "--rounds", "10", "--patients", "300", "--hospitals", "5")
    words = "for 1/10 of the price"
    assert words in _run(*arguments, "--centred").output
    assert words not in _run(*arguments, "--not-centred").output


@pytest.mark.parametrize(
    ("change", "centred"),
    [
        ({"patients_hint": 600}, True),
        ({"patients_hint": 40}, False),
        ({"patients_hint": 600, "epsilon": 0.5}, False),
        ({"patients_hint": None}, False),
        ({"patients_hint": 600, "rounds": 5}, False),
        ({"patients_hint": 600, "options": {"centred": False}}, False),
        ({"patients_hint": 600, "privacy": "none"}, False),
    ],
    ids=["many", "few", "strict", "unknown", "short", "unwanted", "no privacy"],
)
def test_a_new_study_releases_a_mean_where_its_noise_is_short(change: dict[str, Any], centred: bool) -> None:
    usual: dict[str, Any] = {"task": "classification", "profile": "xray", "hospitals": 3}
    study, _ = new_study(StudyOptions(name="films", **(usual | change)))
    assert study.centred == centred
