"""Weights that fit the noise: how much less of it, and whose patients the model is made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medveil.errors import BadOption
from medveil.rounds import RoundKind
from medveil.study import SecureAggregation, Study
from medveil.tensors import Update
from medveil_research.cli import register
from medveil_research.mixture import Mixture, mixture_of
from medveil_research.studies import StudyOptions, new_study
from privacy.encoding import decode, params_for
from unmasked import encode

HOSPITALS = (300, 120, 60)
NOTHING = np.zeros(0, np.uint64)


def test_three_hospitals_by_hand() -> None:
    """Squares 90,000, 14,400 and 3,600: shares 5/6, 2/15 and 1/30; noise 480 / sqrt(3 * 108,000)."""
    mixture = Mixture(HOSPITALS)
    assert mixture.shares("declared") == pytest.approx((0.625, 0.25, 0.125))
    assert mixture.shares("squared") == pytest.approx((5 / 6, 2 / 15, 1 / 30))
    assert mixture.noise("declared") == pytest.approx(1.0)
    assert mixture.noise("squared") == pytest.approx(480 / math.sqrt(3 * 108_000))
    assert mixture.shift("squared") == pytest.approx(5 / 6 - 0.625)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.5, 2.5, 3.0])
def test_no_other_weights_leave_less_noise(power: float) -> None:
    patients = np.array([300.0, 120.0, 60.0, 20.0])
    weights = patients**power
    other = np.hypot.reduce(weights / patients) / weights.sum() * patients.sum() / 2
    assert Mixture((300, 120, 60, 20)).noise("squared") <= other


def study(weights: str) -> Study:
    return new_study(
        StudyOptions(
            name="films",
            task="classification",
            profile="xray",
            hospitals=3,
            patients_hint=200,
            weights=weights,  # type: ignore[arg-type]
            seed=0,
        )
    )[0]


def test_the_masked_sum_is_the_mean_by_squares_with_the_promised_noise() -> None:
    """Updates of pure noise, each divided by its hospital's patients, through the encoding of the plan."""
    chosen = study("squared")
    p = params_for(chosen, RoundKind.TRAIN, 3)
    draw, masked = np.random.default_rng(1), chosen.secure_aggregation
    updates = [np.float32(30 * draw.standard_normal(p.parameters) / n) for n in HOSPITALS]
    encoded = [
        encode(Update(values), p, weight=masked.weight_of(n), metrics=NOTHING, random_bytes=bytes)
        for values, n in zip(updates, HOSPITALS, strict=True)
    ]
    mean = decode(sum(encoded[1:], start=encoded[0]), p, hospitals=3, study=chosen).mean
    shares = Mixture(HOSPITALS).shares("squared")
    wanted = sum(share * values for share, values in zip(shares, updates, strict=True))
    rounding = 3 * p.clip / p.steps * p.max_weight / sum(n**2 for n in HOSPITALS)
    assert np.abs(mean - wanted).max() <= rounding < 0.05 * wanted.std()
    spread = float(wanted.std()) / (30 * math.sqrt(3) / sum(HOSPITALS))
    assert spread == pytest.approx(Mixture(HOSPITALS).noise("squared"), rel=0.05)


def test_the_plan_says_what_the_weights_do_and_refuses_other_numbers() -> None:
    asked = ["privacy", "plan", "--patients", "160", "--hospitals", "3", "--epsilon", "8"]
    app = typer.Typer()
    register(app)
    shown = CliRunner().invoke(app, [*asked, "--patients-each", "300,120,60"]).output
    assert "squared: 0.843 of the local noise; 20.8% of the model comes from other hospitals" in shown
    for wrong in ("300,120", "300,120,x", "300,120,0"):
        with pytest.raises(BadOption):
            mixture_of(wrong, 3)


def test_squares_cost_no_privacy() -> None:
    assert study("squared").privacy == study("declared").privacy
    assert SecureAggregation(update_clip=1.0, max_weight=46_340, weights="squared").largest_weight < 2**31
