"""A result is made from what an aggregator tells of a plan, and from the study that the plan was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from made_results import made_result
from medveil.groups import Groups
from medveil.reports import AttemptReport, PlanStatus
from medveil.study import Study, Target
from medveil_research.report import rows
from medveil_research.report.page import render
from medveil_research.results import OtherStudy, RoundFacts, from_status, read_result, write_result
from medveil_research.studies import StudyOptions, new_study

HOSPITALS = ["north", "south", "west"]


@pytest.fixture(scope="module")
def study() -> Study:
    return new_study(
        StudyOptions(
            name="films", task="classification", profile="xray", hospitals=3, rounds=2, patients_hint=300
        )
    )[0]


def attempt(number: int, outcome: str = "done", **values: Any) -> dict[str, Any]:
    kind = "evaluate" if number > 2 else "train"
    usual = {"attempt": 1, "kind": kind, "outcome": outcome, "seconds": 2.5, "survivors": HOSPITALS}
    return {"round": number, **usual, **values}


def status_of(study: Study, attempts: list[dict[str, Any]], **change: Any) -> PlanStatus:
    first = {
        "plan": "1" * 64,
        "number": 0,
        "model": study.model.initial_model,
        "parent": None,
        "round": 0,
        "survivors": [],
        "epsilon": None,
        "created": "2026-01-01T00:00:00+00:00",
    }
    last = first | {"number": 1, "model": "2" * 64, "parent": first["model"], "round": 1, "epsilon": 4.0}
    value = {
        "plan": "1" * 64,
        "name": "films",
        "finished": True,
        "hospitals": HOSPITALS,
        "approved": HOSPITALS,
        "in_reach": HOSPITALS,
        "open": None,
        "waiting_for": None,
        "attempts": attempts,
        "versions": [first, last],
    }
    return PlanStatus.model_validate(value | change)


def test_a_round_is_its_last_attempt_and_counts_them_all(study: Study) -> None:
    tries = [
        attempt(1, "failed", reason="below-threshold", survivors=[]),
        attempt(1, attempt=2, model="2" * 64, proof="3" * 64, epsilon=4.0),
        attempt(2, "failed", reason="below-threshold", survivors=[]),
    ]
    first, second = from_status(study, status_of(study, tries)).rounds
    assert (first.round, first.attempts, first.outcome, first.model) == (1, 2, "done", "2" * 64)
    assert (second.round, second.attempts, second.outcome) == (2, 1, "failed")
    assert second.reason == "below-threshold"


def test_the_figures_are_those_of_the_final_evaluation(study: Study) -> None:
    sums = {"positives/positive": [1.0, 2.0], "negatives/positive": [2.0, 1.0]}
    final = attempt(3, figures={"auroc": 0.75, "noise": 0.02}, metric=0.75, sums=sums)
    result = from_status(study, status_of(study, [attempt(1), attempt(2), final]), patients=300)
    assert result.metric == 0.75
    assert result.federated.figures == {"auroc": 0.75, "noise": 0.02}
    assert {name: list(values) for name, values in result.federated.sums.items()} == sums
    assert result.federated.model == "2" * 64
    assert result.privacy.epsilon == 8.0
    assert result.privacy.noise_to_signal is not None
    page = render(result)
    assert "best guess 0.750" in page
    assert "Was it worth it?" not in page
    assert "None" not in page


def test_a_study_that_has_not_ended_has_a_report_without_figures(study: Study) -> None:
    result = from_status(study, status_of(study, [attempt(1)], finished=False))
    assert result.metric is None
    assert result.privacy.noise_to_signal is None
    assert "has not been judged on test patients so far" in render(result)
    assert "1 of 2 rounds gave a new model" in render(result)


@pytest.mark.parametrize("change", [{"name": "others"}, {"versions": []}], ids=["name", "model"])
def test_a_status_of_another_study_is_refused(study: Study, change: dict[str, Any]) -> None:
    with pytest.raises(OtherStudy):
        from_status(study, status_of(study, [attempt(1)], **change))


def test_what_a_round_tells_is_what_an_attempt_reports() -> None:
    reported = AttemptReport.model_fields
    for name, field in RoundFacts.model_fields.items():
        assert name == "attempts" or field.annotation == reported[name].annotation


def test_groups_stand_in_tables_of_their_own_and_small_ones_are_said_to_be_hidden() -> None:
    views = tuple(f"view {number}" for number in range(9))
    groups = {
        "sex": Groups(column="sex", values=("F", "M")),
        "view": Groups(column="view", values=views),
    }
    result = made_result("classification", privacy="none", patients=200, groups=groups)
    sex, view = rows.groups(result)
    assert [(row.name, *row.more) for row in sex.rows] == [("F", "100"), ("M", "50"), ("all", "200")]
    assert "50 patients are in none of these groups." in sex.caption
    assert [row.interval == "not shown" for row in view.rows] == [False] * 4 + [True] * 5 + [False]
    assert "A group of fewer than 10 patients is not shown" in view.caption
    page = render(result)
    assert "were not asked for" not in page
    assert "figures by group on this page" in page
    assert "not asked for by this study" in render(made_result("classification", patients=20))


def test_a_noised_result_knows_the_size_of_its_noise_and_makes_its_two_by_two_table() -> None:
    result = made_result("classification", patients=300)
    policy = result.privacy
    assert policy.evaluation_multiplier is not None
    assert result.federated.deviations == pytest.approx(
        dict.fromkeys(("positives/positive", "negatives/positive"), policy.evaluation_multiplier * 2)
    )
    page = render(result)
    assert "At the threshold 0.50" in page
    assert "Counts carry noise; each may be off by about" in page
    assert "Whether its percentages are true" in page


def test_a_result_says_how_the_study_was_made(study: Study) -> None:
    recipe = from_status(study, status_of(study, [attempt(1)])).recipe
    assert recipe is not None
    assert (recipe.rounds, recipe.initial_model) == (2, study.model.initial_model)
    assert recipe.work == f"{study.training.local_steps} steps"


def test_a_result_is_read_back_with_all_that_is_new_in_it(tmp_path: Path) -> None:
    result = made_result("regression", target=Target(column="age", unit="years", low=18, high=90))
    write_result(result, tmp_path / "result.json")
    again = read_result(tmp_path / "result.json")
    assert again == result
    assert render(again) == render(result)


def test_hospitals_that_have_agreed_to_show_their_own_figures_have_a_table_and_others_have_none() -> None:
    result = made_result("classification", patients=200)
    assert "every hospital&#39;s operator has allowed it" not in render(result)
    assert rows.agreed_sites(result) is None
    own = {"auroc": 0.9, "auroc_low": 0.8, "auroc_high": 0.97, "patients": 60.0}
    figures = {f"{name}@hospital={who}": value for who in ("north", "west") for name, value in own.items()}
    federated = result.federated.model_copy(update={"figures": {**result.federated.figures, **figures}})
    shown = result.model_copy(update={"federated": federated})
    table = rows.agreed_sites(shown)
    assert table is not None
    assert [(row.name, row.interval, *row.more) for row in table.rows[:4]] == [
        ("north", "0.800 to 0.970", "60"),
        ("south", "not shown", "—"),
        ("west", "0.800 to 0.970", "60"),
        ("east", "not shown", "—"),
    ]
    assert rows.groups(shown) == []
    page = render(shown)
    assert "operator has allowed it" in page
    assert "figures of each hospital on this page" in page
