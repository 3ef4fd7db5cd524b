"""No hospital can push the mean past the clip, hide weight, or report figures that no patients can have."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medveil.metrics import empty, noise_scales, released
from medveil.rounds import RoundKind
from medveil.study import Study
from medveil.tasks.classification import scored_classes
from medveil.tasks.segmentation import CENTRE
from medveil.tensors import Update
from privacy.dp.noise import normal
from privacy.encoding import (
    LANES,
    EncodingParams,
    OutOfRange,
    SpoiledSum,
    Words,
    decode,
    encode_metrics,
    params_for,
)
from privacy.metric_limits import LARGEST_DRAW, can_add_up
from tries import tries
from unmasked import encode
from world import make_study

LANE_BITS = sorted(LANES)
CLIP, SIZE = 2.0, 12
NO_METRICS = np.zeros(0, np.uint64)
NOISE = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 1.0,
    "epsilon": 100.0,
    "evaluation_multiplier": 1.5,
}


def study_of(bits: int = 21, weights: str = "declared", **changes: Any) -> Study:
    masked = {"update_clip": CLIP, "max_weight": 64, "lane_bits": bits, "weights": weights}
    return make_study(secure_aggregation=masked, **changes)


def params_of(bits: int, cohort: int, *, clip: float = CLIP, largest: int = 64) -> EncodingParams:
    return EncodingParams(SIZE, 0, bits, clip, largest, cohort, min(10, largest))


def summed(
    values: list[np.ndarray], weights: list[int], p: EncodingParams, random_bytes: Any = None
) -> Words:
    total = np.zeros(p.words, np.uint64)
    for row, weight in zip(values, weights, strict=True):
        total += encode(
            Update(np.asarray(row, np.float32)),
            p,
            weight=weight,
            metrics=NO_METRICS,
            random_bytes=random_bytes or secrets.token_bytes,
        )
    return total


def longest(p: EncodingParams, hospitals: int, weight: int) -> float:
    """How long a mean can be, as the docstring of EncodingParams.reach has it."""
    rounding = hospitals * p.max_weight / (p.steps * weight)
    return p.clip * (1 + rounding) * (1 + 2.0**-21) * (1 + 2.0**-23)  # the mean is float32


# ---- what a hospital may do to the sum --------------------------------------------------------------


@pytest.mark.parametrize("bits", LANE_BITS)
@pytest.mark.parametrize("weights", ["declared", "equal"])
def test_a_weight_that_makes_the_total_tiny_is_refused(bits: int, weights: str) -> None:
    """The attack: two honest hospitals near the clip, a third whose weight word takes theirs away."""
    study = study_of(bits, weights, evaluation={"every_round": False})
    p = params_for(study, RoundKind.TRAIN, 3)
    honest = summed([np.full(SIZE, 0.9 * CLIP)] * 3, [p.max_weight] * 3, p)
    decode(honest, p, hospitals=3, study=study)
    for total in {1, 2, 3, 3 * p.least_weight - 1} - {3 * p.max_weight}:
        lie = honest.copy()
        lie[p.packed_words] = total
        with pytest.raises(SpoiledSum) as refused:
            decode(lie, p, hospitals=3, study=study)
        assert refused.value.code == "spoiled-sum"


@pytest.mark.parametrize("bits", LANE_BITS)
@given(total=st.integers(0, 2**26), value=st.floats(-CLIP, CLIP, width=32), cohort=st.integers(3, 20))
@settings(max_examples=tries(60), deadline=None)
def test_whatever_weight_is_claimed_no_accepted_mean_leaves_the_clip(
    bits: int, total: int, value: float, cohort: int
) -> None:
    p = params_of(bits, cohort)
    lie = summed([np.full(SIZE, value)] * cohort, [p.max_weight] * cohort, p)
    lie[p.packed_words] = total
    try:
        mean = decode(lie, p, hospitals=cohort, study=study_of(bits)).mean
    except SpoiledSum:
        return
    assert cohort * 10 <= total <= cohort * p.max_weight
    assert np.abs(mean).max() <= longest(p, cohort, total)


@pytest.mark.parametrize("bits", LANE_BITS)
def test_coordinates_beyond_the_clip_are_refused_at_the_first_step_too_many(bits: int) -> None:
    p = params_of(bits, 5)
    for weight in (30, 100, 192):
        total = summed([np.zeros(SIZE)] * 3, [10, 10, 10], p)
        total[p.packed_words] = weight
        reach = p.reach(hospitals=3, weight=weight)
        assert reach <= 3 + 3 * p.steps + 1
        for sign in (1, -1):
            moved = total.copy()
            moved[:1] += np.uint64(sign * min(reach, 3 * p.steps) % 2**64)
            mean = decode(moved, p, hospitals=3, study=study_of(bits)).mean
            assert abs(mean[0]) <= longest(p, 3, weight)
            moved[:1] += np.uint64(sign % 2**64)
            with pytest.raises(SpoiledSum):
                decode(moved, p, hospitals=3, study=study_of(bits))


@pytest.mark.parametrize("weight", [0, 9, 65])
def test_an_honest_node_does_not_send_a_weight_that_others_would_refuse(weight: int) -> None:
    with pytest.raises(OutOfRange, match="The weight must be 10 to 64"):
        summed([np.zeros(SIZE)], [weight], params_of(21, 3))


# ---- an honest sum is never refused -----------------------------------------------------------------


@pytest.mark.parametrize("bits", LANE_BITS)
@given(data=st.data())
@settings(max_examples=tries(40), deadline=None)
def test_an_honest_sum_is_never_refused(bits: int, data: st.DataObject) -> None:
    """At the clip or anywhere, with the least, the greatest and any weights, clips and cohorts."""
    clip = data.draw(st.sampled_from([0.1, 2.0, 1 / 3, 7e-7, 12345.678, 0.112, 0.016]))
    largest = data.draw(st.sampled_from([1, 7, 10, 64, 1000, 2**20, 2**31]))
    cohort = data.draw(st.integers(3, 40))
    p = params_of(bits, cohort, clip=clip, largest=largest)
    hospitals = data.draw(st.integers(1, cohort))
    weight = st.sampled_from([p.least_weight, p.max_weight]) | st.integers(p.least_weight, p.max_weight)
    weights = data.draw(st.lists(weight, min_size=hospitals, max_size=hospitals))
    corner = data.draw(st.sampled_from([-1.0, 1.0, 0.0, None]))
    rows = [
        np.float32(clip)
        * np.float32(np.random.default_rng(i).uniform(-1, 1, SIZE) if corner is None else corner)
        * np.ones(SIZE, np.float32)
        for i in range(hospitals)
    ]
    aggregate = decode(summed(rows, weights, p), p, hospitals=hospitals, study=study_of(bits))
    assert np.abs(aggregate.mean).max() <= longest(p, hospitals, sum(weights))


@pytest.mark.parametrize("bits", LANE_BITS)
@pytest.mark.parametrize("dither", [-(2**15), 2**15 - 1])
@pytest.mark.parametrize("clip", [2.0, 1 / 3, 0.112, 0.016])
def test_the_worst_dither_of_every_hospital_together_is_not_refused(
    bits: int, dither: int, clip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Constant:
        def update_into(self, zeros: memoryview, out: memoryview) -> None:
            out[: len(zeros)] = np.full(len(zeros) // 2, dither, "<i2").tobytes()

    monkeypatch.setattr("privacy.encoding.stream", lambda seed: Constant())
    for cohort in (3, 20, 200):
        for largest, weight in ((1, 1), (64, 10), (64, 33), (64, 63), (64, 64), (10_000, 10), (2**31, 10)):
            p = params_of(bits, cohort, clip=clip, largest=largest)
            row = np.full(SIZE, np.copysign(np.float32(clip), dither), np.float32)
            row[1], row[2] = 0, -row[0]
            total = summed([row], [weight], p) * np.uint64(cohort)
            mean = decode(total, p, hospitals=cohort, study=study_of(bits)).mean
            assert np.abs(mean).max() <= longest(p, cohort, cohort * weight)
            assert mean[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("bits", [21, 32])
@pytest.mark.parametrize("weight", [10, 64])
def test_the_largest_plan_at_the_clip_is_not_refused(bits: int, weight: int) -> None:
    p = params_of(bits, 2000)
    rows = [np.full(SIZE, (-1) ** i * CLIP) for i in range(2)]
    pair = [summed([row], [weight], p) for row in rows]
    for total in (
        pair[0] * np.uint64(2000),
        pair[1] * np.uint64(2000),
        (pair[0] + pair[1]) * np.uint64(1000),
    ):
        decode(total, p, hospitals=2000, study=study_of(bits))
    fresh = summed([rows[0]] * 2000, [weight] * 2000, p)
    decode(fresh, p, hospitals=2000, study=study_of(bits))


@given(seed=st.integers(0, 2**32), scale=st.sampled_from([0.1, 3.0, 100.0]), hospitals=st.integers(3, 8))
@settings(max_examples=tries(30), deadline=None)
def test_noise_that_saturates_at_the_clip_is_not_refused(seed: int, scale: float, hospitals: int) -> None:
    p, draw = params_of(21, 8), np.random.default_rng(seed)
    limit = np.float32(CLIP)
    rows = [np.clip(np.float32(draw.normal(0, scale, SIZE)), -limit, limit) for _ in range(hospitals)]
    weights = [int(w) for w in draw.integers(10, 65, hospitals)]
    decode(summed(rows, weights, p), p, hospitals=hospitals, study=study_of())


# ---- figures ----------------------------------------------------------------------------------------


def patients_of(study: Study, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Some patients' exact sums, as the task counts them."""
    sums = empty(study)
    for _ in range(int(draw.integers(0, 6))):
        if study.task == "segmentation":
            for name in study.classes[1:]:
                if draw.random() < 0.7:
                    sums[f"cases/{name}"] += 1
                    sums[f"dice/{name}"] += draw.choice([0.0, 1.0, draw.random()])
            sums["loss"] += draw.choice([0.0, 20.0])
            sums["patients"] += 1
            continue
        for _ in range(int(draw.integers(1, 5))):
            truth = int(draw.integers(len(study.classes)))
            for name in scored_classes(study):
                side = "positives" if study.classes.index(name) == truth else "negatives"
                sums[f"{side}/{name}"][int(draw.integers(study.evaluation.bins))] += 1
            sums["images"] += 1
            sums["correct"] += draw.integers(2)
            sums["loss"] += draw.choice([0.0, 20.0, 20 * draw.random()])
        sums["patients"] += 1
    return sums


KINDS = {
    "two classes": {},
    "four classes": {"classes": ("a", "b", "c", "d")},
    "segmentation": {
        "task": "segmentation",
        "classes": ("background", "front", "back"),
        "transforms": {"profile": "mri", "size": (8, 8, 8), "spacing_mm": (1.0, 1.0, 1.0)},
    },
}


def total_of(study: Study, rows: list[dict[str, np.ndarray]]) -> tuple[Words, EncodingParams]:
    p = params_for(study, RoundKind.EVALUATE, 5)
    total = np.zeros(p.words, np.uint64)
    for row in rows:
        total += encode(
            Update(np.empty(0, np.float32)),
            p,
            weight=10,
            metrics=encode_metrics(study, row),
            random_bytes=secrets.token_bytes,
        )
    return total, p


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@given(seed=st.integers(0, 2**32), hospitals=st.integers(1, 5))
@settings(max_examples=tries(30), deadline=None)
def test_the_figures_of_any_patients_are_not_refused(kind: dict[str, Any], seed: int, hospitals: int) -> None:
    study, draw = study_of(**kind), np.random.default_rng(seed)
    rows = [patients_of(study, draw) for _ in range(hospitals)]
    total, p = total_of(study, rows)
    sums = decode(total, p, hospitals=hospitals, study=study).metrics
    assert sums["patients"] == sum(row["patients"] for row in rows)


def one(study: Study) -> dict[str, np.ndarray]:
    """Forty patients of one image or volume each, all well."""
    sums = empty(study)
    for name in sums:
        sums[name][0] = 40.0
        if name.startswith("positives/") and name != f"positives/{study.classes[0]}":
            sums[name][0] = 0.0
        if name == f"negatives/{study.classes[0]}":
            sums[name][0] = 0.0
    return sums


LIES: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], None]]] = {
    "more cases than images": ("two classes", lambda s: np.add.at(s["positives/abnormal"], 3, 1)),
    "a count taken away": ("two classes", lambda s: np.subtract.at(s["negatives/abnormal"], 0, 1)),
    "half a case": ("two classes", lambda s: np.add.at(s["positives/abnormal"], 3, 0.5)),
    "more hits than images": ("two classes", lambda s: np.add.at(s["correct"], 0, 200)),
    "more loss than images bear": ("two classes", lambda s: np.add.at(s["loss"], 0, 20 * 200)),
    "more patients than images": ("two classes", lambda s: np.add.at(s["patients"], 0, 200)),
    "too many images a patient": ("two classes", lambda s: np.subtract.at(s["patients"], 0, 40)),
    "one class too often": ("four classes", lambda s: np.add.at(s["positives/b"], 0, 1)),
    "more Dice than cases": ("segmentation", lambda s: np.add.at(s["dice/front"], 0, 200)),
    "more cases than patients": ("segmentation", lambda s: np.add.at(s["cases/back"], 0, 200)),
    "more loss than patients bear": ("segmentation", lambda s: np.add.at(s["loss"], 0, 20 * 200)),
}


@pytest.mark.parametrize("lie", LIES)
def test_figures_that_no_patients_have_are_refused(lie: str) -> None:
    kind, change = LIES[lie]
    study = study_of(**KINDS[kind], evaluation={"images_per_patient": 1})
    total, p = total_of(study, [one(study)] * 2)
    decode(total, p, hospitals=2, study=study)
    changed = one(study)
    change(changed)
    total, p = total_of(study, [one(study), changed])
    with pytest.raises(SpoiledSum):
        decode(total, p, hospitals=2, study=study)


@pytest.mark.parametrize(
    ("kind", "name", "less"),
    [
        ("two classes", "negatives/abnormal", 1),
        ("two classes", "images", 1),
        ("two classes", "patients", 81),
        ("two classes", "loss", 81),
        ("four classes", "positives/a", 1),
        ("four classes", "negatives/d", 1),
        ("segmentation", "cases/front", 81),
        ("segmentation", "patients", 1),
        ("segmentation", "dice/back", 81),
    ],
)
def test_a_word_that_takes_other_hospitals_counts_away_is_refused(kind: str, name: str, less: int) -> None:
    """A negative figure is a word near 2^64; with the others' words it makes a small number, or wraps."""
    study = study_of(**KINDS[kind])
    total, p = total_of(study, [one(study)] * 2)
    decode(total, p, hospitals=2, study=study)
    names = [each for each, length in released(study).items() for _ in range(length)]
    place = p.packed_words + 1 + names.index(name)
    total[place : place + 1] -= np.uint64(less * 2**20)
    with pytest.raises(SpoiledSum):
        decode(total, p, hospitals=2, study=study)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("end", [0, 1], ids=["lowest draw", "highest draw"])
def test_the_longest_draws_of_the_noise_are_not_refused(kind: dict[str, Any], end: int) -> None:
    draw = float(normal(np.array([end], np.uint64))[0])
    assert 9 < abs(draw) < LARGEST_DRAW
    study = study_of(**kind, privacy=NOISE)
    multiplier = 1.5 * np.sqrt(study.training.rounds)
    noised = {
        name: np.full(length, draw * multiplier * noise_scales(study)[name])
        for name, length in released(study).items()
    }
    total, p = total_of(study, [noised] * 5)
    decode(total, p, hospitals=5, study=study)


def test_noised_counts_below_any_noise_are_refused() -> None:
    study = study_of(privacy=NOISE)
    fine = {name: np.zeros(length) for name, length in released(study).items()}
    low = {name: np.full(length, -(2.0**17)) for name, length in released(study).items()}
    total, p = total_of(study, [fine, low])
    with pytest.raises(SpoiledSum):
        decode(total, p, hospitals=2, study=study)
    study = study_of(**KINDS["segmentation"], privacy=NOISE)
    fine = {name: np.zeros(length) for name, length in released(study).items()}
    for name, value in (("dice/front", 500.0), ("dice/back", -500.0), ("cases/back", -500.0)):
        assert not can_add_up(study, fine | {name: np.array([value])}, hospitals=2)
    assert can_add_up(
        study, fine | {"cases/back": np.array([1e4]), "dice/back": np.array([5e3])}, hospitals=2
    )
    assert CENTRE == 0.5


# ---- equal weights ----------------------------------------------------------------------------------


def test_with_equal_weights_every_sum_tells_the_number_of_hospitals_and_nothing_else() -> None:
    study = study_of(weights="equal", evaluation={"every_round": False})
    p = params_for(study, RoundKind.TRAIN, 4)
    assert (p.least_weight, p.max_weight) == (1, 1)
    rows = [np.full(SIZE, value) for value in (0.5, -1.0, 2.0)]
    aggregate = decode(summed(rows, [1, 1, 1], p), p, hospitals=3, study=study)
    assert aggregate.total_weight == 3
    assert np.abs(aggregate.mean - 0.5).max() <= 3 * CLIP / p.steps / 3 + 1e-6
