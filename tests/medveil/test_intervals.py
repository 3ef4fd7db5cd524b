"""Intervals of figures from counts hold what they promise, and are those of the formulas they name."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medveil import intervals
from medveil.blending import covariance
from medveil.intervals import Estimate, Z, areas, exact_area, exact_share, mean, mean_of, share
from medveil.metrics import bounded, figures_of, noise_scales, read_headline, released, summarise
from medveil.reports import AttemptReport
from medveil.study import Study
from policies import LOCAL
from subjects import subject_of
from tries import tries
from world import make_study

CELLS, EDGES = 20, np.linspace(-7.2, 7.2, 19)
STUDY = make_study(privacy=LOCAL)


def patients(
    random: np.random.Generator, area: float, number: int, prevalence: float = 0.5
) -> tuple[Any, Any]:
    """Cells of patients whose scores are calibrated log odds: normal, and as far apart as the area says."""
    apart = math.sqrt(2) * NormalDist().inv_cdf(area)
    there = int(random.binomial(number, prevalence))
    middle = math.log(prevalence / (1 - prevalence))
    sides = []
    for count, sign in ((there, 1), (number - there, -1)):
        scores = random.normal(middle + sign * apart**2 / 2, apart, count)
        sides.append(np.bincount(np.searchsorted(EDGES, scores), minlength=CELLS).astype(float))
    return sides[0], sides[1]


def sums_of(positives: Any, negatives: Any) -> dict[str, Any]:
    return {"positives/abnormal": positives, "negatives/abnormal": negatives}


def by_matrix(p: Any, q: Any, noise: Any, weight: float) -> tuple[float, float]:
    """The two limits as the definition has them, with the matrix of who beats whom."""
    beats = np.tril(np.ones((CELLS, CELLS)), -1) + np.eye(CELLS) / 2
    dp, dq = (noise + weight * np.diag(np.maximum(side, 0)) for side in (p, q))
    near = [_projected(side, max(side.sum(), 1.0)) for side in (p, q)]
    h, g, all_of = beats @ near[1], beats.T @ near[0], np.ones(CELLS)
    v0 = h @ dp @ h + g @ dq @ g + np.trace(dp @ beats @ dq @ beats.T)
    v1 = (
        (all_of @ dp @ h) * near[1].sum()
        + (all_of @ dq @ g) * near[0].sum()
        + all_of @ dp @ beats @ dq @ all_of
    )
    v2 = dp.sum() * near[1].sum() ** 2 + dq.sum() * near[0].sum() ** 2 + dp.sum() * dq.sum()
    t0, t1 = p @ beats @ q, p.sum() * q.sum()
    a, b = t1**2 - Z**2 * v2, t0 * t1 - Z**2 * v1
    root = math.sqrt(b**2 - a * (t0**2 - Z**2 * v0))
    return (b - root) / a, (b + root) / a


def _projected(cells: Any, total: float) -> Any:
    low, high = cells.min() - total, cells.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(cells - middle, 0).sum() > total else (low, middle)
    return np.maximum(cells - middle, 0)


@pytest.mark.parametrize("blends", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_an_area_is_fiellers_with_the_variance_of_two_noisy_sides(
    seed: int, *, blends: bool
) -> None:
    random = np.random.default_rng(seed)
    noise = 1.2**2 * covariance(CELLS, blends=blends)
    p, q = (
        side + np.linalg.cholesky(noise) @ random.normal(0, 1, CELLS)
        for side in patients(random, 0.9, 300, 0.3)
    )
    (found,) = areas(p[None], q[None], noise)
    assert found is not None
    assert found.both is not None
    for arms, weight in ((found.noise, 0.0), (found.both, 1.0)):
        low, high = by_matrix(p, q, noise, weight)
        longer = 1.05 if weight else 1.0  # of patients, where few are misjudged
        for own, told in ((found.value - low, arms.below), (high - found.value, arms.above)):
            assert own - 1e-9 <= told <= longer * own + 1e-9


def test_without_noise_to_speak_of_it_is_delongs() -> None:
    p, q = patients(np.random.default_rng(1), 0.9, 450)
    (found,) = areas(p[None], q[None], 1e-6 * np.eye(CELLS))
    below = np.cumsum(q) - q / 2
    h, n, m = below / q.sum(), p.sum(), q.sum()
    g = (p.sum() - np.cumsum(p) + p / 2) / n
    area = float(p @ h) / n
    delong = math.sqrt(p @ (h - area) ** 2 / n / (n - 1) + q @ (g - area) ** 2 / m / (m - 1))
    assert found is not None
    assert found.both is not None
    assert (found.both.below + found.both.above) / 2 == pytest.approx(Z * delong, rel=0.05)
    exact = exact_area(p, q)
    assert exact is not None
    assert exact.both is not None
    assert (exact.both.below + exact.both.above) / 2 == pytest.approx(Z * delong, rel=0.05)


def test_an_interval_is_never_empty_and_never_the_end_of_the_range_alone() -> None:
    random, cut = np.random.default_rng(2), 0
    for _ in range(300):
        p, q = (side + random.normal(0, 1.2, CELLS) for side in patients(random, 0.99, 150))
        found = summarise(STUDY, sums_of(p, q), noise=1.2)
        if "auroc" in found:
            cut += found["auroc_uncut"] > 1
            for kind in ("", "noise_"):
                low, high = found[f"auroc_{kind}low"], found[f"auroc_{kind}high"]
                assert 0 <= low <= found["auroc"] <= high <= 1
                assert low < 1 - 1e-3
    assert cut > 20


def test_noise_alone_makes_no_figure_but_by_chance() -> None:
    random = np.random.default_rng(3)
    drowned = 0
    for _ in range(200):
        found = summarise(STUDY, sums_of(*random.normal(0, 1.2, (2, CELLS))), noise=1.2)
        drowned += found.get("auroc_undetermined") == 1.0 and "auroc" not in found
    assert drowned > 180


def test_a_mean_over_one_part_is_that_part() -> None:
    p, q = (side + 0.3 for side in patients(np.random.default_rng(4), 0.9, 300))
    (one,) = areas(p[None], q[None], 1.44 * np.eye(CELLS))
    whole = mean_of([one], all_count=True)
    assert one is not None
    assert whole is not None
    assert whole.value == one.value
    assert whole.both is not None
    assert one.both is not None
    assert (whole.both.below, whole.noise.above) == pytest.approx((one.both.below, one.noise.above))


def test_a_class_that_the_noise_drowns_may_be_anything_in_the_mean_over_all() -> None:
    one = Estimate(0.9, intervals.Arms(0.1, 0.05), intervals.Arms(0.12, 0.06))
    found = mean_of([one, one, None], all_count=True)
    assert found is not None
    assert found.value == pytest.approx((0.9 + 0.9 + 0.5) / 3)
    assert found.noise.below == pytest.approx((math.hypot(0.1, 0.1) + 0.5) / 3)
    left_out = mean_of([one, one, None], all_count=False)
    assert left_out is not None
    assert left_out.value == pytest.approx(0.9)
    assert mean_of([one, None, None], all_count=True) is None


def test_noise_of_classes_is_independent_and_their_patients_are_the_same() -> None:
    noise, both = intervals.Arms(0.03, 0.03), intervals.Arms(0.05, 0.05)
    found = mean_of([Estimate(0.9, noise, both)] * 4, all_count=True)
    assert found is not None
    assert found.both is not None
    assert found.noise.below == pytest.approx(0.03 / 2)
    assert found.both.below == pytest.approx(math.hypot(0.03 / 2, 0.04))


def test_nobody_misjudged_is_no_proof_of_a_perfect_model() -> None:
    p, q = np.zeros(CELLS), np.zeros(CELLS)
    p[15], q[3] = 40.0, 60.0
    found = exact_area(p, q)
    assert found is not None
    assert found.both is not None
    assert found.value == 1.0
    assert 0.9 < 1 - found.both.below < 0.98
    again = exact_area(p, q, images_per_patient=4.0)
    assert again is not None
    assert again.both is not None
    assert again.both.below > 2 * found.both.below
    right = exact_share(50.0, 50.0)
    assert right is not None
    assert right.both is not None
    assert 1 - right.both.below == pytest.approx(50 / (50 + Z**2))  # Wilson


def test_too_few_cases_have_a_figure_and_no_interval() -> None:
    p, q = np.eye(CELLS)[15], 20 * np.eye(CELLS)[3]
    assert exact_area(p, q) == Estimate(1.0)
    assert exact_area(p * 0, q) is None
    assert exact_share(0.0, 0.0) is None


def covered(
    area: float, number: int, s: float, draws: int, target: float, *, kind: str, seed: int = 0
) -> float:
    """In what share of draws the interval holds the target; one that is missing holds it."""
    random, hits = np.random.default_rng(seed), 0
    fixed = patients(random, area, number)
    exact = intervals.exact_area(*fixed)
    assert exact is not None
    for _ in range(draws):
        sides = fixed if kind == "noise_" else patients(random, area, number)
        p, q = (side + random.normal(0, s, CELLS) for side in sides)
        found = summarise(STUDY, sums_of(p, q), noise=s)
        truth = exact.value if kind == "noise_" else target
        hits += "auroc" not in found or found[f"auroc_{kind}low"] <= truth <= found[f"auroc_{kind}high"]
    return hits / draws


@pytest.mark.parametrize(("area", "tied"), [(0.8, 0.791), (0.99, 0.99)])
@pytest.mark.parametrize("kind", ["noise_", ""])
def test_19_of_20_intervals_hold_the_truth(area: float, tied: float, kind: str) -> None:
    assert covered(area, 450, 1.2, 300, tied, kind=kind) >= 0.91


def test_accuracy_and_means_hold_the_truth_in_19_of_20_draws() -> None:
    random, hits, means = np.random.default_rng(5), 0, 0
    for _ in range(600):
        right = random.binomial(300, 0.9)
        sides = right + random.normal(0, 3), 300 - right + random.normal(0, 3)
        one = share(*sides, (9.0, 9.0), patients=True)
        assert one is not None
        assert one.both is not None
        hits += one.value - one.both.below <= 0.9 <= one.value + one.both.above
        values = random.uniform(-0.5, 0.3, 80)
        total, count = values.sum() + random.normal(0, 1.0), 80 + random.normal(0, 2.5)
        squares = (values**2).sum() + random.normal(0, 1.0), 1.0
        told = mean(total, count, deviations=(1.0, 2.5), squares=squares, limits=(-0.5, 0.5))
        assert told is not None
        assert told.both is not None
        means += told.value - told.both.below <= -0.1 <= told.value + told.both.above
    assert 0.93 < hits / 600 <= 0.985
    assert 0.93 < means / 600 <= 0.985


def sums_of_numbers(study: Study, random: np.random.Generator) -> dict[str, Any]:
    """Sums of 300 patients' numbers as they are before they get noise."""
    total = {name: np.zeros(1) for name in released(study)}
    for truth in random.random(300):
        said = float(np.clip(truth + random.normal(0, 0.1), 0, 1))
        one = {
            "absolute": abs(said - truth),
            "squared": (said - truth) ** 2,
            "predicted": said,
            "target": truth,
        }
        one |= {"target_squared": truth**2, "images": 1.0, "patients": 1.0, "loss": 0.0}
        for name, value in bounded(study, {k: np.array([v]) for k, v in one.items()}).items():
            total[name] += value
    return total


def test_each_error_of_a_regression_has_an_interval_that_holds_it() -> None:
    study = make_study(**subject_of("regression"), privacy=LOCAL)
    random, hits = np.random.default_rng(6), dict.fromkeys(("mae", "rmse", "bias", "r2"), 0)
    total, scales = sums_of_numbers(study, random), noise_scales(study)
    exact = summarise(study, total, noise=1e-6)
    for _ in range(200):
        sums = {name: value + random.normal(0, 2.0 * scales[name], 1) for name, value in total.items()}
        found = summarise(study, sums, noise=2.0)
        for name in hits:
            hits[name] += found[f"{name}_noise_low"] <= exact[name] <= found[f"{name}_noise_high"]
        assert found["mae_low"] < found["mae_noise_low"]
        assert "r2_low" not in found
    assert min(hits.values()) >= 182


def test_what_an_earlier_version_wrote_is_read_with_the_interval_of_its_counts() -> None:
    p, q = (side + 0.4 for side in patients(np.random.default_rng(7), 0.95, 300))
    sums = {name: tuple(values.tolist()) for name, values in sums_of(p, q).items()}
    usual: dict[str, Any] = {"round": 9, "attempt": 1, "kind": "evaluate", "outcome": "done"}
    usual |= {"survivors": ("a", "b", "c", "d"), "figures": {"auroc": 0.9, "noise": 0.02}, "metric": 0.9}
    whole = AttemptReport.model_validate({**usual, "sums": sums})
    assert figures_of(STUDY, whole)["auroc_low"] < figures_of(STUDY, whole)["auroc_noise_low"] < 0.95
    bare = read_headline(STUDY, AttemptReport.model_validate(usual))
    assert bare is not None
    assert bare.by_noise_alone
    assert bare.interval == pytest.approx((0.9 - Z * 0.02, 0.9 + Z * 0.02))
    assert (
        read_headline(STUDY, AttemptReport.model_validate({**usual, "figures": {}, "metric": None})) is None
    )


def test_a_dice_has_the_interval_of_its_noise_and_few_patients_have_none() -> None:
    given = subject_of("segmentation") | {"evaluation": {"lesions": True}}
    study = make_study(**given, privacy=LOCAL)
    scales, random, hits = noise_scales(study), np.random.default_rng(8), 0
    lesions = 0
    there = {"dice": 0.3, "cases": 1.0, "found": 2.0, "missed": 0.5, "false": 0.5}
    each = {name: np.array([there[name.partition("/")[0]]]) for name in released(study)}
    for _ in range(200):
        sums = {name: 200 * value + random.normal(0, 1.2 * scales[name], 1) for name, value in each.items()}
        found = summarise(study, sums, noise=1.2)
        hits += found["dice_noise_low"] <= 0.8 <= found["dice_noise_high"]
        lesions += found["sensitivity_noise_low/b"] <= 0.8 <= found["sensitivity_noise_high/b"]
        assert "dice_low" not in found  # how patients differ is not summed
    assert min(hits, lesions) >= 182
    drowned = summarise(study, {name: 3 * value for name, value in each.items()}, noise=1.2)
    assert {"dice_undetermined", "dice_undetermined/b", "precision_undetermined/c"} <= set(drowned)
    assert not {"dice", "dice/b", "precision/c", "noise"} & set(drowned)


@given(
    cells=st.lists(st.floats(-1e7, 1e7, width=32), min_size=2 * CELLS, max_size=2 * CELLS),
    noise=st.floats(1e-3, 1e4),
)
@settings(max_examples=tries(25), deadline=None)
def test_whatever_the_counts_the_interval_holds_the_figure_and_lies_in_its_range(
    cells: list[float], noise: float
) -> None:
    found = summarise(STUDY, sums_of(*np.reshape(cells, (2, CELLS))), noise=noise)
    for name in ("auroc", "accuracy"):
        assert (name in found) != (f"{name}_undetermined" in found)
        for kind in ("", "noise_"):
            if name in found:
                assert 0 <= found[f"{name}_{kind}low"] <= found[name] <= found[f"{name}_{kind}high"] <= 1
    assert all(math.isfinite(value) for value in found.values())


def test_where_a_few_misjudged_patients_decide_the_interval_is_wide_enough_for_other_patients() -> None:
    """Scores far too sure, an AUROC of .99: DeLong's variance alone holds in 9 of 10 draws."""
    random, hits, apart = np.random.default_rng(9), 0, math.sqrt(2) * NormalDist().inv_cdf(0.99)
    chances = []
    for sign in (1, -1):
        middle = math.log(0.3 / 0.7) + sign * apart**2 / 2
        below = [NormalDist(2.5 * middle, 2.5 * apart).cdf(edge) for edge in EDGES]
        chances.append(np.diff([0.0, *below, 1.0]))
    truth = exact_area(*(1e6 * side for side in chances))
    assert truth is not None
    for _ in range(400):
        sides = random.multinomial(135, chances[0]), random.multinomial(315, chances[1])
        found = summarise(STUDY, sums_of(*(s + random.normal(0, 0.6, CELLS) for s in sides)), noise=0.6)
        hits += found["auroc_low"] <= truth.value <= found["auroc_high"]
    assert hits >= 374
