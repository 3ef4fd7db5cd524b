"""Lesions are counted as a person would count them, and one patient's many lesions count for a few."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medveil import lesions
from medveil.metrics import bounded, layout, noise_scales, released, summarise
from medveil.study import Study
from medveil.tasks import TASKS, Sums, zeros
from privacy.metric_limits import can_add_up
from subjects import subject_of
from world import make_study

LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 5.0,
}
FILM = {
    "task": "segmentation",
    "classes": ("background", "lesion"),
    "evaluation": {"bins": 16, "lesions": True},
}
STUDY, PRIVATE = make_study(**FILM), make_study(**FILM, privacy=LOCAL)
SEGMENTATION = TASKS["segmentation"]


def drawn(*rows: str) -> torch.Tensor:
    return torch.tensor([[int(cell != ".") for cell in row] for row in rows])


def sums_of(study: Study, truth: torch.Tensor, predicted: torch.Tensor) -> Sums:
    logits = torch.stack([5.0 * (predicted == 0), 5.0 * (predicted == 1)])
    return SEGMENTATION.sums(study, logits[None], truth[None])


def share(sums: Sums) -> float:
    scales = noise_scales(PRIVATE)
    return math.hypot(*(float(np.linalg.norm(v)) / scales[n] for n, v in bounded(PRIVATE, sums).items()))


TRUTH = drawn("##....#.", "#......#", "........", "..##....", "..##...#")
MODEL = drawn(".#......", "........", "....##..", "....##..", "..#...#.")


def test_lesions_are_found_missed_or_false() -> None:
    # Upper left and the square (by one voxel) are found. Upper right is one lesion, for corners touch, and is
    # missed like lower right. The model's own square and what hangs on its corner lie on no lesion.
    assert lesions.counted(TRUTH.numpy() > 0, MODEL.numpy() > 0) == (2, 2, 1)
    figures = summarise(STUDY, sums_of(STUDY, TRUTH, MODEL))
    assert figures["sensitivity/lesion"] == 0.5
    assert figures["precision/lesion"] == pytest.approx(2 / 3)
    assert figures["lesions/lesion"] == 4


def test_lesions_of_volumes_touch_at_corners_too() -> None:
    volume = np.zeros((4, 4, 4), bool)
    volume[0, 0, 0] = volume[1, 1, 1] = volume[3, 3, 3] = True
    assert lesions.counted(volume, ~volume) == (0, 2, 1)


def test_a_patient_without_lesions_tells_of_false_ones_only() -> None:
    figures = summarise(STUDY, sums_of(STUDY, TRUTH * 0, MODEL))
    assert "sensitivity/lesion" not in figures
    assert figures["precision/lesion"] == 0


def test_many_lesions_count_for_a_few_in_a_noised_sum_and_use_the_bound() -> None:
    scattered = torch.zeros(40, 40, dtype=torch.long)
    scattered[::2, ::2] = 1
    nothing, elsewhere = scattered * 0, scattered.roll((21, 21), (0, 1)) * 0
    elsewhere[::2, 1::4] = 1
    large = scattered.clone()
    large[20:] = 0
    shares = [
        share(sums_of(PRIVATE, truth, model))
        for truth in (scattered, nothing, large)
        for model in (scattered, nothing, elsewhere, 1 - scattered)
    ]
    assert 0.95 < max(shares) <= 1 + 1e-9
    assert bounded(PRIVATE, sums_of(PRIVATE, scattered, nothing))["missed/lesion"] == lesions.FEW


def test_figures_of_noised_sums_stand_clear_of_their_noise_or_are_left_out() -> None:
    one = sums_of(PRIVATE, TRUTH, MODEL)
    few, many = zeros(released(PRIVATE)), zeros(released(PRIVATE))
    for name, values in bounded(PRIVATE, one).items():
        few[name] += 5 * values
        many[name] += 5000 * values
    assert "sensitivity/lesion" not in summarise(PRIVATE, few, noise=2.0)
    figures = summarise(PRIVATE, many, noise=2.0)
    assert figures["sensitivity/lesion"] == pytest.approx(0.5)
    assert figures["lesions/lesion"] == pytest.approx(20_000)


def test_nobody_has_more_lesions_than_are_counted() -> None:
    total = sums_of(STUDY, TRUTH, MODEL)
    assert can_add_up(STUDY, total, hospitals=3)
    for name in lesions.names(("lesion",)):
        assert not can_add_up(STUDY, total | {name: np.array([lesions.MANY + 10])}, hospitals=3)


def test_a_study_that_does_not_ask_for_lesions_is_the_study_it_was() -> None:
    plain = make_study(**subject_of("segmentation"))
    assert "lesions" not in plain.model_dump(mode="json")["evaluation"]
    assert not set(lesions.names(("a", "b", "c"))) & set(layout(plain))
    assert "found/lesion" in layout(STUDY)
    with pytest.raises(ValidationError, match="lesions"):
        make_study(evaluation={"lesions": True})
