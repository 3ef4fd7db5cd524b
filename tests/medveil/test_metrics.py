"""Figures from histograms equal what one would compute from the cases themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medveil.histograms import auroc, calibration_curve, calibration_error, middles, roc_curve, score_bins
from medveil.metrics import empty, headline, layout, summarise
from medveil.study import Study
from world import make_study

BINS = 16
cases = st.lists(st.tuples(st.integers(0, BINS - 1), st.booleans()), min_size=2, max_size=60)
THREE = {"classes": ("background", "front", "back"), "task": "segmentation"}
VOLUME = {"transforms": {"profile": "mri", "size": (8, 8, 8), "spacing_mm": (1, 1, 1)}}


def histograms(scored: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    both = np.zeros((2, BINS))
    for score, positive in scored:
        both[0 if positive else 1, score] += 1
    return both[0], both[1]


@given(cases)
def test_auroc_is_the_share_of_pairs_in_the_right_order_and_ties_count_half(
    scored: list[tuple[int, bool]],
) -> None:
    positives = [s for s, p in scored if p]
    negatives = [s for s, p in scored if not p]
    area = auroc(*histograms(scored))
    if not positives or not negatives:
        assert area is None
        return
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    assert area == pytest.approx(won / (len(positives) * len(negatives)))


@given(cases)
def test_the_area_under_the_roc_curve_is_the_auroc(scored: list[tuple[int, bool]]) -> None:
    positives, negatives = histograms(scored)
    area = auroc(positives, negatives)
    false, true = roc_curve(positives, negatives)
    assert (false[0], true[0]) == (0.0, 0.0)
    if area is not None:
        assert (false[-1], true[-1]) == (1.0, 1.0)
        assert np.trapezoid(true, false) == pytest.approx(area)


@given(cases)
def test_the_calibration_error_equals_its_definition(scored: list[tuple[int, bool]]) -> None:
    positives, negatives = histograms(scored)
    expected, probability = 0.0, 1 / (1 + np.exp(-middles(BINS)))
    for group in range(16):
        inside = [(s, p) for s, p in scored if min(int(probability[s] * 16), 15) == group]
        if inside:
            predicted = np.mean([probability[s] for s, _ in inside])
            observed = np.mean([p for _, p in inside])
            expected += len(inside) / len(scored) * abs(predicted - observed)
    assert calibration_error(positives, negatives) == pytest.approx(expected)
    assert calibration_curve(positives, negatives)[2].sum() == len(scored)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_a_histogram_tells_scores_apart_however_sure_the_model_is(scale: float) -> None:
    random = np.random.default_rng(3)
    positive, negative = scale * random.normal(1.6, 1, 800), scale * random.normal(-0.6, 1, 800)
    exact = np.mean(positive[:, None] > negative[None])
    sides = [np.bincount(score_bins(side, 256), minlength=256) for side in (positive, negative)]
    assert auroc(*sides) == pytest.approx(exact, abs=0.002)
    assert (score_bins(middles(256), 256) == np.arange(256)).all()


def test_no_cases_give_no_figures_but_a_count() -> None:
    study = make_study()
    assert summarise(study, empty(study)) == {"images": 0.0, "patients": 0.0}


def test_one_class_alone_has_no_auroc() -> None:
    study, sums = make_study(), empty(make_study())
    sums["negatives/abnormal"][3] = 4.0
    for name, value in (("images", 4.0), ("patients", 2.0), ("correct", 3.0), ("loss", 2.0)):
        sums[name][:] = value
    figures = summarise(study, sums)
    assert "auroc" not in figures
    assert (figures["accuracy"], figures["loss"], figures["patients"]) == (0.75, 0.5, 2.0)


def test_several_classes_are_averaged_over_those_that_can_be_judged() -> None:
    study = make_study(classes=("a", "b", "c"))
    sums = empty(study)
    assert set(layout(study)) >= {"positives/a", "negatives/a", "positives/c"}
    sums["positives/a"][15], sums["negatives/a"][0] = 1, 2
    sums["positives/b"][0], sums["negatives/b"][15] = 1, 2
    sums["negatives/c"][4] = 3
    sums["images"][:] = 3
    figures = summarise(study, sums)
    assert (figures["auroc/a"], figures["auroc/b"], figures["auroc"]) == (1.0, 0.0, 0.5)
    assert "auroc/c" not in figures
    assert "ece" not in figures


def test_dice_is_the_mean_over_patients_in_whom_a_structure_was_outlined() -> None:
    study = make_study(**(THREE | VOLUME))
    sums = empty(study)
    sums["dice/front"][:], sums["cases/front"][:] = 1.5, 2.0
    sums["patients"][:], sums["loss"][:] = 3.0, 0.6
    assert headline(study) == "dice"
    figures = summarise(study, sums)
    assert figures == {"dice": 0.75, "dice/front": 0.75, "loss": pytest.approx(0.2), "patients": 3.0}


@pytest.mark.parametrize("study", [make_study(), make_study(**(THREE | VOLUME))])
def test_the_empty_sums_have_the_layout_of_the_study(study: Study) -> None:
    assert {k: len(v) for k, v in empty(study).items()} == layout(study)
