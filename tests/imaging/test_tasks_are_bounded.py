"""Losses look at one image only, and one patient's share of the figures is bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medveil.evaluation import Evaluation
from medveil.metrics import layout, summarise
from medveil.noise_policies import NoPrivacy
from medveil.study import ModelChoice, SecureAggregation, Study, Training, Transforms
from medveil.tasks import MAX_LOSS, TASKS
from medveil.tensors import ModelSpec, TensorSpec


def study(task: str, classes: tuple[str, ...], images: int = 64) -> Study:
    flat = task == "classification"
    return Study(
        name="sums",
        task=task,
        classes=classes,
        model=ModelChoice(
            name="any", tensors=ModelSpec((TensorSpec(name="w", shape=(1,)),)), initial_model="0" * 64
        ),
        transforms=Transforms(profile="xray", size=(16, 16))
        if flat
        else Transforms(profile="mri", size=(8, 8, 8), spacing_mm=(1.0, 1.0, 1.0)),
        training=Training(rounds=1, local_epochs=1, learning_rate=0.1),
        privacy=NoPrivacy(),
        secure_aggregation=SecureAggregation(update_clip=1.0, max_weight=10),
        evaluation=Evaluation(bins=16, images_per_patient=images),
    )


TWO = study("classification", ("normal", "abnormal"))
THREE = study("classification", ("a", "b", "c"))
PARTS = study("segmentation", ("background", "front", "back"))


def volumes(*labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Label maps, and logits that predict them perfectly."""
    truth = torch.stack(labels)
    return 20.0 * torch.nn.functional.one_hot(truth, 3).movedim(-1, 1).float(), truth


def test_sums_have_the_layout_of_the_wire() -> None:
    perfect, truth = volumes(torch.zeros(8, 8, 8, dtype=torch.long))
    cases = [
        (TWO, torch.zeros(2, 1), torch.tensor([0, 1])),
        (THREE, torch.zeros(2, 3), torch.tensor([0, 2])),
        (PARTS, perfect, truth),
    ]
    for one, logits, labels in cases:
        sums = TASKS[one.task].sums(one, logits, labels)
        assert {name: len(value) for name, value in sums.items()} == layout(one)
        assert all(value.dtype == np.float64 for value in sums.values())


def test_two_class_histograms_hold_each_image_once_in_the_right_bin() -> None:
    logits = torch.tensor([[-31.0], [31.0], [0.2]])
    sums = TASKS["classification"].sums(TWO, logits, torch.tensor([0, 1, 0]))
    assert sums["positives/abnormal"].nonzero()[0].tolist() == [15]
    assert sums["negatives/abnormal"].nonzero()[0].tolist() == [0, 8]
    assert sums["correct"][0] == 2
    assert sums["images"][0] == 3
    assert sums["patients"][0] == 1


def test_several_classes_are_scored_each_against_the_rest() -> None:
    logits = torch.eye(3) * 30
    figures = summarise(THREE, TASKS["classification"].sums(THREE, logits, torch.arange(3)))
    assert figures["auroc"] == 1.0
    assert figures["accuracy"] == 1.0


def test_a_patient_with_many_images_counts_for_a_bounded_number_only() -> None:
    capped = study("classification", ("normal", "abnormal"), images=4)
    sums = TASKS["classification"].sums(capped, torch.full((50, 1), -1e4), torch.ones(50, dtype=torch.long))
    assert sums["images"][0] == 4
    assert sums["loss"][0] == 4 * MAX_LOSS
    assert sums["positives/abnormal"].sum() == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_diverged_model_gives_finite_bounded_sums(value: float) -> None:
    for one in (TWO, THREE):
        outputs = 1 if one is TWO else 3
        sums = TASKS["classification"].sums(one, torch.full((2, outputs), value), torch.tensor([0, 1]))
        assert all(np.isfinite(v).all() for v in sums.values())
        assert 0 <= sums["loss"][0] <= 2 * MAX_LOSS
    labels = torch.ones(1, 8, 8, 8, dtype=torch.long)
    sums = TASKS["segmentation"].sums(PARTS, torch.full((1, 3, 8, 8, 8), value), labels)
    assert all(np.isfinite(v).all() for v in sums.values())
    assert 0 <= sums["loss"][0] <= MAX_LOSS


def test_classification_loss_is_the_cross_entropy_of_each_image() -> None:
    logits, labels = torch.tensor([[0.3], [-2.0]]), torch.tensor([1, 0])
    probability = torch.sigmoid(logits[:, 0])
    expected = -torch.where(labels == 1, probability, 1 - probability).log()
    assert torch.allclose(TASKS["classification"].loss(logits, labels), expected)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_changing_one_image_changes_no_other_images_loss(task: str) -> None:
    random = torch.Generator().manual_seed(0)
    shape = (3, 3) if task == "classification" else (3, 3, 4, 4, 4)
    logits = torch.randn(shape, generator=random)
    labels = torch.randint(0, 3, (3, *shape[2:]), generator=random)
    before = TASKS[task].loss(logits, labels)
    logits[0], labels[0] = 7.0, 2
    after = TASKS[task].loss(logits, labels)
    assert before.shape == (3,)
    assert torch.equal(before[1:], after[1:])
    assert not torch.equal(before[:1], after[:1])


def test_a_perfect_outline_has_dice_one_and_nearly_no_loss() -> None:
    both = torch.zeros(8, 8, 8, dtype=torch.long)
    both[:3], both[5:] = 1, 2
    logits, labels = volumes(both, both)
    sums = TASKS["segmentation"].sums(PARTS, logits, labels)
    assert summarise(PARTS, sums)["dice"] == 1.0
    assert float(TASKS["segmentation"].loss(logits, labels).max()) < 1e-3


def test_an_empty_label_map_never_scores() -> None:
    logits, labels = volumes(torch.zeros(8, 8, 8, dtype=torch.long))
    sums = TASKS["segmentation"].sums(PARTS, logits, labels)
    assert sums["cases/front"][0] == sums["cases/back"][0] == 0
    assert sums["patients"][0] == 1
    assert "dice" not in summarise(PARTS, sums)


def test_a_patients_dice_is_the_mean_over_the_volumes_that_show_the_structure() -> None:
    front, empty = torch.zeros(8, 8, 8, dtype=torch.long), torch.zeros(8, 8, 8, dtype=torch.long)
    front[:4] = 1
    logits, labels = volumes(front, front, empty)
    logits[1] = 0.0
    logits[1, 0] = 1.0  # the second volume's structure is missed altogether
    sums = TASKS["segmentation"].sums(PARTS, logits, labels)
    assert sums["dice/front"][0] == 0.5
    assert sums["cases/front"][0] == 1
    assert sums["cases/back"][0] == 0
