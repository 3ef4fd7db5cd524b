"""Reports of a figure that is better when lower, and of several findings, say which way is better."""

from __future__ import annotations

import re
from typing import Any

import pytest

from medveil_research.report.page import render, verdict
from medveil_research.report.plots import draw_all
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


def test_a_lower_error_than_that_of_the_hospitals_alone_is_better(regression: Result) -> None:
    assert regression.metric is not None
    assert regression.local_only_mean is not None
    found = verdict(regression)
    assert regression.metric < regression.local_only_mean
    mean = f"{regression.local_only_mean:.2f} years"
    assert f"years better than the mean of the hospitals training alone ({mean})" in found.sentence
    assert "4 of the 4 single models do worse" in found.sentence
    assert re.fullmatch(r"[0-9.]+ to [0-9.]+ years", found.value)
    assert found.interval.endswith(f"best guess {regression.metric:.2f} years")
    worse = regression.model_copy(update={"local_only_mean": 0.5 * regression.metric})
    assert "years worse than" in verdict(worse).sentence


def test_the_drawings_of_an_error_say_that_left_is_better_and_zero_perfect(regression: Result) -> None:
    drawings = {one.title: one for one in draw_all(regression)}
    assert set(drawings) == {"Round by round", "Together against alone", "The shared model at each hospital"}
    assert "0 is perfect" in " ".join(drawings["Round by round"].how_to_read.split())
    assert "Further left is better" in " ".join(drawings["Together against alone"].how_to_read.split())
    assert "years" in drawings["The shared model at each hospital"].description


def test_the_page_says_what_is_estimated_and_in_which_unit(regression: Result) -> None:
    page = render(regression)
    assert "estimate &#39;age&#39; (18 to 90 years)" in page
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
    result = Result.model_validate(classification_result)
    drawing = next(one for one in draw_all(result) if one.title == "Each finding")
    assert "finding 8 (8 of 90): 0.860" in drawing.description
    assert "No figure (too few cases of one kind): finding 0." in drawing.description
