"""What privacy cost: computed from the noise alone and called so, and measured only where it was measured."""

from __future__ import annotations

from math import exp
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest

from made_results import made_result
from medveil.errors import BadFile, BadOption
from medveil_research.levels import Level, Measured, epsilons_of, ladder, noise_share, read_measured
from medveil_research.report.page import render
from medveil_research.results import Result


def sigma_of(epsilon: float, delta: float = 1e-5) -> float:
    """Noise of one Gaussian with that price: Balle and Wang, ICML 2018, theorem 8, by halving."""
    normal, low, high = NormalDist().cdf, 0.05, 100.0
    for _ in range(60):
        mu = 2 / (low + high)
        beyond = normal(mu / 2 - epsilon / mu) - exp(epsilon) * normal(-mu / 2 - epsilon / mu)
        low, high = ((low + high) / 2, high) if beyond > delta else (low, (low + high) / 2)
    return high


@pytest.mark.parametrize("epsilon", [8.0, 1.0])
def test_the_patients_that_make_up_for_more_noise_are_as_many_times_more_as_the_noise(epsilon: float) -> None:
    found = ladder(epsilon, 1e-5, patients=300, ratio=0.2, steps=200)
    for rung in found:
        expected = sigma_of(rung.epsilon) / sigma_of(epsilon)
        assert rung.factor == pytest.approx(expected, rel=2e-4)
        assert rung.patients == round(300 * rung.factor)
        assert rung.noise_to_signal == pytest.approx(0.2 * rung.factor)
    assert [rung.epsilon / epsilon for rung in found] == [2, 1, 0.5, 0.25, 0.125]
    assert found[1].factor == 1


def test_half_of_a_model_is_noise_where_noise_is_as_long_as_signal() -> None:
    assert noise_share(1.0) == 0.5
    assert noise_share(0.5) == pytest.approx(0.2)


def test_a_report_says_what_it_computed_and_from_what_and_calls_it_so() -> None:
    html = render(made_result("classification", epsilon=1.0))
    assert "Computed, not measured." in html
    factor = sigma_of(0.5) / sigma_of(1.0)
    assert f"{factor:.2f} times the patients" in html
    assert f"{round(300 * factor):,} at each hospital instead of 300" in html
    assert f"{factor**2:.1f} times the hospitals" in html
    for assumption in ("all else stays", "the most signal there can be", "More patients also teach more"):
        assert assumption in html


def test_without_the_number_of_patients_no_number_of_patients_is_named() -> None:
    result = made_result("classification", epsilon=1.0)
    facts = result.privacy.model_copy(update={"patients": None, "noise_to_signal": None})
    html = render(result.model_copy(update={"privacy": facts}))
    assert "is not known; that takes the number of training patients" in html
    assert "times the patients</b>; or" in html
    assert "at each hospital instead" not in html


def test_without_noise_there_is_no_price() -> None:
    html = render(made_result("classification", privacy="none"))
    assert "What this cost" not in html


def level(epsilon: float, value: float, less: float, **changes: Any) -> Level:
    return Level(
        noise="local",
        epsilon=epsilon,
        delta=1e-5,
        value=value,
        patients=(value - 0.02, value + 0.01),
        values=(value,),
        less=less,
        less_patients=(less - 0.01, less + 0.01),
        less_seeds=(less - 0.004, less + 0.004),
        **changes,
    )


def measured(*levels: Level) -> Measured:
    return Measured(
        figure="AUROC",
        higher_is_better=True,
        without=0.983,
        hospitals=3,
        train_patients=900,
        test_patients=442,
        seeds=4,
        made_up=False,
        levels=levels,
    )


def test_a_measured_curve_is_drawn_with_both_paired_intervals() -> None:
    curve = measured(level(8.0, 0.981, -0.002), level(1.0, 0.964, -0.019))
    html = render(made_result("classification", epsilon=1.0).model_copy(update={"measured": curve}))
    assert "AUROC with local noise: 0.964 at ε 1, 0.981 at ε 8" in html
    assert "was not told apart from that without noise at ε 8, 0.019 worse at ε 1" in html
    assert html.count(">ε 1</text>") == html.count(">ε 8</text>") == 1
    assert "-0.029 to -0.009" in html
    assert "-0.023 to -0.015" in html
    assert "Computed, not measured" not in html
    assert "joint noise, ε" not in html


def test_a_report_written_as_json_keeps_its_curve_and_one_without_has_none() -> None:
    result = made_result("classification")
    assert "measured" not in result.model_dump_json(exclude_unset=True)
    curve = result.model_copy(update={"measured": measured(level(8.0, 0.98, -0.003))})
    assert Result.model_validate_json(curve.model_dump_json(exclude_unset=True)) == curve


@pytest.mark.parametrize("text", ["8", "8,8", "8,x", "8,-1", "8,nan", "", "1,2,3,4,5,6,7,8,9"])
def test_epsilons_that_make_no_curve_are_refused(text: str) -> None:
    with pytest.raises(BadOption, match="--epsilons"):
        epsilons_of(text)


def test_epsilons_are_read_and_none_are_none() -> None:
    assert epsilons_of("8, 3,1") == (8.0, 3.0, 1.0)
    assert epsilons_of(None) == ()


def test_a_comparison_at_one_epsilon_is_no_curve(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text('{"name": "comparison"}')
    with pytest.raises(BadFile, match="measured"):
        read_measured(tmp_path / "comparison.json")
