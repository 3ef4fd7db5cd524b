"""Rounding takes nothing from the noise: computed laws of what is released, not samples of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr

from medveil.noise_policies import JointNoise
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.matched import Course, course_of
from privacy.dp.noise import normal
from privacy.joint_steps import COARSEST, FINE, adds_up, step_in_noise

Law = NDArray[np.float64]
EPSILONS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)


def rounded(mean: float, noise: float, half: int) -> Law:
    """Chances of rint(y + dither) from -half to half, for y normal; all in steps."""
    places = np.arange(-half, half + 1.0)

    def integral(at: Law) -> Law:  # of the normal distribution function
        z = (at - mean) / noise
        return noise * (z * ndtr(z) + np.exp(-z * z / 2) / np.sqrt(2 * np.pi))

    return np.clip(integral(places + 1) - 2 * integral(places) + integral(places - 1), 0, None)


def summed(means: list[float], noise: float, half: int) -> Law:
    """Chances of the sum over hospitals."""
    total = np.array([1.0])
    for mean in means:
        total = np.convolve(total, rounded(mean, noise, half))
    return total


def ideal(mu: float, epsilon: float) -> float:
    """delta(epsilon) of a Gaussian with signal over noise ``mu`` (Balle and Wang, 2018)."""
    return float(ndtr(mu / 2 - epsilon / mu) - np.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu))


def worst(step: float, hospitals: int) -> float:
    """Largest delta over the ideal one, for one patient's coordinate here or there, in any place of the grid.

    Args:
        step: of the encoding, in standard deviations of one hospital's noise.
    """
    found, noise = 0.0, 1 / step
    others = [0.13 * i for i in range(1, hospitals)]
    for mu in (0.1, 0.3, 1.0, 2.0):
        shift = mu * noise * np.sqrt(hospitals)
        half = int(12 * noise + shift) + 4
        for place in (0.0, 0.25, 0.5):
            without = summed([place, *others], noise, half)
            for sign in (1, -1):
                with_patient = summed([place + sign * shift, *others], noise, half)
                for a, b in ((without, with_patient), (with_patient, without)):
                    seen = a > 1e-14  # below, the computation itself is rounding
                    for epsilon in EPSILONS:
                        delta = np.clip(a - np.exp(epsilon) * b, 0, None)[seen].sum()
                        if ideal(mu, epsilon) > 1e-9:
                            found = max(found, float(delta) / ideal(mu, epsilon))
    return found


TELLING = {(FINE, 2), (1.0, 3), (COARSEST, 2), (COARSEST, 3)}


@pytest.mark.parametrize(
    ("step", "hospitals"),
    [
        pytest.param(step, hospitals, marks=[pytest.mark.slow] * ((step, hospitals) not in TELLING))
        for step in (0.05, FINE, 1.0, 2.0, COARSEST)
        for hospitals in (2, 3, 5, 30)
    ],
)
def test_the_sum_of_dithered_roundings_hides_a_patient_as_well_as_the_ideal_noise(
    step: float, hospitals: int
) -> None:
    assert worst(step, hospitals) <= 1.0


def test_coarser_steps_than_are_allowed_would_not() -> None:
    assert worst(4.0, 2) > 5


def test_the_law_of_a_rounding_is_that_of_the_encoder() -> None:
    draw = np.random.default_rng(0)
    values = np.rint(draw.normal(0.3, 1.4, 400_000) + draw.uniform(-0.5, 0.5, 400_000))
    law = rounded(0.3, 1.4, 9)
    seen = np.bincount(values.astype(int) + 9, minlength=19) / len(values)
    assert np.abs(seen - law).max() < 5 * np.sqrt(0.25 / len(values))
    assert law.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("hospitals", [3, 5, 10, 63, 64, 128])
@pytest.mark.parametrize("epsilon", [8.0, 1.0])
@pytest.mark.parametrize("patients", [None, 30, 3000])
def test_new_joint_studies_have_steps_as_fine_as_lanes_can_be(
    hospitals: int, epsilon: float, patients: int | None
) -> None:
    study, _ = new_study(
        StudyOptions(
            name="films",
            task="classification",
            profile="xray",
            privacy="joint",
            hospitals=hospitals,
            epsilon=epsilon,
            patients_hint=patients,
            anyway=True,
        )
    )
    assert isinstance(study.privacy, JointNoise)
    step = step_in_noise(
        study.training,
        study.privacy,
        study.secure_aggregation,
        hospitals=max(10, hospitals),
        course=course_of(study),
    )
    assert step <= FINE or (study.secure_aggregation.lane_bits == 32 and step <= COARSEST)
    assert adds_up(study, hospitals=hospitals)


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("linear", 1 / 60), ("cosine", 6.85e-4)])
def test_the_step_is_held_against_the_noise_of_the_last_round_whatever_the_schedule(
    schedule: str, last: float
) -> None:
    study, _ = new_study(
        StudyOptions(
            name="films",
            task="classification",
            profile="xray",
            privacy="joint",
            hospitals=5,
            matched=False,
            anyway=True,
        )
    )
    assert isinstance(study.privacy, JointNoise)
    steps = []
    for named in ("constant", schedule):
        training = study.training.model_copy(update={"schedule": named, "rounds": 60})
        steps.append(
            step_in_noise(
                training,
                study.privacy,
                study.secure_aggregation,
                hospitals=5,
                course=Course.of(training, study.strategy, mean_rounds=0),
            )
        )
    assert steps[0] / steps[1] == pytest.approx(last, rel=1e-3)


@pytest.mark.parametrize(
    ("grid", "most"),
    [
        pytest.param(2.0**-20 / 4.65, 1e-12, id="the grid of a step's noisy sum"),
        pytest.param(2.0**-20 / 0.3, 1e-13, id="the grid of noised figures"),
        pytest.param(0.05, 1e-17, id="the steps of the encoding"),
    ],
)
def test_the_noise_reaches_every_place_of_a_grid_but_with_a_chance_that_no_delta_sees(
    grid: float, most: float
) -> None:
    """Beyond the value where two neighbouring words lie a grid apart, places would be left out."""

    def value(word: int) -> float:
        return float(normal(np.array([word << 1], np.uint64))[0])

    least, enough = 0, 2**62
    while enough - least > 1:
        half = (least + enough) // 2
        least, enough = (half, enough) if value(half + 1) - value(half) > grid else (least, half)
    assert 2 * enough * 2.0**-64 < most
