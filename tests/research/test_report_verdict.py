"""The first screen in words: a title that is no slug, an interval, and a reason where there is no figure."""

from __future__ import annotations

from typing import Any

import pytest

from medveil.readings import Reading
from medveil_research.report.page import render, threshold
from medveil_research.report.rows import Given, comparison, table
from medveil_research.report.scores import scores_of
from medveil_research.report.verdict import against_alone, cost_of_privacy, title, verdict
from medveil_research.results import Result

Value = dict[str, Any]


def with_figures(value: Value, **figures: float) -> Result:
    """The same study with other figures from its final evaluation."""
    federated = value["federated"] | {"figures": figures, "metric": None, "exact": None}
    return Result.model_validate(value | {"federated": federated})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chest-ptx-2026", "Chest ptx 2026: telling normal from pneumonia in X-ray images"),
        ("x", "X: telling normal from pneumonia in X-ray images"),
    ],
)
def test_the_title_is_the_name_as_words_and_what_it_does(
    classification_result: Value, name: str, said: str
) -> None:
    result = Result.model_validate(classification_result | {"study": name})
    assert title(result) == said
    assert f"<h1>{said}</h1>" in render(result)


@pytest.mark.parametrize(
    ("area", "ends", "figure", "pairs"),
    [
        (0.95, (0.908, 0.979), "0.908 to 0.979", "in 91 to 98 of 100 pairs"),
        (1.0, (0.884, 1.0), "above 0.884", "in at least 88 of 100 pairs"),
        (0.95, (0.949, 0.951), "0.949 to 0.951", "in 95 of 100 pairs"),
    ],
)
def test_an_area_is_told_as_pairs_of_a_hundred(
    classification_result: Value, area: float, ends: tuple[float, float], figure: str, pairs: str
) -> None:
    low, high = ends
    told = verdict(with_figures(classification_result, auroc=area, auroc_low=low, auroc_high=high))
    assert told.figure == figure
    assert pairs in told.sentence
    assert "chance in the choice of patients." in told.details[0]


def test_a_figure_that_was_cut_says_where_it_stood_before(classification_result: Value) -> None:
    figures = {
        "auroc": 1.0, "auroc_low": 0.91, "auroc_high": 1.0, "auroc_uncut": 1.058,
        "auroc_noise_low": 0.93, "auroc_noise_high": 1.0, "noise": 0.03,
    }  # fmt: skip
    result = with_figures(classification_result, **figures)
    told = verdict(result)
    assert told.figure == "above 0.910"
    assert "best guess" not in told.under
    assert "It is cut at 1.000; before the cut the best guess was 1.058" in told.details[1]
    assert "and the noise that protects them" in told.details[0]
    assert "0.090 wide; the noise on the counts alone would make it 0.070 wide" in cost_of_privacy(result)
    assert "before the cut 1.058" in render(result)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "train"}, "has not been judged on test patients so far"),
        ({"outcome": "failed", "reason": "below-threshold"}, "of all hospitals failed (below-threshold)"),
        ({}, "too few test cases of one kind"),
    ],
    ids=["not yet", "failed", "one kind"],
)
def test_where_there_is_no_figure_stands_why(classification_result: Value, change: Value, said: str) -> None:
    classification_result["rounds"][-1] |= change
    told = verdict(with_figures(classification_result, patients=30.0))
    assert told.figure == "no figure"
    assert said in told.sentence


def test_an_evaluation_set_of_one_class_has_the_share_that_it_can_have(classification_result: Value) -> None:
    sums = classification_result["federated"]["sums"]
    sums["negatives/pneumonia"] = [0.0] * len(sums["negatives/pneumonia"])
    result = with_figures(classification_result, patients=80.0)
    crossed = threshold(scores_of(result))
    assert crossed is not None
    told = {name: interval for name, interval, _ in crossed.rows}
    assert told["Specificity"] == "not determined"
    assert told["Sensitivity"].startswith("0.8")
    page = render(result)
    assert "too few cases: 0 of 0" in page
    assert "How well it separates" not in page


def test_a_model_that_is_no_better_than_those_alone_is_not_called_better(
    classification_result: Value,
) -> None:
    mean = classification_result["federated"]["metric"]
    same = Result.model_validate(classification_result | {"local_only_mean": mean})
    assert "reach the same on average" in against_alone(same)
    for one in classification_result["local_only"]:
        one["metric"] = 0.999
    worse = Result.model_validate(classification_result | {"local_only_mean": 0.999})
    assert "worse than the mean" in against_alone(worse)
    assert "better than none of the single models" in against_alone(worse)


def test_models_of_single_hospitals_stand_with_their_intervals_where_they_are_known(
    classification_result: Value,
) -> None:
    first, *_ = classification_result["local_only"]
    first["pooled"] |= {"auroc_low": 0.88, "auroc_high": 0.95}
    table = comparison(Result.model_validate(classification_result))
    assert table is not None
    assert [(row.interval, row.guess) for row in table.rows[:2]] == [
        ("0.880 to 0.950", "0.921"),
        ("—", "0.934"),
    ]
    assert table.rows[-1].ours
    classification_result["local_only"] = []
    assert comparison(Result.model_validate(classification_result)) is None


def test_a_table_of_what_the_noise_drowned_has_a_short_word_in_each_row_and_the_reason_once() -> None:
    drowned = [Given(name, Reading(None)) for name in ("effusion", "nodules")]
    found = table("Each finding.", drowned, first="finding", figure="AUROC")
    assert [row.interval for row in found.rows] == ["not determined"] * 2
    assert found.caption == "Each finding. Not determined: too few patients for this noise."
    assert found.axis == ""
