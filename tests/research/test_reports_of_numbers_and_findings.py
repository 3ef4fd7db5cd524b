"""Reports of a figure that is better when lower, and of several findings, say which way is better."""

from __future__ import annotations

import re
from typing import Any

import pytest

from medveil_research.report.page import render
from medveil_research.report.verdict import against_alone, verdict
from medveil_research.results import Result

Value = dict[str, Any]
AGE = {"column": "age", "unit": "years", "low": 18.0, "high": 90.0}


def years(area: float) -> float:
    """An AUROC made into a mean absolute error: a better one is lower."""
    return 30 * (1 - area)


def of_years(value: Any, name: str = "") -> Any:
    """A result of classification as one of a regression."""
    if isinstance(value, dict):
        return {"mae" if k == "auroc" else k: of_years(v, k) for k, v in value.items() if k != "sums"}
    if name == "interval" or (isinstance(value, list) and len(value) == 2 and isinstance(value[0], float)):
        return sorted(years(end) for end in value)
    if isinstance(value, list):
        return [of_years(one, name) for one in value]
    return years(value) if name in ("auroc", "metric", "local_only_mean") and value is not None else value


@pytest.fixture
def regression(classification_result: Value) -> Result:
    changed = of_years(classification_result) | {"task": "regression", "classes": [], "target": AGE}
    changed["federated"]["figures"] |= {"rmse": 4.0, "bias": -0.5, "r2": 0.8}
    return Result.model_validate(changed)


def words(result: Result) -> str:
    """The page's text, without tags and with single spaces."""
    return " ".join(re.sub(r"<[^>]*>", " ", render(result)).split())


def test_a_lower_error_than_that_of_the_hospitals_alone_is_better(regression: Result) -> None:
    assert regression.metric is not None
    assert regression.local_only_mean is not None
    assert regression.metric < regression.local_only_mean
    mean = f"{regression.local_only_mean:.2f} years"
    said = against_alone(regression)
    assert f"years better than the mean of the hospitals training alone ({mean})" in said
    assert "better than every single model" in said
    worse = regression.model_copy(update={"local_only_mean": 0.5 * regression.metric})
    assert "years worse than" in against_alone(worse)


def test_an_error_is_told_as_an_interval_in_its_unit(regression: Result) -> None:
    found = verdict(regression)
    assert found.figure.endswith(" years")
    assert found.sentence == (
        f"On test patients of all hospitals, the shared model is off by {found.figure} on average."
    )


def test_what_an_error_is_made_of_is_told_as_far_as_the_sums_do(regression: Result) -> None:
    page = words(regression)
    assert "mean error -0.50 years" in page
    assert "Of 100 patients about 95 lie between −8.28 years and +7.28 years of the truth" in page
    assert "always says the mean of all patients would have an RMSE of 8.94 years" in page
    assert "patient by patient, is not known" in page


def test_the_page_says_what_is_estimated_and_in_which_unit(regression: Result) -> None:
    page = words(regression)
    assert "Chest films: estimating &#39;age&#39; (18 to 90 years) in X-ray images" in page
    assert "MAE in years" in page
    assert "R²" in page


def test_noise_widens_the_interval_of_an_error_on_both_sides_but_not_below_zero(regression: Result) -> None:
    figures = {**regression.federated.figures, "noise": 3.0}
    federated = regression.federated.model_copy(update={"figures": figures, "exact": None})
    noised = regression.model_copy(update={"federated": federated})
    assert noised.compared is not None
    assert noised.compared.value is not None
    assert noised.compared.interval == (0.0, pytest.approx(noised.compared.value + 1.96 * 3.0, abs=1e-3))


def test_each_finding_is_shown_with_the_cases_that_it_rests_on(classification_result: Value) -> None:
    names = [f"finding {number}" for number in range(9)]
    figures = {"auroc": 0.8, "patients": 100.0}
    for number, name in enumerate(names):
        figures |= {f"there/{name}": float(number), f"known/{name}": 90.0}
        figures |= {f"auroc/{name}": 0.7 + number / 50} if number else {}
    classification_result |= {"task": "findings", "classes": names}
    classification_result["federated"] |= {"figures": figures, "sums": {}, "metric": 0.8}
    page = words(Result.model_validate(classification_result))
    assert "finding 8 — 0.860 8 of 90" in page
    assert "finding 1 — 0.720 1 of 90" in page
    assert "on average over the findings" in page
