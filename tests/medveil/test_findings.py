"""Findings are read cell by cell; what is not known counts nowhere, and no figure is made of too little."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medveil.metrics import bounded, layout, noise_scales, released, summarise
from medveil.study import Study
from medveil.tasks import TASKS, BadLabel, Sums, zeros
from subjects import subject_of
from world import make_study

LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 5.0,
}
STUDY = make_study(**subject_of("findings"))
PRIVATE = make_study(**subject_of("findings"), privacy=LOCAL)
FINDINGS = TASKS["findings"]


def added(study: Study, patients: list[Sums], *, noised: bool = False) -> Sums:
    total = zeros(released(study) if noised else layout(study))
    for one in patients:
        for name, values in (bounded(study, one) if noised else one).items():
            total[name] += values
    return total


@pytest.mark.parametrize(
    ("cells", "label"),
    [
        (("1", "0", ""), (1.0, 0.0, None)),
        (("1.0", " 0.0 ", "-1"), (1.0, 0.0, None)),
        (("True", "no", "N/A"), (1.0, 0.0, None)),
        (("", "-1.0", "1"), (None, None, 1.0)),
    ],
)
def test_a_finding_is_there_absent_or_not_known(
    cells: tuple[str, ...], label: tuple[float | None, ...]
) -> None:
    assert FINDINGS.read_label(STUDY, dict(zip("abc", cells, strict=True))) == label


@pytest.mark.parametrize("cell", ["2", "0.5", "maybe", "1;0", "١"])
def test_what_is_neither_is_refused_and_not_shown(cell: str) -> None:
    with pytest.raises(BadLabel, match="neither") as caught:
        FINDINGS.read_label(STUDY, {"a": "1", "b": "0", "c": cell})
    assert cell not in str(caught.value)


def test_a_line_that_says_nothing_of_any_finding_is_not_used() -> None:
    with pytest.raises(BadLabel, match="of no finding"):
        FINDINGS.read_label(STUDY, {"a": "", "b": "nan", "c": "-1"})


def test_an_unknown_finding_has_no_gradient_and_changes_no_loss() -> None:
    logits = torch.tensor([[0.3, -2.0, 5.0], [1.0, 1.0, 1.0]], requires_grad=True)
    labels = torch.tensor([[1.0, math.nan, 0.0], [math.nan, math.nan, 1.0]])
    loss = FINDINGS.loss(logits, labels)
    probabilities = torch.sigmoid(logits.detach())
    assert float(loss[0].detach()) == pytest.approx(
        float(-(probabilities[0, 0].log() + (1 - probabilities[0, 2]).log()) / 2)
    )
    loss.sum().backward()
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == [[False, True, False], [True, True, False]]


def test_counts_and_areas_are_of_the_images_of_which_a_finding_is_known() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 1.0, 0.0], [3.0, 9.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, math.nan, 0.0]])
    figures = summarise(STUDY, FINDINGS.sums(STUDY, logits, labels))
    assert (figures["there/a"], figures["known/a"]) == (2, 3)
    assert (figures["there/b"], figures["known/b"]) == (1, 2)
    assert figures["auroc/a"] == figures["auroc/b"] == figures["auroc"] == 1.0
    assert "auroc/c" not in figures  # nobody has it


def test_a_finding_that_one_site_never_has_is_judged_by_the_others() -> None:
    here = FINDINGS.sums(STUDY, torch.zeros(2, 3), torch.zeros(2, 3))
    there = FINDINGS.sums(STUDY, torch.tensor([[4.0, 4.0, 4.0]]), torch.ones(1, 3))
    assert "auroc" not in summarise(STUDY, here)
    assert summarise(STUDY, added(STUDY, [here, there]))["auroc/a"] == 1.0


def test_noised_figures_leave_out_what_their_noise_could_have_made() -> None:
    random = torch.Generator().manual_seed(0)
    patients = []
    for number in range(1500):
        labels = torch.tensor([[float(number % 2), float(number < 4), math.nan]])
        logits = torch.where(labels > 0.5, 1.0, -1.0) + torch.randn(1, 3, generator=random)
        patients.append(FINDINGS.sums(PRIVATE, logits, labels))
    total = added(PRIVATE, patients, noised=True)
    noise = np.random.default_rng(0)
    for name, scale in noise_scales(PRIVATE).items():
        total[name] += noise.normal(size=total[name].shape) * 2.0 * scale
    figures = summarise(PRIVATE, total, noise=2.0)
    exact = summarise(STUDY, added(PRIVATE, patients))
    assert set(figures) >= {"auroc", "auroc/a", "noise", "patients"}
    assert not {"auroc/b", "auroc/c"} & set(figures)
    assert figures["auroc"] == figures["auroc/a"]
    assert abs(figures["auroc"] - exact["auroc/a"]) < 4 * figures["noise"] < 0.3


def test_a_finding_must_be_a_column_of_its_own() -> None:
    assert make_study(task="findings", classes=("opacity",)).classes == ("opacity",)
    for wrong in (
        (),
        ("Image", "b"),
        ("patient id", "b"),
        ("pleural thickening", "Pleural_Thickening"),
        ("-", "b"),
    ):
        with pytest.raises(ValidationError, match="classes"):
            make_study(task="findings", classes=wrong)
