"""A result is made from what an aggregator tells of a plan, and from the study that the plan was made of."""

from __future__ import annotations

from typing import Any

import pytest

from medveil.reports import AttemptReport, PlanStatus
from medveil.study import Study
from medveil_research.report.page import render
from medveil_research.results import OtherStudy, RoundFacts, from_status
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
