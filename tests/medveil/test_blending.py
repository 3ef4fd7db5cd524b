"""Histograms that get noise leave as blends of their cells: at the same price, with surer sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medveil.blending import blended, cells_of, covariance, likeness
from medveil.ids import canonical
from medveil.metrics import noise_scales, released, summarise
from medveil.study import Study
from medveil.tasks.classification import NOISED_BINS
from privacy.metric_limits import can_add_up
from subjects import subject_of
from world import make_study

LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 5.0,
    "epsilon": 8.0,
    "evaluation_multiplier": 4.0,
}
EDGES = np.linspace(-7.2, 7.2, NOISED_BINS - 1)


def study_of(*, blends: bool, task: str = "classification", **changes: Any) -> Study:
    given = {} if task == "classification" else subject_of(task)
    evaluation = {"bins": 64, "every_round": False, "blended": blends}
    return make_study(**{**given, "privacy": LOCAL, "evaluation": evaluation, **changes})


def scores(random: np.random.Generator, count: int = 220) -> dict[str, Any]:
    """Cells of patients whose scores mean what they say, at an AUROC of about .94."""
    sides = {}
    for side, sign in (("positives/abnormal", 1), ("negatives/abnormal", -1)):
        found = np.searchsorted(EDGES, random.normal(sign * 2.4, 2.2, count))
        sides[side] = np.bincount(found, minlength=NOISED_BINS).astype(float)
    return sides


def sent(study: Study, cells: dict[str, Any], noise: float, random: np.random.Generator) -> dict[str, Any]:
    ways = blended if study.evaluation.blended else np.asarray
    scales = noise_scales(study)
    return {k: ways(v) + random.normal(0, noise * scales[k], NOISED_BINS) for k, v in cells.items()}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2 * NOISED_BINS, max_size=2 * NOISED_BINS))
def test_a_patient_in_any_cells_is_no_longer_than_the_weights(weights: list[float]) -> None:
    both = np.array(weights).reshape(2, NOISED_BINS)
    length = math.hypot(*(float(np.linalg.norm(blended(side))) for side in both))
    assert length <= both.sum() * (1 + 1e-15)


def test_a_patient_in_one_cell_is_as_long_as_without_and_rounding_makes_nobody_longer() -> None:
    lengths = [float(np.linalg.norm(blended(cell))) for cell in np.eye(NOISED_BINS)]
    assert max(lengths) <= 1
    assert min(lengths) == pytest.approx(1, abs=1e-9)
    assert np.linalg.eigvalsh(likeness(NOISED_BINS)).min() > 0.01


def test_whoever_reads_has_the_cells_again_and_every_figure_of_them() -> None:
    cells = scores(np.random.default_rng(0))
    for values in cells.values():
        assert cells_of(blended(values)) == pytest.approx(values, abs=1e-9)
    random = np.random.default_rng(1)
    plain, blends = study_of(blends=False), study_of(blends=True)
    expected = summarise(plain, cells)
    assert summarise(blends, sent(blends, cells, 0.0, random)) == pytest.approx(expected)
    findings = [study_of(blends=one, task="findings") for one in (False, True)]
    drawn = {name: np.floor(random.gamma(2.0, 3.0, NOISED_BINS)) for name in released(findings[0])}
    assert summarise(findings[1], {k: blended(v) for k, v in drawn.items()}) == pytest.approx(
        summarise(findings[0], drawn)
    )


def test_sums_of_many_cells_have_less_noise_as_the_decision_says() -> None:
    noise, half = covariance(NOISED_BINS, blends=True), NOISED_BINS // 2
    assert math.sqrt(noise.sum()) == pytest.approx(1.84, abs=0.005)
    assert math.sqrt(noise[:half, :half].sum()) == pytest.approx(1.86, abs=0.005)
    assert math.sqrt(noise[9:12, 9:12].sum()) == pytest.approx(1.92, abs=0.005)
    single = np.sqrt(np.diag(noise))
    assert (single.min(), single.max()) == pytest.approx((1.48, 1.63), abs=0.005)


def test_a_released_area_is_surer_and_its_interval_holds() -> None:
    noise, draws, errors = 4.0, 150, {}
    for blends in (False, True):
        study, random, off, held = study_of(blends=blends), np.random.default_rng(2), [], 0
        for _ in range(draws):
            cells = scores(random)
            truth = summarise(study, sent(study, cells, 0.0, random))["auroc"]
            found = summarise(study, sent(study, cells, noise, random), noise=noise)
            off.append(found["auroc_uncut"] - truth)
            held += found["auroc_noise_low"] <= truth <= found["auroc_noise_high"]
        assert held / draws > 0.9
        assert abs(np.mean(off)) < 4 * np.std(off) / draws**0.5
        errors[blends] = float(np.std(off))
    assert errors[True] < 0.75 * errors[False]


def test_sums_that_no_hospitals_can_have_sent_are_seen_behind_the_blends() -> None:
    study, random = study_of(blends=True), np.random.default_rng(3)
    sums = sent(study, scores(random), 4.0, random)
    assert can_add_up(study, sums, hospitals=3)
    missing = np.zeros(NOISED_BINS)
    missing[3] = -2000.0
    sums["positives/abnormal"] += blended(missing)
    assert not can_add_up(study, sums, hospitals=3)


def test_only_histograms_that_get_noise_are_blended_and_other_studies_keep_their_hash() -> None:
    assert b"blended" not in canonical(study_of(blends=False).model_dump(mode="json"))
    assert study_of(blends=True).hash != study_of(blends=False).hash
    with pytest.raises(ValidationError, match="histograms of scores that get noise"):
        study_of(blends=True, privacy={"kind": "none"})
    with pytest.raises(ValidationError, match="histograms of scores that get noise"):
        study_of(blends=True, task="regression")
