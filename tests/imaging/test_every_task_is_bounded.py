"""What the self-check and the aggregator build on, held against every registered task."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medveil.metrics import bounded, layout, noise_scales, released, summarise
from medveil.readings import is_figure
from medveil.study import Study
from medveil.tasks import MAX_LOSS, TASKS, Sums, zeros
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
SIZE = (4, 4, 4)
STRANGE = (math.nan, math.inf, -math.inf, 1e38, -1e38, 0.0)
tasks = pytest.mark.parametrize("task", list(TASKS))
few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def study_of(task: str, *, private: bool = False) -> Study:
    evaluation = {"evaluation": {"bins": 16, "images_per_patient": 3}}
    return make_study(**(subject_of(task) | evaluation | ({"privacy": LOCAL} if private else {})))


def size_of(study: Study) -> tuple[int, ...]:
    return SIZE[: len(study.transforms.size)]


def outputs(study: Study, count: int, generator: torch.Generator) -> torch.Tensor:
    """Logits of a model that is now sure and now not."""
    edges = size_of(study) if TASKS[study.task].outlines else ()
    shape = (count, TASKS[study.task].outputs(study.classes), *edges)
    size = float(torch.randint(-1, 3, (1,), generator=generator))
    return torch.randn(shape, generator=generator) * 10.0**size


def patient(study: Study, seed: int) -> Sums:
    """The exact sums of a patient by chance, with more images than count."""
    random = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, 6, (1,), generator=random))
    logits = outputs(study, count, random)
    kinds = TASKS[study.task].telling_labels(study, logits)
    labels = TASKS[study.task].made_up_labels(study, count, size_of(study), random)
    chosen = int(torch.randint(len(kinds) + 1, (1,), generator=random))
    return TASKS[study.task].sums(study, logits, labels if chosen == len(kinds) else kinds[chosen])


def share(study: Study, sums: Sums) -> float:
    """Length of a patient's released contribution, in units of its noise at a multiplier of 1."""
    scales = noise_scales(study)
    return math.hypot(*(float(np.linalg.norm(v)) / scales[n] for n, v in bounded(study, sums).items()))


@tasks
@few
@given(seed=seeds)
def test_no_patient_has_a_share_above_one(task: str, seed: int) -> None:
    study = study_of(task, private=True)
    assert share(study, patient(study, seed)) <= 1 + 1e-9


@tasks
@pytest.mark.parametrize("value", STRANGE)
def test_no_output_however_strange_gives_a_share_above_one_or_a_sum_that_is_not_finite(
    task: str, value: float
) -> None:
    study, random = study_of(task, private=True), torch.Generator().manual_seed(0)
    logits = torch.full_like(outputs(study, 2, random), value)
    for labels in TASKS[task].telling_labels(study, logits):
        sums = TASKS[task].sums(study, logits, labels)
        assert all(np.isfinite(values).all() for values in sums.values())
        assert 0 <= sums["loss"][0] <= MAX_LOSS * 3
        assert share(study, sums) <= 1 + 1e-9


@tasks
def test_some_patient_uses_nearly_all_of_the_bound(task: str) -> None:
    """A bound that nobody comes near would cost noise for nothing, and the self-check would see little."""
    study, random = study_of(task, private=True), torch.Generator().manual_seed(0)
    largest = 0.0
    for level in (-30.0, -1.0, 0.0, 1.0, 30.0):
        logits = outputs(study, 1, random) * 0 + level
        for labels in TASKS[task].telling_labels(study, logits):
            largest = max(largest, share(study, TASKS[task].sums(study, logits, labels)))
    assert largest > 0.9


@tasks
@few
@given(seed=seeds, patients=st.integers(0, 5))
def test_what_honest_patients_add_up_to_is_accepted_and_has_figures_within_their_limits(
    task: str, seed: int, patients: int
) -> None:
    study = study_of(task)
    total = zeros(layout(study))
    for number in range(patients):
        for name, values in patient(study, seed + number).items():
            total[name] += values
    assert can_add_up(study, total, hospitals=3)
    figures = summarise(study, total)
    assert figures["patients"] == patients
    for name, value in figures.items():
        if is_figure(name) and name not in ("patients", "images", "loss", "r2"):
            low, high = TASKS[task].limits(study, name)
            assert low - 1e-9 <= value <= high + 1e-9


@tasks
@few
@given(seed=seeds, patients=st.integers(1, 5))
def test_noised_sums_of_honest_patients_are_accepted(task: str, seed: int, patients: int) -> None:
    study = study_of(task, private=True)
    total = zeros(released(study))
    for number in range(patients):
        for name, values in bounded(study, patient(study, seed + number)).items():
            total[name] += values
    noise = np.random.default_rng(seed)
    for name, scale in noise_scales(study).items():
        total[name] += noise.normal(size=total[name].shape) * 2.0 * scale
    assert can_add_up(study, total, hospitals=3)


@tasks
def test_an_image_changes_no_other_images_loss_and_every_made_up_label_teaches(task: str) -> None:
    study, random = study_of(task), torch.Generator().manual_seed(3)
    logits = outputs(study, 4, random) * 0 + torch.randn(outputs(study, 4, random).shape, generator=random)
    labels = TASKS[task].made_up_labels(study, 4, size_of(study), random)
    before = TASKS[task].loss(logits, labels)
    changed = logits.clone()
    changed[0] += 1.0
    assert before.shape == (4,)
    assert torch.equal(TASKS[task].loss(changed, labels)[1:], before[1:])
    gradient = torch.autograd.functional.jacobian(lambda values: TASKS[task].loss(values, labels), logits)
    assert gradient.isfinite().all()
    assert all(float(gradient[i, i].abs().sum()) > 0 for i in range(4))


@tasks
@few
@given(seed=seeds, count=st.integers(1, 3))
def test_images_judged_one_by_one_give_the_sums_of_all_at_once(task: str, seed: int, count: int) -> None:
    study, random = study_of(task), torch.Generator().manual_seed(seed)
    logits = outputs(study, count, random)
    labels = TASKS[task].made_up_labels(study, count, size_of(study), random)
    whole = TASKS[task].sums(study, logits, labels)
    each = [TASKS[task].sums(study, logits[k : k + 1], labels[k : k + 1]) for k in range(count)]
    parts = TASKS[task].of_images(study, each)
    assert parts.keys() == whole.keys()
    assert all(np.allclose(parts[name], whole[name]) for name in whole)
