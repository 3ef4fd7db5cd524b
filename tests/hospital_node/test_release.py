"""What leaves a hospital of an evaluation: bounded per patient, noised, paid for, and still of use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hospital_node.ledger import Charge, ChargeUsed, Ledger
from hospital_node.training import NoCharge, evaluate, release
from medveil.histograms import score_bins
from medveil.metrics import bounded, empty, headline, layout, noise_in_sum, noise_scales, released, summarise
from medveil.study import Study
from medveil.tasks import TASKS
from medveil.tasks.classification import NOISED_BINS
from medveil.tensors import Float32
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from privacy.encoding import METRIC_STEPS, decode_metrics, encode_metrics
from tries import tries

CPU = torch.device("cpu")
NOISE = {"clip_norm": 1.0, "noise_multiplier": 5.0, "epsilon": 30.0}
LOCAL = {"kind": "local", "evaluation_multiplier": 0.6, **NOISE}
JOINT = {"kind": "joint", "evaluation_multiplier": 0.6, "honest_hospitals": 4, **NOISE}
STUDIES = {
    "two classes": {"classes": ("normal", "abnormal")},
    "three classes": {"classes": ("none", "mild", "severe")},
    "volumes": {"classes": ("background", "front", "back"), "task": "segmentation"},
}


def make(kind: str = "two classes", **changes: Any) -> tuple[Study, Float32]:
    volumes = kind == "volumes"
    size = (16, 16, 16) if volumes else (28, 28)
    content: dict[str, Any] = {"name": "study", "task": "classification", "privacy": LOCAL} | STUDIES[kind]
    shape = ModelShape(size, outputs_for(content["task"], content["classes"]))
    model = "position_head" if volumes else "wavelet_head"
    options = {} if volumes else {"scales": 2, "grid": 7}
    spec, vector = initial_vector(model, shape, options, seed=1)
    content |= {
        "model": {"name": model, "options": options, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {
            "profile": "mri" if volumes else "xray",
            "size": size,
            "spacing_mm": (1.0, 1.0, 1.0) if volumes else (),
        },
        "training": {"rounds": 4, "local_steps": 1, "learning_rate": 1.0},
        "cohort": {"min_hospitals": 4, "max_hospitals": 5},
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    return Study.model_validate(content | changes), vector


def films(count: int) -> tuple[PatientImages, ...]:
    g = torch.Generator().manual_seed(4)
    return tuple(
        PatientImages(
            f"p{i}", torch.randn(1 + i % 3, 1, 28, 28, generator=g), torch.full((1 + i % 3,), i % 2)
        )
        for i in range(count)
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.jsonl") as opened:
        yield opened


def paid(ledger: Ledger, study: Study, split: Split = Split.TEST, number: int = 5) -> Charge:
    ledger.register(study, plan_id=study.hash.hex(), dataset="d", cap=1000.0)
    return ledger.charge(study, plan_id=study.hash.hex(), round_number=number, attempt=1, split=split)


@given(
    kind=st.sampled_from(list(STUDIES)),
    images=st.integers(1, 70),
    seed=st.integers(0, 10_000),
    size=st.sampled_from([0.01, 1.0, 30.0, float("nan"), float("inf")]),
)
@settings(max_examples=tries(80), deadline=None)
def test_no_patient_weighs_more_than_one_however_many_images(
    kind: str, images: int, seed: int, size: float
) -> None:
    study, _ = make(kind)
    g = torch.Generator().manual_seed(seed)
    outputs = outputs_for(study.task, study.classes)
    space = (4, 4, 4) if kind == "volumes" else ()
    logits = torch.randn((images, outputs, *space), generator=g) * size
    labels = torch.randint(0, len(study.classes), (images, *space), generator=g)
    share = bounded(study, TASKS[study.task].sums(study, logits, labels))
    assert {name: len(values) for name, values in share.items()} == released(study)
    scales = noise_scales(study)
    assert sum(float((v**2).sum()) / scales[k] ** 2 for k, v in share.items()) <= 1 + 1e-12


@pytest.mark.parametrize("kind", STUDIES)
def test_the_bound_is_reached_so_no_noise_is_wasted(kind: str) -> None:
    study, _ = make(kind)
    space = (4, 4, 4) if kind == "volumes" else ()
    labels = torch.zeros((1, *space), dtype=torch.long)
    if kind == "volumes":
        labels[0, 0], labels[0, 1] = 1, 2
    hot = torch.nn.functional.one_hot(labels, len(study.classes)).movedim(-1, 1)
    logits = 50.0 * hot.float() if len(study.classes) > 2 else torch.full((1, 1), -50.0)
    share = bounded(study, TASKS[study.task].sums(study, logits, labels))
    length = sum(float((v**2).sum()) / noise_scales(study)[k] ** 2 for k, v in share.items())
    assert length == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["two classes", "three classes"])
def test_the_noise_of_a_release_is_what_the_charge_says(ledger: Ledger, kind: str) -> None:
    """Nobody is evaluated, so all that is released is noise; a validation has sqrt(rounds) times as much."""
    study, vector = make(kind)
    bound = len(study.classes) ** 0.5 if len(study.classes) > 2 else 1.0
    for split, rounds, expected in ((Split.TEST, [5], 0.6), (Split.VAL, [1, 2, 3, 4], 0.6 * 4**0.5)):
        values: list[float] = []
        for number in rounds:
            source, charge = NoiseSource(bytes([number]) * 32), paid(ledger, study, split, number)
            sums = release(study, vector, (), noise=source, charge=charge, device=CPU)
            values += [x for counts in sums.values() for x in counts]
        tolerance = 4 / (2 * len(values)) ** 0.5
        assert np.std(values) == pytest.approx(expected * bound, rel=tolerance)
    assert noise_in_sum(study, hospitals=1) == 0.6
    assert noise_in_sum(study, hospitals=9, rounds=4) == pytest.approx(0.6 * 6)


def test_each_number_of_a_structure_has_the_noise_that_its_bound_wants(ledger: Ledger) -> None:
    """Two structures: a Dice within 1/2 of its centre and a count, weighed .35: sqrt(2 (1/4 + .35^2))."""
    study, vector = make("volumes")
    source = NoiseSource(bytes(32))
    sums = release(study, vector, (), noise=source, charge=paid(ledger, study), device=CPU)
    plain = NoiseSource(bytes(32))
    for name in released(study):
        bound = (2 * (0.25 + 0.35**2)) ** 0.5 / (0.35 if name.startswith("cases/") else 1)
        assert sums[name] == pytest.approx(plain.gaussian(1, 0.6 * bound))


def test_under_joint_noise_each_hospital_adds_its_share() -> None:
    study, _ = make(privacy=JOINT)
    assert noise_in_sum(study, hospitals=4) == pytest.approx(0.6)
    assert noise_in_sum(study, hospitals=1) == pytest.approx(0.3)


def test_where_hospitals_share_the_noise_of_figures_each_adds_its_share_of_it(ledger: Ledger) -> None:
    study, vector = make(privacy=LOCAL | {"honest_hospitals": 4}, cohort={"min_hospitals": 4})
    charge = paid(ledger, study)
    sums = release(study, vector, (), noise=NoiseSource(bytes(32)), charge=charge, device=CPU)
    plain = NoiseSource(bytes(32))
    for values in sums.values():
        assert values == pytest.approx(plain.gaussian(len(values), 0.3))


def test_a_release_is_the_bounded_sum_and_noise_and_nothing_else(ledger: Ledger) -> None:
    study, vector = make()
    patients = films(6)
    charge = paid(ledger, study)
    sums = release(study, vector, patients, noise=NoiseSource(bytes(32)), charge=charge, device=CPU)
    noise = release(
        study,
        vector,
        (),
        noise=NoiseSource(bytes(32)),
        charge=paid(ledger, make(name="other")[0]),
        device=CPU,
    )
    for name, values in sums.items():
        exact = sum(bounded(study, evaluate(study, vector, [p], device=CPU))[name] for p in patients)
        np.testing.assert_allclose(values - noise[name], exact, atol=1e-9)
    assert sum(v.sum() - noise[k].sum() for k, v in sums.items()) == pytest.approx(6)


def test_nothing_private_is_released_without_the_charge_that_pays_for_it(ledger: Ledger) -> None:
    study, vector = make()
    source, charge = NoiseSource(bytes(32)), paid(ledger, study)
    with pytest.raises(NoCharge):
        release(study, vector, films(2), noise=source, charge=None, device=CPU)
    with pytest.raises(NoCharge):
        release(study, vector, films(2), noise=None, charge=charge, device=CPU)
    louder, _ = make(privacy=LOCAL | {"evaluation_multiplier": 9.0})
    with pytest.raises(NoCharge):
        release(louder, vector, films(2), noise=source, charge=charge, device=CPU)
    release(study, vector, films(2), noise=source, charge=charge, device=CPU)
    with pytest.raises(ChargeUsed):
        release(study, vector, films(2), noise=source, charge=charge, device=CPU)


def test_a_study_without_noise_releases_the_exact_sums() -> None:
    study, vector = make(privacy={"kind": "none"})
    sums = release(study, vector, films(5), noise=None, charge=None, device=CPU)
    exact = evaluate(study, vector, films(5), device=CPU)
    assert released(study) == layout(study) == {k: len(v) for k, v in sums.items()}
    assert all(np.array_equal(sums[k], exact[k]) for k in exact)


@given(st.integers(1, 5), st.data())
@settings(max_examples=tries(20), deadline=None)
def test_negative_sums_arrive(hospitals: int, data: st.DataObject) -> None:
    study, _ = make()
    value = st.floats(-2e5, 2e5)
    rows = [
        {k: np.array(data.draw(st.lists(value, min_size=n, max_size=n))) for k, n in released(study).items()}
        for _ in range(hospitals)
    ]
    total = np.sum([encode_metrics(study, row) for row in rows], axis=0, dtype=np.uint64)
    sums = decode_metrics(total, study, hospitals=hospitals)
    for name in released(study):
        assert np.allclose(sums[name], sum(r[name] for r in rows), rtol=0, atol=hospitals / METRIC_STEPS)


def noised(study: Study, exact: dict[str, Any], multiplier: float, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    scales = noise_scales(study)
    return {k: v + random.normal(0, multiplier * scales[k], len(v)) for k, v in exact.items()}


def scored(study: Study, patients: int) -> dict[str, Any]:
    """Bounded sums of patients whose scores overlap a little."""
    random = np.random.default_rng(3)
    total = {name: np.zeros(length) for name, length in released(study).items()}
    for index in range(patients):
        one = empty(study)
        if study.task == "segmentation":
            for name in study.classes[1:]:
                one[f"dice/{name}"][:], one[f"cases/{name}"][:] = random.uniform(0.6, 0.9), 1.0
        else:
            logit = random.normal(2.5 if index % 2 else -2.5, 1.8)
            side = "positives" if index % 2 else "negatives"
            one[f"{side}/abnormal"][int(256 / (1 + np.exp(-logit)))] = 1
            one["images"][:] = 1
        for name, values in bounded(study, one).items():
            total[name] += values
    return total


@pytest.mark.parametrize("kind", ["two classes", "volumes"])
def test_the_error_that_is_shown_is_the_error_that_is_made(kind: str) -> None:
    study, _ = make(kind)
    exact, multiplier, name = scored(study, 200), 0.6 * 3**0.5, headline(study)
    truth = summarise(study, exact)[name]
    found = [summarise(study, noised(study, exact, multiplier, s), noise=multiplier) for s in range(300)]
    off = np.array([f[name] for f in found]) - truth
    shown = np.mean([f["noise"] for f in found])
    assert np.sqrt(np.mean(off**2)) == pytest.approx(shown, rel=0.25)
    assert shown < 0.02
    assert abs(off.mean()) < shown / 4
    assert np.mean([f["patients"] for f in found]) == pytest.approx(200, rel=0.02)


def test_few_bins_cost_the_area_little() -> None:
    """Against the exact share of ordered pairs, for scores that equal bins would not tell apart."""
    study, _ = make()
    random = np.random.default_rng(5)
    logits = {"positives": random.normal(3.5, 1.5, 4000), "negatives": random.normal(-0.5, 1.5, 4000)}
    total = {name: np.zeros(NOISED_BINS) for name in released(study)}
    for side, values in logits.items():
        one = empty(study)
        one["images"][:] = 1
        one[f"{side}/abnormal"] = np.bincount(score_bins(values, 256), minlength=256).astype(float)
        for name, share in bounded(study, one).items():
            total[name] += share
    exact = np.mean(logits["positives"][:, None] > logits["negatives"][None])
    assert summarise(study, total)["auroc"] == pytest.approx(exact, abs=0.004)


def test_a_figure_that_noise_drives_beyond_one_is_cut_and_its_error_is_not() -> None:
    study, _ = make()
    sums = {name: np.zeros(length) for name, length in released(study).items()}
    sums["positives/abnormal"][19], sums["negatives/abnormal"][0] = 50.0, 50.0
    sums["positives/abnormal"][0] = -5.0
    figures = summarise(study, sums, noise=2.0)
    assert figures["auroc"] == 1.0
    assert figures["noise"] > 0.01
    assert figures["auroc_uncut"] > 1.0
    assert figures["auroc_low"] < figures["auroc_noise_low"] < figures["auroc_high"] == 1.0


def test_an_evaluation_drowned_in_noise_gives_no_false_figure() -> None:
    study, _ = make()
    nobody = {name: -np.ones(length) for name, length in released(study).items()}
    drowned = {"auroc_undetermined": 1.0, "accuracy_undetermined": 1.0}
    assert summarise(study, nobody, noise=1.0) == {"patients": 0.0, **drowned}
